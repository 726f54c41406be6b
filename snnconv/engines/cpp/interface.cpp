// The C interface: plans are built here, calls are passed to the best instruction set of the processor.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels.h"
#include "team.hpp"

using namespace snnconv;

namespace {

constexpr int32_t FIRST_CACHE = 40 * 1024;  // bytes of weights used together
constexpr int32_t POSITIONS = 64;           // output positions that share weights, at least
constexpr int64_t SPILL = 32;                // entries that listing may write behind a list, where later ones go
constexpr int64_t LISTS = 2 * 1024 * 1024;  // bytes of lists that a thread keeps, where one image needs no more
constexpr int32_t PARTS = 4;                  // a thread

// Bytes that begin where a cache line does, so that no load crosses two.
template <class T>
class Aligned {
public:
    void push_back(T value) { values.push_back(value); }
    int64_t size() const { return static_cast<int64_t>(values.size()); }
    // Where the values begin; nothing may be added afterwards.
    const T *settle() {
        const auto number = values.size();
        values.resize(number + 64);
        T *start = values.data() + (64 - reinterpret_cast<uintptr_t>(values.data()) % 64) % 64;
        std::memmove(start, values.data(), number);
        return start;
    }

private:
    static_assert(sizeof(T) == 1, "offsets are counted in bytes");
    std::vector<T> values;
};

struct Layer {
    Plan plan;
    const Kernels *kernels;
    std::vector<int32_t> order, targets;
    Aligned<int8_t> tables;
    Aligned<uint8_t> weights;
    std::vector<SlotGroup> slot_groups;
    std::vector<Run> runs;
    std::vector<int16_t> thresholds;
};

struct Slot {
    int32_t block, ky, kx;
};

int32_t remainder(int32_t value, int32_t divisor) { return ((value % divisor) + divisor) % divisor; }

// Slots of a channel group in the order of their weights: taps that meet the same pixels of a strided image first.
std::vector<Slot> ordered_slots(const Geometry &g, int32_t blocks) {
    std::vector<Slot> slots;
    for (int32_t py = 0; py < g.stride_y; py++)
        for (int32_t px = 0; px < g.stride_x; px++)
            for (int32_t block = 0; block < blocks; block++)
                for (int32_t ky = 0; ky < g.kernel_height; ky++)
                    for (int32_t kx = 0; kx < g.kernel_width; kx++)
                        if (remainder(ky * g.dilation_y - g.top, g.stride_y) == py &&
                            remainder(kx * g.dilation_x - g.left, g.stride_x) == px)
                            slots.push_back({block, ky, kx});
    return slots;
}

// Output position that a slot adds to when pixel (y, x) fires; -1 outside the image.
int32_t target(const Geometry &g, const Slot &slot, int32_t y, int32_t x) {
    const int32_t down = y + g.top - slot.ky * g.dilation_y, right = x + g.left - slot.kx * g.dilation_x;
    if (down < 0 || right < 0 || down % g.stride_y || right % g.stride_x) return -1;
    const int32_t row = down / g.stride_y, column = right / g.stride_x;
    return row < g.out_height && column < g.out_width ? row * g.out_width + column : -1;
}

void add_runs(Layer &layer, const std::vector<Slot> &slots, int32_t first, int32_t number, int32_t group) {
    const Geometry &g = layer.plan.shape;
    const int32_t positions = g.out_height * g.out_width;
    for (int32_t y = 0; y < g.height; y++)
        for (int32_t x = 0; x < g.width; x++) {
            bool open = false;
            for (int32_t place = 0; place < number; place++) {
                const Slot &slot = slots[first + place];
                const int32_t position = target(g, slot, y, x);
                if (position < 0) {
                    open = false;
                    continue;
                }
                if (!open) layer.runs.push_back({y * g.width + x, place, 0, static_cast<int32_t>(layer.targets.size())});
                open = true;
                layer.runs.back().length++;
                layer.targets.push_back((group * layer.plan.blocks + slot.block) * positions + position);
            }
        }
}

// Codes of a slot group's sign pairs; channels beyond the last weigh nothing.
void add_weights(Layer &layer, const int8_t *codes, const std::vector<Slot> &slots, int32_t first, int32_t number,
                 int32_t group) {
    const Geometry &g = layer.plan.shape;
    const int32_t inputs = g.channels / g.groups, outputs = g.out_channels / g.groups, width = layer.kernels->width;
    const auto code = [&](const Slot &slot, int32_t output, int32_t input) -> int32_t {
        if (output >= outputs || input >= inputs) return 0;
        const int64_t row = (int64_t{group} * outputs + output) * inputs + input;
        return codes[(row * g.kernel_height + slot.ky) * g.kernel_width + slot.kx];
    };
    for (int32_t pair = 0; pair < layer.plan.pairs; pair++)
        for (int32_t place = 0; place < number; place++) {
            const Slot &slot = slots[first + place];
            for (int32_t i = 0; i < width; i++) {
                const int32_t output = slot.block * width + i;
                const int32_t left = code(slot, output, 2 * pair), right = code(slot, output, 2 * pair + 1);
                layer.weights.push_back(static_cast<uint8_t>((left + 1) * 3 + right + 1));
            }
        }
}

void add_tables(Layer &layer) {
    const Geometry &g = layer.plan.shape;
    for (int32_t a = g.low; a <= g.high; a++)
        for (int32_t b = g.low; b <= g.high; b++)
            for (int32_t code = 0; code < 16; code++)
                layer.tables.push_back(code < 9 ? static_cast<int8_t>((code / 3 - 1) * a + (code % 3 - 1) * b) : 0);
}

void add_thresholds(Layer &layer, const int16_t *thresholds) {
    const Geometry &g = layer.plan.shape;
    const int32_t outputs = g.out_channels / g.groups, width = layer.kernels->width;
    for (int32_t group = 0; group < g.groups; group++)
        for (int32_t block = 0; block < layer.plan.blocks; block++)
            for (int32_t level = 0; level < g.levels; level++)
                for (int32_t i = 0; i < width; i++) {
                    const int32_t inner = block * width + i;
                    const int64_t place = int64_t{level} * g.out_channels + group * outputs + inner;
                    layer.thresholds.push_back(inner < outputs ? thresholds[place] : INT16_MAX);
                }
}

const Kernels *find(const char *name) {
#if defined(__x86_64__)
    if (!std::strcmp(name, "avx512")) return &avx512;
    if (!std::strcmp(name, "avx2")) return &avx2;
#endif
#if defined(__aarch64__)
    if (!std::strcmp(name, "neon")) return &neon;
#endif
    return std::strcmp(name, "baseline") ? nullptr : &baseline;
}

int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Sizes in bytes of the parts of a call's working memory, each a multiple of 64.
struct Sizes {
    int64_t entries, ends, segments, sums, ordered;
    explicit Sizes(const Layer &layer) {
        const Plan &plan = layer.plan;
        const Geometry &g = plan.shape;
        const int64_t lists = int64_t{plan.chunk} * g.height * g.width * g.groups;
        const int64_t units = int64_t{plan.chunk} * g.out_height * g.out_width * plan.blocks * g.groups * layer.kernels->width;
        entries = rounded((lists * plan.list_room + SPILL) * static_cast<int64_t>(sizeof(Entry)));
        ends = rounded(lists * plan.segment_room * static_cast<int64_t>(sizeof(uint16_t)));
        segments = rounded(lists * static_cast<int64_t>(sizeof(int32_t)));
        sums = rounded(units * static_cast<int64_t>(sizeof(int16_t)));
        ordered = rounded(g.channels);
    }
    int64_t all() const { return entries + ends + segments + sums + ordered; }
};

// A batch in parts: several a thread, so that none waits long for another, of whole multiples of `unit` items where
// there are enough of these for all.
struct Division {
    int64_t size, parts;
    Division(const Team &team, int64_t items, int64_t unit) {
        const int64_t threads = std::max<int64_t>(1, team.threads), wanted = threads > 1 ? PARTS * threads : 1;
        unit = std::clamp<int64_t>((items + threads - 1) / threads, 1, unit);
        const int64_t units = (items + unit - 1) / unit;
        size = std::max<int64_t>(1, (units + wanted - 1) / wanted) * unit;
        parts = (items + size - 1) / size;
    }
};

}  // namespace

