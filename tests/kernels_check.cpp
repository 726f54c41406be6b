// The convolution kernels against plain loops, without Python: for processors that one can only emulate.
//
//     make neon        (a cross compiler for 64-bit ARM and qemu-aarch64)
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "../snnconv/engines/cpp/kernels.h"
#include "../snnconv/engines/cpp/team.hpp"

extern "C" {
const char *snnconv_kernels(int32_t);
void *snnconv_prepare(const char *, const snnconv::Geometry *, const int8_t *, const int32_t *, const int16_t *);
void snnconv_release(void *);
int32_t snnconv_convolve(const snnconv::Team *, const void *, const int8_t *, uint8_t *, int64_t);
}

int main() {
    std::mt19937 random(0);
    const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    const snnconv::Team team{nullptr, 3};
    int64_t compared = 0;
    for (int round = 0; round < 300; round++) {
        snnconv::Geometry g{};
        g.groups = pick(1, 3);
        const int inputs = pick(1, 40), outputs = pick(1, 70), images = pick(1, 4);
        g.channels = inputs * g.groups, g.out_channels = outputs * g.groups;
        g.kernel_height = pick(1, 4), g.kernel_width = pick(1, 4), g.stride_y = pick(1, 3), g.stride_x = pick(1, 3);
        g.dilation_y = pick(1, 2), g.dilation_x = pick(1, 2), g.top = pick(0, 2), g.left = pick(0, 2);
        g.height = g.dilation_y * g.kernel_height + pick(0, 5), g.width = g.dilation_x * g.kernel_width + pick(0, 5);
        g.out_height = (g.height + 2 * g.top - g.dilation_y * (g.kernel_height - 1) - 1) / g.stride_y + 1;
        g.out_width = (g.width + 2 * g.left - g.dilation_x * (g.kernel_width - 1) - 1) / g.stride_x + 1;
        g.low = -pick(0, 3), g.high = pick(1, 30), g.levels = pick(1, 4), g.negative = pick(0, 1);
        std::vector<int8_t> codes(g.out_channels * inputs * g.kernel_height * g.kernel_width);
        std::vector<int8_t> counts(images * g.height * g.width * g.channels);
        std::vector<int16_t> thresholds(g.levels * g.out_channels);
        for (auto &code : codes) code = static_cast<int8_t>(pick(-1, 1));
        for (auto &count : counts) count = static_cast<int8_t>(pick(0, 2) ? 0 : pick(g.low, g.high));
        for (auto &threshold : thresholds) threshold = static_cast<int16_t>(pick(-9, 9));
        std::vector<int8_t> fired(images * g.out_height * g.out_width * g.out_channels);
        for (int number = 0; const char *name = snnconv_kernels(number); number++) {
            void *layer = snnconv_prepare(name, &g, codes.data(), nullptr, thresholds.data());
            if (snnconv_convolve(&team, layer, counts.data(), reinterpret_cast<uint8_t *>(fired.data()), images)) return 2;
            snnconv_release(layer);
            for (size_t place = 0; place < fired.size(); place++, compared++) {
                const int channel = static_cast<int>(place % g.out_channels), group = channel / outputs;
                const int64_t position = static_cast<int64_t>(place) / g.out_channels;
                const int x = static_cast<int>(position % g.out_width), y = static_cast<int>(position / g.out_width % g.out_height);
                const int64_t image = position / g.out_width / g.out_height;
                int potential = 0, expected = -g.negative;
                for (int c = 0; c < inputs; c++)
                    for (int ky = 0; ky < g.kernel_height; ky++)
                        for (int kx = 0; kx < g.kernel_width; kx++) {
                            const int row = y * g.stride_y + ky * g.dilation_y - g.top;
                            const int column = x * g.stride_x + kx * g.dilation_x - g.left;
                            if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
                            potential += counts[((image * g.height + row) * g.width + column) * g.channels + group * inputs + c] *
                                         codes[((channel * inputs + c) * g.kernel_height + ky) * g.kernel_width + kx];
                        }
                for (int level = 0; level < g.levels; level++)
                    expected += potential > thresholds[level * g.out_channels + channel];
                if (fired[place] != expected) {
                    std::printf("%s: round %d, unit %zu: %d instead of %d\n", name, round, place, fired[place], expected);
                    return 1;
                }
            }
        }
    }
    std::printf("%lld counts equal on", static_cast<long long>(compared));
    for (int number = 0; const char *name = snnconv_kernels(number); number++) std::printf(" %s", name);
    std::printf("\n");
}
