// The event-driven convolution, for any instruction set with a table look-up of 16 bytes.
//
// A byte of weights names one of the nine sign pairs (v, w) of two neighbouring input channels; two counts (a, b) name
// a table of the nine sums v a + w b. One look-up so gives the sums of `Isa::width` output channels at once. For every
// pixel the pairs of counts other than (0, 0) are listed once, and each entry then serves all the slots (taps, blocks
// of output channels) that the pixel feeds. Sums are bytes until they could overflow (a list is cut into segments whose
// counts add up to 127 at most), then 16-bit integers, which the caller has proven wide enough.
#pragma once

namespace snnconv {
namespace {

constexpr int LIST_CHANNELS = 64;  // channels that Isa::list takes at a time

// List the pairs of one pixel's channels, of one channel group.
template <class Isa>
void list(const Plan &plan, const int8_t *counts, int32_t channels, Entry *out, uint16_t *ends, int32_t &number) {
    int32_t length = 0, begin = 0, total = 0, segments = 0;
    for (int32_t first = 0; first < channels; first += LIST_CHANNELS) {
        const int32_t some = channels - first < LIST_CHANNELS ? channels - first : LIST_CHANNELS;
        int32_t size = 0;
        const int32_t added = Isa::list(counts + first, some, first / 2, plan, out + length, size);
        if (total + size > BYTE && length > begin) {
            ends[segments++] = static_cast<uint16_t>(begin = length);
            total = 0;
        }
        length += added;
        total += size;
        if (size > BYTE) {
            while (length - begin > plan.flush) ends[segments++] = static_cast<uint16_t>(begin += plan.flush);
            total = BYTE;
        }
    }
    if (length > begin) ends[segments++] = static_cast<uint16_t>(length);
    number = segments;
}

// Add a list's sums to the potentials of `Length` slots whose weights lie side by side.
template <class Isa, int Length>
void accumulate(const Entry *entry, const uint16_t *ends, int32_t segments, const uint8_t *weights, int64_t stride,
                const int8_t *tables, int16_t *const *potentials) {
    const Entry *const first = entry;
    for (int32_t segment = 0; segment < segments; segment++) {
        const Entry *const end = first + ends[segment];
        typename Isa::Bytes sums[Length];
        for (int slot = 0; slot < Length; slot++) sums[slot] = Isa::zero();
        for (; entry != end; ++entry) {
            const typename Isa::Bytes table = Isa::table(tables + entry->table);
            const uint8_t *codes = weights + entry->pair * stride;
            for (int slot = 0; slot < Length; slot++)
                sums[slot] = Isa::add(sums[slot], Isa::look_up(table, codes + slot * Isa::width));
        }
        for (int slot = 0; slot < Length; slot++) Isa::widen(sums[slot], potentials[slot]);
    }
}

template <class Isa>
using Accumulate = void (*)(const Entry *, const uint16_t *, int32_t, const uint8_t *, int64_t, const int8_t *,
                            int16_t *const *);
template <class Isa>
constexpr Accumulate<Isa> ACCUMULATE[LONGEST_RUN + 1] = {
    nullptr,           accumulate<Isa, 1>, accumulate<Isa, 2>, accumulate<Isa, 3>, accumulate<Isa, 4>,
    accumulate<Isa, 5>, accumulate<Isa, 6>, accumulate<Isa, 7>, accumulate<Isa, 8>, accumulate<Isa, 9>};

// Count the levels that a block's potentials exceed.
template <class Isa>
void fire(const int16_t *potentials, const int16_t *thresholds, int32_t levels, int32_t negative, int32_t number,
          int8_t *counts) {
    constexpr int half = Isa::width / 2;  // 16-bit integers of one register
    using Words = Vector<int16_t, half>;
    using Bytes = Vector<int8_t, half>;
    int8_t bytes[Isa::width];
    for (int i = 0; i < Isa::width; i += half) {
        const Words potential = load<Words>(potentials + i);
        Words fired = fill<Words>(static_cast<int16_t>(-negative));
        for (int32_t level = 0; level < levels; level++)
            fired -= potential > load<Words>(thresholds + level * Isa::width + i);  // true is -1
        store(bytes + i, __builtin_convertvector(fired, Bytes));
    }
    std::memcpy(counts, bytes, number);
}

template <class Isa>
void convolve(const Plan &plan, const Scratch &scratch, const int8_t *counts, void *out, int64_t images) {
    const Geometry &g = plan.shape;
    const int64_t pixels = int64_t{g.height} * g.width, positions = int64_t{g.out_height} * g.out_width;
    const int32_t per_group = g.channels / g.groups, out_per_group = g.out_channels / g.groups;
    const int64_t blocks = int64_t{plan.blocks} * g.groups;
    for (int64_t start = 0; start < images; start += plan.chunk) {
        const int64_t some = images - start < plan.chunk ? images - start : plan.chunk;
        for (int64_t pixel = 0; pixel < some * pixels; pixel++) {
            const int8_t *from = counts + (start * pixels + pixel) * g.channels;
            if (plan.order) {
                for (int32_t c = 0; c < g.channels; c++) scratch.ordered[c] = from[plan.order[c]];
                from = scratch.ordered;
            }
            for (int32_t group = 0; group < g.groups; group++) {
                const int64_t place = pixel * g.groups + group;
                list<Isa>(plan, from + group * per_group, per_group, scratch.entries + place * plan.list_room,
                          scratch.ends + place * plan.segment_room, scratch.segments[place]);
            }
        }
        std::memset(scratch.sums, 0, sizeof(int16_t) * some * blocks * positions * Isa::width);
        for (int32_t number = 0; number < plan.slot_groups_number; number++) {
            const SlotGroup &slots = plan.slot_groups[number];
            const int64_t stride = int64_t{slots.slots} * Isa::width;
            for (int64_t image = 0; image < some; image++) {
                int16_t *sums = scratch.sums + image * blocks * positions * Isa::width;
                for (const Run *run = plan.runs + slots.runs; run != plan.runs + slots.end_of_runs; ++run) {
                    int16_t *potentials[LONGEST_RUN];
                    for (int32_t slot = 0; slot < run->length; slot++)
                        potentials[slot] = sums + int64_t{plan.targets[run->targets + slot]} * Isa::width;
                    const int64_t place = (image * pixels + run->pixel) * g.groups + slots.channel_group;
                    ACCUMULATE<Isa>[run->length](scratch.entries + place * plan.list_room,
                                                 scratch.ends + place * plan.segment_room, scratch.segments[place],
                                                 plan.weights + slots.weights + run->slot * Isa::width, stride,
                                                 plan.tables, potentials);
                }
            }
        }
        const int16_t *from = scratch.sums;
        for (int64_t image = start; image < start + some; image++)
            for (int64_t block = 0; block < blocks; block++) {
                const int32_t inner = static_cast<int32_t>(block % plan.blocks) * Isa::width;
                const int32_t number = out_per_group - inner < Isa::width ? out_per_group - inner : Isa::width;
                const int64_t channel = block / plan.blocks * out_per_group + inner;
                for (int64_t position = 0; position < positions; position++, from += Isa::width) {
                    const int64_t place = (image * positions + position) * g.out_channels + channel;
                    if (plan.thresholds)
                        fire<Isa>(from, plan.thresholds + block * g.levels * Isa::width, g.levels, g.negative, number,
                                  static_cast<int8_t *>(out) + place);
                    else
                        std::memcpy(static_cast<int16_t *>(out) + place, from, sizeof(int16_t) * number);
                }
            }
    }
}

}  // namespace
}  // namespace snnconv
