// One step of C3O in two passes over memory: the moments move and the update is measured, then the weights move.
//
// Both passes walk pieces of a few thousand elements, whose squares are added in a fixed order, line upon line and then
// the last one folded: threads change no bit.
// No multiplication is fused with the addition after it, so that plain torch computes the same bits.
#pragma GCC optimize("fp-contract=off")
#include <algorithm>
#include <vector>

#include "rounding.h"

namespace {

constexpr int64_t LINE = 256;  // as in layout.py
constexpr int64_t FEW = 8;     // pieces that are not worth a second thread

struct Factors {
    float beta1, one_less_beta1, beta2, one_less_beta2, decay, root, damping;
    uint32_t key;
    double size, radius, least_norm;
};

struct Sums {
    double update, weight;  // of squares
};

// The sum of n numbers, filled up with zeros to a power of two and folded in half again and again; x has room for them.
template <class N>
N halved(N *x, int64_t n) {
    int64_t count = 1;
    while (count < n) count *= 2;
    std::fill(x + n, x + count, N(0));
    while (count > 1) {
        count /= 2;
        for (int64_t i = 0; i < count; i++) x[i] += x[i + count];
    }
    return x[0];
}

inline void keep(float &out, float x, uint32_t) { out = x; }
inline void keep(bf16 &out, float x, uint32_t bits) { out = rounded(x, bits); }

template <class T>
inline float direction(const Factors &f, T mean, T square) {
    return load(mean) / (std::sqrt(load(square)) * f.root + f.damping);
}

template <class T>
Sums measure(const Factors &f, int64_t first, int64_t count, const float *weight, const float *gradient, T *mean,
             T *square) {
    float updates[LINE] = {}, weights[LINE] = {};
    for (int64_t line = 0; line < count; line += LINE) {
        const int64_t end = std::min(LINE, count - line);
        for (int64_t j = 0; j < end; j++) {
            const int64_t i = line + j;
            const float g = gradient[i];
            const float m = load(mean[i]) * f.beta1 + g * f.one_less_beta1;
            const float v = load(square[i]) * f.beta2 + g * f.one_less_beta2 * g;
            const uint32_t bits = mix(uint32_t(first + i) ^ f.key);
            keep(mean[i], m, bits & 0xffff);
            keep(square[i], v, bits >> 16);
            const float u = direction(f, mean[i], square[i]);
            updates[j] += u * u;
            weights[j] += weight[i] * weight[i];
        }
    }
    return {halved(updates, LINE), halved(weights, LINE)};
}

template <class T>
void move(const Factors &f, float size, int64_t count, float *weight, const T *mean, const T *square) {
    for (int64_t i = 0; i < count; i++) weight[i] = weight[i] * f.decay - direction(f, mean[i], square[i]) * size;
}

// See eager.py. scales: (blocks,) or null; owner: the block of each piece. outcome: size, norm, trust ratio.
template <class T>
void step(const Factors &f, int64_t count, const int64_t *pieces, const int64_t *owner, int64_t blocks, float *scales,
          float *weight, const float *gradient, T *mean, T *square, float *outcome) {
    std::vector<double> updates(2 * count), weights(2 * count), scaled(2 * count);
#pragma omp parallel for schedule(static) if (count > FEW)
    for (int64_t k = 0; k < count; k++) {
        const int64_t first = pieces[k];
        const Sums sums =
            measure(f, first, pieces[k + 1] - first, weight + first, gradient + first, mean + first, square + first);
        const double scale = scales ? scales[owner[k]] : 1.0;
        updates[k] = sums.update;
        weights[k] = sums.weight;
        scaled[k] = sums.update * (scale * scale);
    }
    const double update = halved(updates.data(), count), even = halved(scaled.data(), count);
    const double norm = std::sqrt(update) * f.size;
    const double limit = std::max(std::sqrt(halved(weights.data(), count)), f.least_norm) * f.radius;
    const double trust = norm > limit ? limit / norm : 1.0;
    const float size = outcome[0] = float(trust * f.size);
    outcome[1] = float(norm * trust);
    outcome[2] = float(trust);
    const float evening = float(std::sqrt(even > 0 ? update / even : 1.0));
    for (int64_t block = 0; scales && block < blocks; block++) scales[block] *= evening;
#pragma omp parallel for schedule(static) if (count > FEW)
    for (int64_t k = 0; k < count; k++) {
        const int64_t first = pieces[k];
        const float own = scales ? size * scales[owner[k]] : size;
        move(f, own, pieces[k + 1] - first, weight + first, mean + first, square + first);
    }
}

}  // namespace

extern "C" void eco_c3o_float32(const Factors *f, int64_t count, const int64_t *pieces, const int64_t *owner,
                                int64_t blocks, float *scales, float *weight, const float *gradient, float *mean,
                                float *square, float *outcome) {
    step(*f, count, pieces, owner, blocks, scales, weight, gradient, mean, square, outcome);
}

extern "C" void eco_c3o_bfloat16(const Factors *f, int64_t count, const int64_t *pieces, const int64_t *owner,
                                 int64_t blocks, float *scales, float *weight, const float *gradient, bf16 *mean,
                                 bf16 *square, float *outcome) {
    step(*f, count, pieces, owner, blocks, scales, weight, gradient, mean, square, outcome);
}