#define SNNCONV_API extern "C" __attribute__((visibility("default")))

SNNCONV_API int32_t snnconv_interface() { return 3; }

// Name of the kernels this processor runs, best first; null after the last.
SNNCONV_API const char *snnconv_kernels(int32_t number) {
    const char *names[3] = {};
    int32_t count = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        names[count++] = "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names[count++] = "avx2";
#endif
#if defined(__aarch64__)
    names[count++] = "neon";
#endif
    names[count++] = "baseline";
    return number < count ? names[number] : nullptr;
}

// Output channels of one look-up.
SNNCONV_API int32_t snnconv_width(const char *kernels) { return find(kernels)->width; }

// Make a layer ready. Codes are (out_channels, channels / groups, kernel height, kernel width), in -1 .. 1; order is
// null or the channel read at each place; thresholds are (levels, out_channels), each exceeded by the potentials at
// which its level fires, or null where the potentials themselves are wanted.
// Returns null where there is no memory.
SNNCONV_API void *snnconv_prepare(const char *kernels, const Geometry *shape, const int8_t *codes, const int32_t *order,
                                  const int16_t *thresholds) try {
    auto layer = std::make_unique<Layer>();
    Plan &plan = layer->plan;
    const Geometry &g = plan.shape = *shape;
    layer->kernels = find(kernels);
    const int32_t width = layer->kernels->width;
    const int32_t largest = std::max({1, g.high, -g.low});
    plan.pairs = (g.channels / g.groups + 1) / 2;
    plan.blocks = (g.out_channels / g.groups + width - 1) / width;
    plan.span = g.high - g.low + 1;
    plan.flush = std::max(1, BYTE / (2 * largest));
    plan.list_room = plan.pairs;
    const int64_t lists = int64_t{g.height} * g.width * g.groups * plan.list_room * static_cast<int64_t>(sizeof(Entry));
    plan.chunk = (POSITIONS + g.out_height * g.out_width - 1) / (g.out_height * g.out_width);
    plan.chunk = static_cast<int32_t>(std::clamp<int64_t>(LISTS / lists, 1, plan.chunk));
    plan.segment_room = plan.pairs / plan.flush + 2 * (plan.pairs / 32 + 1) + 1;
    const std::vector<Slot> slots = ordered_slots(g, plan.blocks);
    const int32_t together = std::clamp(FIRST_CACHE / (plan.pairs * width), 1, LONGEST_RUN);
    for (int32_t group = 0; group < g.groups; group++)
        for (size_t first = 0; first < slots.size(); first += together) {
            const auto start = static_cast<int32_t>(first);
            const int32_t number = std::min(together, static_cast<int32_t>(slots.size()) - start);
            SlotGroup made{number, group, layer->weights.size(),
                           static_cast<int64_t>(layer->runs.size()), 0};
            add_runs(*layer, slots, start, number, group);
            made.end_of_runs = static_cast<int64_t>(layer->runs.size());
            add_weights(*layer, codes, slots, start, number, group);
            layer->slot_groups.push_back(made);
        }
    add_tables(*layer);
    if (order) layer->order.assign(order, order + g.channels);
    if (thresholds) add_thresholds(*layer, thresholds);
    plan.slot_groups_number = static_cast<int32_t>(layer->slot_groups.size());
    plan.order = order ? layer->order.data() : nullptr;
    plan.thresholds = thresholds ? layer->thresholds.data() : nullptr;
    plan.tables = layer->tables.settle();
    plan.weights = layer->weights.settle();
    plan.slot_groups = layer->slot_groups.data();
    plan.runs = layer->runs.data();
    plan.targets = layer->targets.data();
    return layer.release();
} catch (const std::bad_alloc &) {
    return nullptr;
}

