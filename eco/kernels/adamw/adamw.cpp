// One step of AdamW in one pass over memory: fp32 weights and gradients, bf16 moments with stochastic rounding.
//
// No multiplication is fused with the addition after it, so that plain torch computes the same bits.
#pragma GCC optimize("fp-contract=off")
#include <algorithm>

#include "rounding.h"

namespace {

constexpr int64_t CHUNK = 16384;  // elements that a thread takes at a time

struct Factors {
    float beta1, one_less_beta1, beta2, one_less_beta2, decay, root, eps, size;
    uint32_t key;
};

void step(const Factors &f, int64_t first, int64_t count, float *weight, const float *gradient, bf16 *mean,
          bf16 *square) {
    for (int64_t i = 0; i < count; i++) {
        const float g = gradient[i];
        const float m = load(mean[i]) * f.beta1 + g * f.one_less_beta1;
        const float v = load(square[i]) * f.beta2 + g * f.one_less_beta2 * g;
        weight[i] = weight[i] * f.decay - m * f.size / (std::sqrt(v) * f.root + f.eps);
        const uint32_t bits = mix(uint32_t(first + i) ^ f.key);
        mean[i] = rounded(m, bits & 0xffff);
        square[i] = rounded(v, bits >> 16);
    }
}

}  // namespace

extern "C" void eco_adamw(const Factors *f, int64_t count, float *weight, const float *gradient, bf16 *mean,
                          bf16 *square) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < count; first += CHUNK)
        step(*f, first, std::min(CHUNK, count - first), weight + first, gradient + first, mean + first, square + first);
}
