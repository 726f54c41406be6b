// Kernels in plain C++, for any processor.
#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "listing.hpp"

namespace snnconv {
namespace {

struct Plain : PlainList {
    static constexpr int width = 16;
    struct Bytes {
        int8_t at[width];
    };
    static Bytes zero() { return {}; }
    static Bytes table(const int8_t *table) {
        Bytes bytes;
        std::memcpy(bytes.at, table, width);
        return bytes;
    }
    static Bytes look_up(const Bytes &table, const uint8_t *codes) {
        Bytes found;
        for (int i = 0; i < width; i++) found.at[i] = table.at[codes[i]];
        return found;
    }
    static Bytes add(const Bytes &left, const Bytes &right) {
        Bytes sum;
        for (int i = 0; i < width; i++) sum.at[i] = static_cast<int8_t>(left.at[i] + right.at[i]);
        return sum;
    }
    static void widen(const Bytes &bytes, int16_t *sums) {
        for (int i = 0; i < width; i++) sums[i] = static_cast<int16_t>(sums[i] + bytes.at[i]);
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
SNNCONV_KERNELS(baseline, Plain)
}