SNNCONV_API void snnconv_release(void *layer) { delete static_cast<Layer *>(layer); }

// Working memory of one thread [bytes].
SNNCONV_API int64_t snnconv_scratch(const void *layer) { return Sizes(*static_cast<const Layer *>(layer)).all(); }

// Counts (int8) or potentials (int16), (images, out_height, out_width, out_channels).
// Returns 0, or 1 where there is no memory to work in.
SNNCONV_API int32_t snnconv_convolve(const Team *team, const void *handle, const int8_t *counts, uint8_t *out,
                                     int64_t images) {
    const Layer &layer = *static_cast<const Layer *>(handle);
    const Geometry &g = layer.plan.shape;
    const Sizes sizes(layer);
    const int64_t step = int64_t{g.height} * g.width * g.channels;
    const int64_t out_step = int64_t{g.out_height} * g.out_width * g.out_channels *
                             static_cast<int64_t>(layer.plan.thresholds ? sizeof(int8_t) : sizeof(int16_t));
    const Division division(*team, images, layer.plan.chunk);
    std::atomic<int32_t> failed{0};
    share(*team, division.parts, [&](Parts &parts) {
        int64_t part;
        if (!parts.take(part)) return;
        const std::unique_ptr<uint8_t[]> memory(new (std::nothrow) uint8_t[sizes.all() + 64]);
        if (!memory) {
            failed = 1;
            return;
        }
        uint8_t *start = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64;
        Scratch scratch;
        scratch.sums = reinterpret_cast<int16_t *>(start);
        scratch.entries = reinterpret_cast<Entry *>(start += sizes.sums);
        scratch.ends = reinterpret_cast<uint16_t *>(start += sizes.entries);
        scratch.segments = reinterpret_cast<int32_t *>(start += sizes.ends);
        scratch.ordered = reinterpret_cast<int8_t *>(start += sizes.segments);
        do {
            const int64_t first = part * division.size;
            layer.kernels->convolve(layer.plan, scratch, counts + first * step, out + first * out_step,
                                    std::min(division.size, images - first));
        } while (parts.take(part));
    });
    return failed;
}

