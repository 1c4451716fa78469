// Run once in a process of its own before a new library is trusted: an instruction that this machine lists but does not
// run, or a compiler's mistake, must not reach the training process.
#include <cmath>

#include "product.h"

static float number(uint32_t i) { return float(int((i * 2654435761u) >> 20) - 2048) / 1024.0f; }

// 0 if the small matrix product is right.
extern "C" int eco_check() {
    constexpr int M = 64, N = 96, K = 64;
    alignas(64) static bf16 a[M * K];
    alignas(64) static uint32_t b[K / 2 * N];
    alignas(64) static float c[M * N];
    for (int i = 0; i < M * K; i++) store(a[i], number(i));
    for (int i = 0; i < K / 2 * N; i++) {
        bf16 low, high;
        store(low, number(7 * i + 1));
        store(high, number(11 * i + 5));
        b[i] = uint32_t(low.bits) | uint32_t(high.bits) << 16;
    }
    {
        [[maybe_unused]] Tiles tiles;
        product(M, N, K, a, K, b, N, c, N);
        product(M, N, K, a, K, b, N, c, N, true);
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) {
                const uint32_t pair = b[k / 2 * N + n];
                sum += 2.0 * load(a[m * K + k]) * float_of(k % 2 ? pair & 0xffff0000u : pair << 16);
            }
            if (!(std::fabs(c[m * N + n] - sum) < 1e-3)) return 1;
        }
    return 0;
}
