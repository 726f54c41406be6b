// Kernels for x86 processors with AVX-512 (F, BW, DQ, VL): 64 output channels a look-up.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt,prefer-vector-width=512")
#endif

namespace snnconv {
namespace {

struct Avx512 {
    static constexpr int width = 64;
    using Bytes = __m512i;
    static Bytes zero() { return _mm512_setzero_si512(); }
    static Bytes table(const int8_t *table) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(table)));
    }
    static Bytes look_up(Bytes table, const uint8_t *codes) {
        return _mm512_shuffle_epi8(table, _mm512_loadu_si512(codes));
    }
    static Bytes add(Bytes left, Bytes right) { return _mm512_add_epi8(left, right); }
    static void widen(Bytes bytes, int16_t *sums) {
        __m512i *wide = reinterpret_cast<__m512i *>(sums);
        wide[0] = _mm512_add_epi16(wide[0], _mm512_cvtepi8_epi16(_mm512_castsi512_si256(bytes)));
        wide[1] = _mm512_add_epi16(wide[1], _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(bytes, 1)));
    }

    template <class Numbers>
    static void narrow(Numbers numbers, int8_t *bytes) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(bytes), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(numbers)));
    }

    // As PlainList::list, for up to 64 channels: table offsets by one multiply-add, entries by compressing stores.
    static int32_t list(const int8_t *counts, int32_t channels, int32_t pair, const Plan &plan, Entry *out,
                        int32_t &size) {
        const __mmask64 there = channels >= 64 ? ~__mmask64{0} : (__mmask64{1} << channels) - 1;
        const __m512i some = _mm512_maskz_loadu_epi8(there, counts);
        size += static_cast<int32_t>(
            _mm512_reduce_add_epi64(_mm512_sad_epu8(_mm512_abs_epi8(some), _mm512_setzero_si512())));
        const __m512i above = _mm512_sub_epi8(some, _mm512_set1_epi8(static_cast<char>(plan.shape.low)));
        const __m512i factors = _mm512_set1_epi16(static_cast<short>(plan.span | 1 << 8));
        const __m512i tables = _mm512_slli_epi16(_mm512_maddubs_epi16(above, factors), 4);
        const __mmask32 fired = _mm512_cmpneq_epi16_mask(some, _mm512_setzero_si512());
        const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        int32_t length = 0;
        for (int half = 0; half < 2; half++) {
            const __m256i part = half ? _mm512_extracti64x4_epi64(tables, 1) : _mm512_castsi512_si256(tables);
            const __m512i pairs = _mm512_add_epi32(places, _mm512_set1_epi32(pair + 16 * half));
            const __m512i entries = _mm512_or_si512(_mm512_slli_epi32(_mm512_cvtepu16_epi32(part), 16), pairs);
            const __mmask16 chosen = static_cast<__mmask16>(fired >> (16 * half));
            _mm512_storeu_si512(out + length, _mm512_maskz_compress_epi32(chosen, entries));
            length += __builtin_popcount(chosen);
        }
        return length;
    }
};

}  // namespace
}  // namespace snnconv

#include "table.hpp"

namespace snnconv {
SNNCONV_KERNELS(avx512, Avx512)
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