// Counts of analog inputs, (images, out_height, out_width, out_channels).
// Returns 0, or 1 where there is no memory to work in.
SNNCONV_API int32_t snnconv_encode(const Team *team, const char *kernels, const Encoder *encoder, const float *pixels,
                                   int8_t *counts, int64_t images) {
    const Encoder &e = *encoder;
    const int64_t step = int64_t{e.height} * e.width * e.channels;
    const int64_t out_step = int64_t{e.out_height} * e.out_width * e.out_channels;
    const Bordered around(e);
    const int64_t room = int64_t{around.height} * around.width * e.channels;
    const Division division(*team, images, 1);
    std::atomic<int32_t> failed{0};
    share(*team, division.parts, [&](Parts &parts) {
        const std::unique_ptr<float[]> bordered(new (std::nothrow) float[room]());
        if (!bordered) {
            failed = 1;
            return;
        }
        for (int64_t part; parts.take(part);) {
            const int64_t first = part * division.size;
            find(kernels)->encode(e, pixels + first * step, bordered.get(), counts + first * out_step,
                                  std::min(division.size, images - first));
        }
    });
    return failed;
}

// Counts of units with several branches, at so many positions of all images.
SNNCONV_API void snnconv_combine(const Team *team, const char *kernels, const Sum *sum, const Addend *addends,
                                 int64_t positions, int8_t *counts) {
    const Division division(*team, positions, POSITIONS);
    share(*team, division.parts, [&](Parts &parts) {
        std::vector<Addend> moved(addends, addends + sum->addends);
        for (int64_t part; parts.take(part);) {
            const int64_t first = part * division.size * sum->channels;
            for (int32_t i = 0; i < sum->addends; i++)
                moved[i].values = static_cast<const uint8_t *>(addends[i].values) + first * addends[i].bytes;
            find(kernels)->combine(*sum, moved.data(), std::min(division.size, positions - part * division.size),
                                   counts + first);
        }
    });
}

// Sums over images and units of |count| * map, [count != 0] * map and max(count, 0) * map, for each of the maps
// (number, units): totals (3, number). `wanted` says which of the three are summed up; no |count| exceeds `largest`.
SNNCONV_API void snnconv_tally(const Team *team, const char *kernels, const int8_t *counts, int64_t images,
                               int64_t units, int32_t largest, const int32_t *maps, int64_t number, const bool *wanted,
                               int64_t *totals) {
    const Division division(*team, (units + TALLIED - 1) / TALLIED, 1);  // whole blocks: the kernel takes no less
    std::mutex adding;
    share(*team, division.parts, [&](Parts &parts) {
        std::vector<int64_t> own(3 * number);
        for (int64_t part; parts.take(part);) {
            const int64_t stop = std::min(units, (part + 1) * division.size * TALLIED);
            for (int64_t first = part * division.size * TALLIED; first < stop; first += TALLIED)
                find(kernels)->tally(counts, images, units, first, 255 / largest, maps, number, wanted, own.data());
        }
        const std::lock_guard<std::mutex> lock(adding);
        for (int64_t i = 0; i < 3 * number; i++) totals[i] += own[i];
    });
}

// Counts after each spike was lost with probability bound / 2^32; `images` holds each image's index in its data set.
SNNCONV_API void snnconv_remove_spikes(const Team *team, const char *kernels, const int8_t *counts, int8_t *out,
                                       const int64_t *images, int64_t number, int64_t channels, int64_t positions,
                                       uint64_t key, uint64_t bound, int32_t positive) {
    const Division division(*team, number, 1);
    share(*team, division.parts, [&](Parts &parts) {
        for (int64_t part; parts.take(part);) {
            const int64_t first = part * division.size, place = first * channels * positions;
            find(kernels)->remove_spikes(counts + place, out + place, images + first,
                                         std::min(division.size, number - first), channels, positions, key, bound,
                                         positive);
        }
    });
}
