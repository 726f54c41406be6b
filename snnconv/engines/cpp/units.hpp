// Work on single units: the encoder, sums of branches, tallies.
#pragma once

namespace snnconv {
namespace {

constexpr int STRIP = 64;  // output channels, or units, worked on at a time

// What the taps see from one position, zeros beyond the border.
inline void gather(const Encoder &e, const float *pixels, int32_t y, int32_t x, float *patch) {
    for (int32_t ky = 0; ky < e.kernel_height; ky++)
        for (int32_t kx = 0; kx < e.kernel_width; kx++, patch += e.channels) {
            const int32_t row = y * e.stride_y + ky - e.top, column = x * e.stride_x + kx - e.left;
            const bool inside = row >= 0 && row < e.height && column >= 0 && column < e.width;
            const float *from = pixels + (int64_t{row} * e.width + column) * e.channels;
            for (int32_t c = 0; c < e.channels; c++) patch[c] = inside ? from[c] : 0.0f;
        }
}

// Values in float32 of `Isa::width` output channels, for two patches that lie one behind the other.
template <class Isa>
void values(const Encoder &e, const float *patches, int32_t taps, int32_t first, Vector<float, Isa::width / 4> (*z)[4]) {
    constexpr int lanes = Isa::width / 4;
    using Floats = Vector<float, lanes>;
    Floats left[4], right[4];
    for (int i = 0; i < 4; i++) left[i] = right[i] = load<Floats>(e.shift + first + i * lanes);
    const float *weights = e.folded + first;
    for (int32_t tap = 0; tap < taps; tap++, weights += e.padded_channels)
        for (int i = 0; i < 4; i++) {
            const Floats weight = load<Floats>(weights + i * lanes);
            left[i] += patches[tap] * weight;
            right[i] += patches[taps + tap] * weight;
        }
    std::memcpy(z[0], left, sizeof left);
    std::memcpy(z[1], right, sizeof right);
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

// Counts of `Isa::width` output channels from their values; again in float64 where one lies as near to a boundary as
// the rounding in float32 may reach, or is no number.
template <class Isa>
void decide_all(const Encoder &e, const Vector<float, Isa::width / 4> *values, const float *patch, int32_t taps,
                int32_t first, float largest, int8_t *counts) {
    constexpr int strip = Isa::width, lanes = Isa::width / 4;
    using Floats = Vector<float, lanes>;
    using Masks = Vector<int32_t, lanes>;
    int8_t fired[strip];
    int32_t near[strip];
    Masks any = {};
    for (int i = 0; i < 4; i++) {
        const int32_t channel = first + i * lanes;
        const Floats z = values[i];
        const Floats error = load<Floats>(e.error_slope + channel) * largest + load<Floats>(e.error_shift + channel);
        Floats nearest = error + 1.0f;
        Masks sum = fill<Masks>(-e.negative);
        for (int32_t level = 0; level < e.levels; level++) {
            const Floats over = z - e.limits[level];
            const Floats distance = over < Floats{} ? -over : over;
            nearest = distance < nearest ? distance : nearest;
            sum -= over >= Floats{};
        }
        const Masks close = ~(nearest > error) | (z != z);
        any |= close;
        store(near + i * lanes, close);
        Isa::narrow(sum, fired + i * lanes);
    }
    const int32_t number = e.out_channels - first < strip ? e.out_channels - first : strip;
    int32_t some = 0;
    for (int lane = 0; lane < lanes; lane++) some |= any[lane];
    if (some)
        for (int32_t i = 0; i < number; i++)
            if (near[i]) fired[i] = decide(e, patch, taps, first + i);
    std::memcpy(counts + first, fired, number);
}

template <class Isa>
void encode(const Encoder &e, const float *pixels, float *patches, int8_t *counts, int64_t images) {
    const int32_t taps = e.kernel_height * e.kernel_width * e.channels;
    const int64_t size = int64_t{e.height} * e.width * e.channels;
    for (int64_t image = 0; image < images; image++, pixels += size) {
        float largest = 0;
        for (int64_t i = 0; i < size; i++) {
            const float magnitude = pixels[i] < 0 ? -pixels[i] : pixels[i];
            largest = magnitude > largest ? magnitude : largest;
        }
        for (int32_t y = 0; y < e.out_height; y++)
            for (int32_t x = 0; x < e.out_width; x += 2) {
                const int32_t both = x + 1 < e.out_width ? 2 : 1;
                for (int32_t i = 0; i < both; i++) gather(e, pixels, y, x + i, patches + i * taps);
                for (int32_t first = 0; first < e.out_channels; first += Isa::width) {
                    Vector<float, Isa::width / 4> z[2][4];
                    values<Isa>(e, patches, taps, first, z);
                    for (int32_t i = 0; i < both; i++)
                        decide_all<Isa>(e, z[i], patches + i * taps, taps, first, largest, counts + i * e.out_channels);
                }
                counts += both * e.out_channels;
            }
    }
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

// Sums over the images at each unit: |count| and, where there is a place for them, counts other than 0, counts above 0.
template <class Isa>
void tally(const int8_t *counts, int64_t images, int64_t units, int32_t *spikes, int32_t *events, int32_t *positive) {
    using Bytes = Vector<int8_t, Isa::width>;
    using Words = Vector<uint16_t, Isa::width / 2>;
    constexpr int half = Isa::width / 2;
    for (int64_t first = 0; first < units; first += Isa::width) {
        const int64_t some = units - first < Isa::width ? units - first : Isa::width;
        for (int64_t start = 0; start < images; start += 256) {  // 256 counts of at most 127 fit into 16 bits
            const int64_t stop = images - start < 256 ? images : start + 256;
            Words sums[3][2] = {};
            for (int64_t image = start; image < stop; image++) {
                int8_t padded[Isa::width] = {};
                const int8_t *from = counts + image * units + first;
                if (some < Isa::width) {
                    std::memcpy(padded, from, some);
                    from = padded;
                }
                const Bytes count = load<Bytes>(from), none = {};
                const Bytes kinds[3] = {count < none ? -count : count, (count != none) & 1, count > none ? count : none};
                for (int kind = 0; kind < 3; kind++)
                    if (kind == 0 || (kind == 1 ? events : positive)) {
                        int8_t bytes[Isa::width];
                        store(bytes, kinds[kind]);
                        for (int part = 0; part < 2; part++)
                            sums[kind][part] +=
                                __builtin_convertvector(load<Vector<int8_t, half>>(bytes + part * half), Words);
                    }
            }
            int32_t *const places[3] = {spikes, events, positive};
            for (int kind = 0; kind < 3; kind++)
                if (places[kind])
                    for (int64_t i = 0; i < some; i++) places[kind][first + i] += sums[kind][i / half][i % half];
        }
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
