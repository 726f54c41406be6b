// What the kernels share: plain records and the table of functions that each instruction set fills.
#pragma once
#include <cstdint>

namespace snnconv {

constexpr int LONGEST_RUN = 9;  // slots that are added to at once
constexpr int BYTE = 127;       // largest sum of a segment
constexpr int TALLIED = 256;   // units that a tally works on at a time
constexpr int NEIGHBOURS = 8;  // positions that the encoder works on at a time, at most

// A convolution's shape. Counts come in as int8 (n, height, width, channels), those of a dense layer as height = width
// = 1. `low .. high` bounds the incoming counts, `levels` and `negative` are those of the layer's own grid.
struct Geometry {
    int32_t height, width, channels, out_height, out_width, out_channels;
    int32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left, groups;
    int32_t low, high, levels, negative;
};

// Two neighbouring counts of which at least one is not zero: which pair of channels, and where its table begins.
struct Entry {
    uint16_t pair, table;
};

// Neighbouring slots (taps of output blocks) that one pixel feeds: the first one in its slot group, how many, and
// where in `targets` their output positions stand.
struct Run {
    int32_t pixel, slot, length, targets;
};

// Slots whose weights are used together, few enough that these stay in the first cache.
struct SlotGroup {
    int32_t slots, channel_group;
    int64_t weights, runs, end_of_runs;
};

// A layer made ready: weights as codes of sign pairs, in the order in which they are read.
struct Plan {
    Geometry shape;
    int32_t pairs;       // of input channels, a channel group
    int32_t blocks;      // of output channels, a channel group
    int32_t span;        // number of values a count can take
    int32_t flush;       // entries whose sums fit into a byte, whatever the counts
    int32_t chunk;       // images worked on at a time
    int32_t list_room, segment_room;  // entries and segments that one list may take
    int32_t slot_groups_number;
    const int32_t *order;         // channel that is read at each place; null: as they come
    const int8_t *tables;         // for each pair of counts its sums with the nine sign pairs, 16 bytes
    const uint8_t *weights;       // slot group, pair, slot, output channel
    const SlotGroup *slot_groups;
    const Run *runs;
    const int32_t *targets;       // block and output position, block * positions + position
    const int16_t *thresholds;    // block, level, output channel: a level fires above it; null: potentials go out
};

// Working memory of one call.
struct Scratch {
    Entry *entries;
    uint16_t *ends;      // of segments
    int32_t *segments;   // of each list
    int16_t *sums;       // image, block, output position, output channel
    int8_t *ordered;
};

// A float convolution with a ladder: the encoder. What has an entry a channel is padded to a multiple of 64 channels.
struct Encoder {
    int32_t height, width, channels, out_height, out_width, out_channels, padded_channels;
    int32_t kernel_height, kernel_width, stride_y, stride_x, top, left, levels, negative;
    double divisor;
    const double *weights;     // kernel row, kernel column, channel, output channel
    const double *scale;       // output channel
    const double *offset;      // output channel
    const double *boundaries;  // level
    const uint8_t *closed;     // level
    const float *folded;       // weights * scale / divisor
    const float *shift;        // offset
    const float *limits;       // boundaries
    const float *error_slope;  // output channel: what float32 may be off, for each unit of the largest input
    const float *error_shift;  // output channel: and whatever the input
};

// An image inside zeros, wherever the encoder's taps fall: rows of whole groups of neighbouring positions.
struct Bordered {
    int32_t height, width;
    explicit Bordered(const Encoder &e)
        : height((e.out_height - 1) * e.stride_y + e.kernel_height),
          width(((e.out_width + NEIGHBOURS - 1) / NEIGHBOURS * NEIGHBOURS - 1) * e.stride_x + e.kernel_width) {}
};

// Units with several branches; what has an entry a channel is padded to a multiple of 8 channels.
struct Sum {
    int32_t channels, padded_channels, addends, levels, negative;
    const double *constant;    // channel
    const double *thresholds;  // level, channel
};

// One branch of a sum: its counts (int8) or potentials (int16, or integers in float), and a multiplier a channel.
struct Addend {
    const void *values;
    const double *multipliers;
    int32_t bytes;
};

struct Kernels {
    const char *name;
    int32_t width;
    void (*convolve)(const Plan &, const Scratch &, const int8_t *counts, void *out, int64_t images);
    void (*encode)(const Encoder &, const float *pixels, float *bordered, int8_t *counts, int64_t images);
    void (*combine)(const Sum &, const Addend *, int64_t positions, int8_t *counts);
    void (*tally)(const int8_t *counts, int64_t images, int64_t units, int64_t first, int64_t room, const int32_t *maps,
                  int64_t number, const bool *wanted, int64_t *totals);
    void (*remove_spikes)(const int8_t *counts, int8_t *out, const int64_t *images, int64_t number, int64_t channels,
                          int64_t positions, uint64_t key, uint64_t bound, int32_t positive);
};

extern const Kernels baseline;
#if defined(__x86_64__)
extern const Kernels avx2;
extern const Kernels avx512;
#endif
#if defined(__aarch64__)
extern const Kernels neon;
#endif

}  // namespace snnconv
