// Kernels for x86 processors with AVX2: 32 output channels a look-up.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt")
#endif

namespace snnconv {
namespace {

struct Avx2 {
    static constexpr int width = 32;
    using Bytes = __m256i;
    static Bytes zero() { return _mm256_setzero_si256(); }
    static Bytes table(const int8_t *table) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(table)));
    }
    static Bytes look_up(Bytes table, const uint8_t *codes) {
        return _mm256_shuffle_epi8(table, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(codes)));
    }
    static Bytes add(Bytes left, Bytes right) { return _mm256_add_epi8(left, right); }
    static void widen(Bytes bytes, int16_t *sums) {
        __m256i *wide = reinterpret_cast<__m256i *>(sums);
        wide[0] = _mm256_add_epi16(wide[0], _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)));
        wide[1] = _mm256_add_epi16(wide[1], _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1)));
    }

    template <class Numbers>
    static void narrow(Numbers numbers, int8_t *bytes) {
        for (int i = 0; i < width / 4; i++) bytes[i] = static_cast<int8_t>(numbers[i]);
    }

    // As PlainList::list, 32 channels at a time: table offsets by one multiply-add, then the pairs whose bit is set.
    static int32_t list(const int8_t *counts, int32_t channels, int32_t pair, const Plan &plan, Entry *out,
                        int32_t &size) {
        const __m256i none = _mm256_setzero_si256();
        const __m256i low = _mm256_set1_epi8(static_cast<char>(plan.shape.low));
        const __m256i factors = _mm256_set1_epi16(static_cast<short>(plan.span | 1 << 8));
        int32_t length = 0;
        for (int32_t first = 0; first < channels; first += 32) {
            int8_t some[32] = {};
            std::memcpy(some, counts + first, channels - first < 32 ? channels - first : 32);
            const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(some));
            const __m256i sums = _mm256_sad_epu8(_mm256_abs_epi8(bytes), none);
            const __m128i halves = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
            size += static_cast<int32_t>(_mm_extract_epi64(halves, 0) + _mm_extract_epi64(halves, 1));
            uint16_t tables[16];
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(tables),
                                _mm256_slli_epi16(_mm256_maddubs_epi16(_mm256_sub_epi8(bytes, low), factors), 4));
            const __m256i silent = _mm256_cmpeq_epi16(bytes, none);
            const __m128i narrow =
                _mm_packs_epi16(_mm256_castsi256_si128(silent), _mm256_extracti128_si256(silent, 1));
            for (uint32_t fired = ~static_cast<uint32_t>(_mm_movemask_epi8(narrow)) & 0xFFFF; fired; fired &= fired - 1) {
                const int32_t place = __builtin_ctz(fired);
                out[length++] = {static_cast<uint16_t>(pair + first / 2 + place), tables[place]};
            }
        }
        return length;
    }
};

}  // namespace
}  // namespace snnconv

#include "table.hpp"

namespace snnconv {
SNNCONV_KERNELS(avx2, Avx2)
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
