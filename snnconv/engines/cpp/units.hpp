// Work on single units: the encoder, sums of branches, tallies.
#pragma once

namespace snnconv {
namespace {

constexpr int STRIP = 64;  // units with several branches worked on at a time
constexpr int SUMS = PATCHES;  // vectors of sums that the encoder's inner loop keeps

// What the taps see from one position, zeros beyond the border.
inline void gather(const Encoder &e, const float *pixels, int32_t y, int32_t x, float *patch) {
    const int32_t left = x * e.stride_x - e.left, across = e.kernel_width * e.channels;
    for (int32_t ky = 0; ky < e.kernel_height; ky++, patch += across) {
        const int32_t row = y * e.stride_y + ky - e.top;
        const bool inside = row >= 0 && row < e.height;
        if (inside && left >= 0 && left + e.kernel_width <= e.width) {
            std::memcpy(patch, pixels + (int64_t{row} * e.width + left) * e.channels, across * sizeof(float));
            continue;
        }
        for (int32_t kx = 0; kx < e.kernel_width; kx++)
            for (int32_t c = 0; c < e.channels; c++) {
                const int32_t column = left + kx;
                const bool there = inside && column >= 0 && column < e.width;
                patch[kx * e.channels + c] = there ? pixels[(int64_t{row} * e.width + column) * e.channels + c] : 0.0f;
            }
    }
}

// Values in float32 of `vectors` vectors of output channels, for SUMS / vectors patches that lie one behind the other.
template <class Floats, int vectors>
void values(const Encoder &e, const float *patches, int32_t taps, int32_t first, Floats (*z)[vectors]) {
    constexpr int lanes = sizeof(Floats) / sizeof(float), pixels = SUMS / vectors;
    Floats sums[pixels][vectors];
    for (int i = 0; i < vectors; i++)
        for (int p = 0; p < pixels; p++) sums[p][i] = load<Floats>(e.shift + first + i * lanes);
    const float *weights = e.folded + first;
    for (int32_t tap = 0; tap < taps; tap++, weights += e.padded_channels)
        for (int i = 0; i < vectors; i++) {
            const Floats weight = load<Floats>(weights + i * lanes);
            for (int p = 0; p < pixels; p++) sums[p][i] += patches[p * taps + tap] * weight;
        }
    std::memcpy(z, sums, sizeof sums);
}

// Count of one unit, decided in float64: scale * potential / divisor + offset against the grid.
inline int8_t decide(const Encoder &e, const float *patch, int32_t taps, int32_t channel) {
    double potential = 0;
    for (int32_t tap = 0; tap < taps; tap++)
        potential += patch[tap] * e.weights[int64_t{tap} * e.padded_channels + channel];
    const double z = e.scale[channel] * potential / e.divisor + e.offset[channel];
    int32_t fired = -e.negative;
    for (int32_t level = 0; level < e.levels; level++)
        fired += e.closed[level] ? z >= e.boundaries[level] : z > e.boundaries[level];
    return static_cast<int8_t>(fired);
}

// Counts of a vector of output channels from their values; again in float64 where one lies as near to a boundary as the
// rounding in float32 may reach, or is no number.
template <class Isa>
void decide_all(const Encoder &e, Vector<float, Isa::width / 4> z, const float *patch, int32_t taps, int32_t first,
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
            if (near[i]) fired[i] = decide(e, patch, taps, first + i);
    std::memcpy(counts + first, fired, number);
}

// The encoder with `vectors` vectors of output channels at a time.
template <class Isa, int vectors>
void encode_strips(const Encoder &e, const float *pixels, float *patches, int8_t *counts, int64_t images) {
    using Floats = Vector<float, Isa::width / 4>;
    constexpr int lanes = Isa::width / 4, together = SUMS / vectors;
    const int32_t taps = e.kernel_height * e.kernel_width * e.channels;
    const int64_t size = int64_t{e.height} * e.width * e.channels;
    for (int64_t image = 0; image < images; image++, pixels += size) {
        float largest = 0;
        for (int64_t i = 0; i < size; i++) {
            const float magnitude = pixels[i] < 0 ? -pixels[i] : pixels[i];
            largest = magnitude > largest ? magnitude : largest;
        }
        for (int32_t y = 0; y < e.out_height; y++)
            for (int32_t x = 0; x < e.out_width; x += together) {
                const int32_t some = e.out_width - x < together ? e.out_width - x : together;
                for (int32_t p = 0; p < some; p++) gather(e, pixels, y, x + p, patches + p * taps);
                for (int32_t first = 0; first < e.out_channels; first += vectors * lanes) {
                    Floats z[together][vectors];
                    values<Floats, vectors>(e, patches, taps, first, z);
                    for (int32_t p = 0; p < some; p++)
                        for (int i = 0; i < vectors && first + i * lanes < e.out_channels; i++)
                            decide_all<Isa>(e, z[p][i], patches + p * taps, taps, first + i * lanes, largest,
                                            counts + p * e.out_channels);
                }
                counts += some * e.out_channels;
            }
    }
}

template <class Isa>
void encode(const Encoder &e, const float *pixels, float *patches, int8_t *counts, int64_t images) {
    constexpr int lanes = Isa::width / 4;
    if (e.out_channels <= lanes) return encode_strips<Isa, 1>(e, pixels, patches, counts, images);
    if (e.out_channels <= 2 * lanes) return encode_strips<Isa, 2>(e, pixels, patches, counts, images);
    encode_strips<Isa, 4>(e, pixels, patches, counts, images);
}

// Count of each unit with several branches: Z = sum of multiplier * value + constant, against 64-bit thresholds.
template <class Isa>
void combine(const Addend *addends, int32_t number, const int64_t *constant, const int64_t *thresholds, int32_t levels,
             int32_t negative, int32_t channels, int64_t positions, int8_t *counts) {
    for (int64_t position = 0; position < positions; position++)
        for (int32_t first = 0; first < channels; first += STRIP) {
            const int32_t some = channels - first < STRIP ? channels - first : STRIP;
            const int64_t place = position * channels + first;
            int64_t z[STRIP], fired[STRIP];
            for (int32_t i = 0; i < some; i++) {
                z[i] = constant[first + i];
                fired[i] = -negative;
            }
            for (int32_t a = 0; a < number; a++) {
                const int64_t *multipliers = addends[a].multipliers + first;
                if (addends[a].bytes == 1) {
                    const int8_t *values = static_cast<const int8_t *>(addends[a].values) + place;
                    for (int32_t i = 0; i < some; i++) z[i] += multipliers[i] * values[i];
                } else {
                    const int16_t *values = static_cast<const int16_t *>(addends[a].values) + place;
                    for (int32_t i = 0; i < some; i++) z[i] += multipliers[i] * values[i];
                }
            }
            for (int32_t level = 0; level < levels; level++)
                for (int32_t i = 0; i < some; i++) fired[i] += z[i] >= thresholds[int64_t{level} * channels + first + i];
            for (int32_t i = 0; i < some; i++) counts[place + i] = static_cast<int8_t>(fired[i]);
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
