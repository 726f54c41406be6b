// Listing pairs one by one: for instruction sets without a compressing store.
#pragma once

namespace snnconv {
namespace {

struct PlainList {
    // Append the pairs of `channels` counts that are not (0, 0); `size` takes the sum of |count|.
    static int32_t list(const int8_t *counts, int32_t channels, int32_t pair, const Plan &plan, Entry *out,
                        int32_t &size) {
        const int32_t low = plan.shape.low, span = plan.span;
        int32_t length = 0;
        for (int32_t c = 0; c < channels; c += 2) {
            const int32_t a = counts[c], b = c + 1 < channels ? counts[c + 1] : 0;
            out[length] = {static_cast<uint16_t>(pair + c / 2),
                           static_cast<uint16_t>(((a - low) * span + (b - low)) * 16)};
            length += (a | b) != 0;
            size += (a < 0 ? -a : a) + (b < 0 ? -b : b);
        }
        return length;
    }
};

}  // namespace
}  // namespace snnconv
