// Softmax cross-entropy that turns the logits into their own gradient, so that no second array of that size exists.
#include <cmath>

#include "lanes.h"

namespace {

// losses[r] = log(sum(exp(logits[r]))) - logits[r][target], 0 where ignored; logits[r] = softmax - onehot, 0 where
// ignored.
template <class T>
void cross_entropy(int64_t rows, int64_t vocabulary, T *logits, const int64_t *targets, int64_t ignored,
                   float *losses) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        T *row = logits + r * vocabulary;
        const int64_t target = targets[r];
        if (target == ignored) {
            std::memset(row, 0, vocabulary * sizeof(T));
            losses[r] = 0.0f;
            continue;
        }
        float most = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < vocabulary; i++) most = load(row[i]) > most ? load(row[i]) : most;
        const float sum = sum_each(vocabulary, [&](int64_t i, auto kind) {
            return exp_of(get<decltype(kind)>(row + i) - most);
        });
        const float picked = load(row[target]), log_sum = most + std::log(sum);
        losses[r] = log_sum - picked;
        for_each(vocabulary, [&](int64_t i, auto kind) {
            put(row + i, exp_of(get<decltype(kind)>(row + i) - log_sum));
        });
        store(row[target], std::expm1(picked - log_sum));
    }
}

}  // namespace

extern "C" void eco_cross_entropy_float32(int64_t rows, int64_t vocabulary, float *logits, const int64_t *targets,
                                          int64_t ignored, float *losses) {
    cross_entropy(rows, vocabulary, logits, targets, ignored, losses);
}
extern "C" void eco_cross_entropy_bfloat16(int64_t rows, int64_t vocabulary, bf16 *logits, const int64_t *targets,
                                           int64_t ignored, float *losses) {
    cross_entropy(rows, vocabulary, logits, targets, ignored, losses);
}
