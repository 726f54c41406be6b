// Kernels for 64-bit ARM processors: 16 output channels a look-up.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "listing.hpp"

namespace snnconv {
namespace {

struct Neon : PlainList {
    static constexpr int width = 16;
    using Bytes = int8x16_t;
    static Bytes zero() { return vdupq_n_s8(0); }
    static Bytes table(const int8_t *table) { return vld1q_s8(table); }
    static Bytes look_up(Bytes table, const uint8_t *codes) { return vqtbl1q_s8(table, vld1q_u8(codes)); }
    static Bytes add(Bytes left, Bytes right) { return vaddq_s8(left, right); }
    static void widen(Bytes bytes, int16_t *sums) {
        vst1q_s16(sums, vaddw_s8(vld1q_s16(sums), vget_low_s8(bytes)));
        vst1q_s16(sums + 8, vaddw_s8(vld1q_s16(sums + 8), vget_high_s8(bytes)));
    }
    template <class Numbers>
    static void narrow(Numbers numbers, int8_t *bytes) {
        for (int i = 0; i < width / 4; i++) bytes[i] = static_cast<int8_t>(numbers[i]);
    }
};

}  // namespace
}  // namespace snnconv

#include "table.hpp"

namespace snnconv {
SNNCONV_KERNELS(neon, Neon)
}
#endif
