// Softmax cross-entropy that turns the logits into their own gradient, so that no second array of that size exists.
#include <cmath>

#include "numbers.h"

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
            for (int64_t i = 0; i < vocabulary; i++) store(row[i], 0.0f);
            losses[r] = 0.0f;
            continue;
        }
        float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < vocabulary; i++) most = load(row[i]) > most ? load(row[i]) : most;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < vocabulary; i++) sum += exp_of(load(row[i]) - most);
        const float picked = load(row[target]), log_sum = most + std::log(sum);
        losses[r] = log_sum - picked;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) store(row[i], exp_of(load(row[i]) - log_sum));
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
