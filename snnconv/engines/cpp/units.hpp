// Work on single units: the encoder, sums of branches, tallies.
#pragma once

namespace snnconv {
namespace {

constexpr int DOUBLES = 8;  // units with several branches worked on at a time
using Doubles = Vector<double, DOUBLES>;
constexpr int SUMS = NEIGHBOURS;  // vectors of sums that the encoder's inner loop keeps

// The image inside its border of zeros, which is there already and stays.
inline void border(const Encoder &e, const Bordered &size, const float *pixels, float *image) {
    const int32_t from = e.left < 0 ? -e.left : 0, at = e.left < 0 ? 0 : e.left;
    const int32_t seen = e.width - from < size.width - at ? e.width - from : size.width - at;
    if (seen <= 0) return;
    for (int32_t y = 0; y < size.height; y++) {
        const int32_t row = y - e.top;
        if (row >= 0 && row < e.height)
            std::memcpy(image + (int64_t{y} * size.width + at) * e.channels,
                        pixels + (int64_t{row} * e.width + from) * e.channels, int64_t{seen} * e.channels * sizeof(float));
    }
}

// Values in float32 of `vectors` vectors of output channels, at SUMS / vectors neighbouring positions of the output.
// `corner` is what the first tap of the first position sees, `line` the length of a row.
template <class Floats, int vectors>
void values(const Encoder &e, const float *corner, int64_t line, int32_t first, Floats (*z)[vectors]) {
    constexpr int lanes = sizeof(Floats) / sizeof(float), positions = SUMS / vectors;
    Floats sums[positions][vectors];
    for (int i = 0; i < vectors; i++)
        for (int p = 0; p < positions; p++) sums[p][i] = load<Floats>(e.shift + first + i * lanes);
    const float *weights = e.folded + first;
    const int32_t across = e.kernel_width * e.channels, step = e.stride_x * e.channels;
    for (int32_t ky = 0; ky < e.kernel_height; ky++, corner += line)
        for (int32_t tap = 0; tap < across; tap++, weights += e.padded_channels)
            for (int i = 0; i < vectors; i++) {
                const Floats weight = load<Floats>(weights + i * lanes);
                for (int p = 0; p < positions; p++) sums[p][i] += corner[p * step + tap] * weight;
            }
    std::memcpy(z, sums, sizeof sums);
}

// Count of one unit, decided in float64: scale * potential / divisor + offset against the grid.
inline int8_t decide(const Encoder &e, const float *corner, int64_t line, int32_t channel) {
    double potential = 0;
    const double *weight = e.weights + channel;
    for (int32_t ky = 0; ky < e.kernel_height; ky++, corner += line)
        for (int32_t tap = 0; tap < e.kernel_width * e.channels; tap++, weight += e.padded_channels)
            potential += corner[tap] * *weight;
    const double z = e.scale[channel] * potential / e.divisor + e.offset[channel];
    int32_t fired = -e.negative;
    for (int32_t level = 0; level < e.levels; level++)
        fired += e.closed[level] ? z >= e.boundaries[level] : z > e.boundaries[level];
    return static_cast<int8_t>(fired);
}

// Counts of a vector of output channels from their values; again in float64 where one lies as near to a boundary as the
// rounding in float32 may reach, or is no number.
template <class Isa>
void decide_all(const Encoder &e, Vector<float, Isa::width / 4> z, const float *corner, int64_t line, int32_t first,
                float largest, int8_t *counts) {
    constexpr int lanes = Isa::width / 4;
    using Floats = Vector<float, lanes>;
    using Masks = Vector<int32_t, lanes>;
    const Floats error = load<Floats>(e.error_slope + first) * largest + load<Floats>(e.error_shift + first);
    Floats nearest = error + 1.0f;
    Masks sum = fill<Masks>(-e.negative);
    for (int32_t level = 0; level < e.levels; level++) {
        const Floats over = z - e.limits[level];
        const Floats distance = over < Floats{} ? -over : over;
        nearest = distance < nearest ? distance : nearest;
        sum -= over >= Floats{};
    }
    const Masks near = ~(nearest > error) | (z != z);
    int8_t fired[lanes];
    Isa::narrow(sum, fired);
    const int32_t number = e.out_channels - first < lanes ? e.out_channels - first : lanes;
    int32_t some = 0;
    for (int lane = 0; lane < lanes; lane++) some |= near[lane];
    if (some)
        for (int32_t i = 0; i < number; i++)
            if (near[i]) fired[i] = decide(e, corner, line, first + i);
    if (number == lanes)
        std::memcpy(counts + first, fired, lanes);
    else
        std::memcpy(counts + first, fired, number);
}

// Largest magnitude among numbers.
template <class Floats>
float largest_of(const float *numbers, int64_t size) {
    constexpr int lanes = sizeof(Floats) / sizeof(float);
    Floats most{};
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        const Floats some = load<Floats>(numbers + i), magnitude = some < Floats{} ? -some : some;
        most = magnitude > most ? magnitude : most;
    }
    float largest = 0;
    for (int lane = 0; lane < lanes; lane++) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < size; i++) {
        const float magnitude = numbers[i] < 0 ? -numbers[i] : numbers[i];
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

// The encoder with `vectors` vectors of output channels at a time.
template <class Isa, int vectors>
void encode_strips(const Encoder &e, const float *pixels, float *bordered, int8_t *counts, int64_t images) {
    using Floats = Vector<float, Isa::width / 4>;
    constexpr int lanes = Isa::width / 4, together = SUMS / vectors;
    const Bordered around(e);
    const int64_t size = int64_t{e.height} * e.width * e.channels, line = int64_t{around.width} * e.channels;
    const int64_t step = int64_t{e.stride_x} * e.channels;
    for (int64_t image = 0; image < images; image++, pixels += size) {
        border(e, around, pixels, bordered);
        const float largest = largest_of<Floats>(pixels, size);
        for (int32_t y = 0; y < e.out_height; y++)
            for (int32_t x = 0; x < e.out_width; x += together) {
                const int32_t some = e.out_width - x < together ? e.out_width - x : together;
                const float *corner = bordered + y * e.stride_y * line + x * step;
                for (int32_t first = 0; first < e.out_channels; first += vectors * lanes) {
                    Floats z[together][vectors];
                    values<Floats, vectors>(e, corner, line, first, z);
                    for (int32_t p = 0; p < some; p++)
                        for (int i = 0; i < vectors && first + i * lanes < e.out_channels; i++)
                            decide_all<Isa>(e, z[p][i], corner + p * step, line, first + i * lanes, largest,
                                            counts + p * e.out_channels);
                }
                counts += some * e.out_channels;
            }
    }
}

template <class Isa>
void encode(const Encoder &e, const float *pixels, float *bordered, int8_t *counts, int64_t images) {
    constexpr int lanes = Isa::width / 4;
    if (e.out_channels <= lanes) return encode_strips<Isa, 1>(e, pixels, bordered, counts, images);
    if (e.out_channels <= 2 * lanes) return encode_strips<Isa, 2>(e, pixels, bordered, counts, images);
    encode_strips<Isa, 4>(e, pixels, bordered, counts, images);
}

// Integers of a row from some channel on, of up to 24 bits, as doubles; zeros beyond its end.
template <class Number>
inline Doubles widened(const void *row, int64_t place, int32_t some) {
    using Numbers = Vector<Number, DOUBLES>;
    Numbers numbers{};
    const Number *from = static_cast<const Number *>(row) + place;
    if (some >= DOUBLES)
        numbers = load<Numbers>(from);
    else
        std::memcpy(&numbers, from, some * sizeof(Number));
    return __builtin_convertvector(__builtin_convertvector(numbers, Vector<int32_t, DOUBLES>), Doubles);
}

// Count of each unit with several branches: Z = sum of multiplier * value + constant, against its thresholds. All are
// integers of at most 53 bits, and so is each partial sum: doubles hold them exactly.
template <class Isa>
void combine(const Sum &sum, const Addend *addends, int64_t positions, int8_t *counts) {
    using Masks = Vector<int64_t, DOUBLES>;
    for (int64_t place = 0; place < positions * sum.channels; place += sum.channels)
        for (int32_t first = 0; first < sum.channels; first += DOUBLES) {
            const int32_t some = sum.channels - first;
            Doubles z = load<Doubles>(sum.constant + first);
            for (int32_t a = 0; a < sum.addends; a++) {
                const void *row = addends[a].values;
                z += load<Doubles>(addends[a].multipliers + first) *
                     (addends[a].bytes == 1   ? widened<int8_t>(row, place + first, some)
                      : addends[a].bytes == 2 ? widened<int16_t>(row, place + first, some)
                                              : widened<float>(row, place + first, some));
            }
            Masks fired = fill<Masks>(-sum.negative);
            const double *threshold = sum.thresholds + first;
            for (int32_t level = 0; level < sum.levels; level++, threshold += sum.padded_channels)
                fired -= z >= load<Doubles>(threshold);
            const auto bytes = __builtin_convertvector(fired, Vector<int8_t, DOUBLES>);
            if (some >= DOUBLES)
                store(counts + place + first, bytes);
            else
                std::memcpy(counts + place + first, &bytes, some);
        }
}

// Over a strip of units and all images, add to `totals` for each map the sums of |count| * map and, where wanted, of
// [count != 0] * map and max(count, 0) * map: (kind, map). `room` images' counts fit into a byte.
template <class Isa>
void tally(const int8_t *counts, int64_t images, int64_t units, int64_t first, int64_t room, const int32_t *maps,
           int64_t number, const bool *wanted, int64_t *totals) {
    using Bytes = Vector<uint8_t, Isa::width>;
    using Signed = Vector<int8_t, Isa::width>;
    constexpr int vectors = TALLIED / Isa::width;
    const int64_t some = units - first < TALLIED ? units - first : TALLIED;
    int32_t sums[3][TALLIED] = {};
    int8_t padded[TALLIED] = {};
    for (int64_t start = 0; start < images; start += room) {
        const int64_t stop = images - start < room ? images : start + room;
        Bytes bytes[3][vectors] = {};
        for (int64_t image = start; image < stop; image++) {
            const int8_t *from = counts + image * units + first;
            if (some < TALLIED) from = static_cast<const int8_t *>(std::memcpy(padded, from, some));
            for (int v = 0; v < vectors; v++) {
                const Signed count = load<Signed>(from + v * Isa::width), none = {};
                bytes[0][v] += reinterpret_cast<Bytes>(count < none ? -count : count);
                if (wanted[1]) bytes[1][v] -= reinterpret_cast<Bytes>(count != none);
                if (wanted[2]) bytes[2][v] += reinterpret_cast<Bytes>(count > none ? count : none);
            }
        }
        uint8_t stored[3][TALLIED];
        std::memcpy(stored, bytes, sizeof stored);
        for (int kind = 0; kind < 3; kind++)
            for (int i = 0; i < TALLIED; i++) sums[kind][i] += stored[kind][i];
    }
    for (int kind = 0; kind < 3; kind++)
        for (int64_t map = 0; wanted[kind] && map < number; map++) {
            int64_t total = 0;
            for (int64_t i = 0; i < some; i++) total += int64_t{sums[kind][i]} * maps[map * units + first + i];
            totals[kind * number + map] += total;
        }
}

// Word of the counter-based generator SplitMix64 (Steele, Lea, Flood 2014) at a place.
inline uint64_t draw(uint64_t key, uint64_t place) {
    uint64_t z = place * 0x9E3779B97F4A7C15u + key;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// Counts after each spike was lost with probability bound / 2^32. A unit's draws are at the places of its number in its
// image, channel by channel; threshold neurons of the negative side are numbered behind the `positive` ones.
template <class Isa>
void remove_spikes(const int8_t *counts, int8_t *out, const int64_t *images, int64_t number, int64_t channels,
                   int64_t positions, uint64_t key, uint64_t bound, int32_t positive) {
    for (int64_t image = 0; image < number; image++) {
        const uint64_t start = static_cast<uint64_t>(images[image]) * static_cast<uint64_t>(channels * positions);
        for (int64_t position = 0; position < positions; position++)
            for (int64_t channel = 0; channel < channels; channel++, counts++, out++) {
                const int32_t count = *counts, size = count < 0 ? -count : count;
                const uint64_t unit = (start + static_cast<uint64_t>(channel * positions + position)) << 8;
                int32_t kept = 0;
                for (int32_t level = 0; level < size; level++) {
                    const uint64_t neuron = static_cast<uint64_t>(level + (count < 0 ? positive : 0));
                    const uint64_t word = draw(key, unit + neuron / 2);
                    kept += (neuron % 2 ? word >> 32 : word & 0xFFFFFFFFu) >= bound;
                }
                *out = static_cast<int8_t>(count < 0 ? -kept : kept);
            }
    }
}

}  // namespace
}  // namespace snnconv
