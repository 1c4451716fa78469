// Rows of several choices back to their tokens, and the gradients, one pass over memory each.
#include "lanes.h"

namespace {

// out[t] = sum over k of weights[t, k] * y[row[t, k]]; without weights the plain sum.
template <class T>
void combine(int64_t tokens, int64_t choices, int64_t width, const T *y, const float *weights, const int64_t *row,
             T *out) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const int64_t *rows = row + t * choices;
        const float *factors = weights ? weights + t * choices : nullptr;
        for_each(width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            N sum = {};
            for (int64_t k = 0; k < choices; k++) {
                const N x = get<N>(y + rows[k] * width + i);
                sum += factors ? x * factors[k] : x;
            }
            put(out + t * width + i, sum);
        });
    }
}

// dy[row[t, k]] = weights[t, k] * dout[t]; dweights[t, k] = y[row[t, k]] . dout[t].
template <class T>
void combine_backward(int64_t tokens, int64_t choices, int64_t width, const T *y, const float *weights,
                      const int64_t *row, const T *dout, T *dy, float *dweights) {
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t k = t * choices; k < (t + 1) * choices; k++) {
            const T *from = dout + t * width, *x = y + row[k] * width;
            T *to = dy + row[k] * width;
            dweights[k] = sum_each(width, [&](int64_t i, auto kind) {
                using N = decltype(kind);
                const N d = get<N>(from + i);
                put(to + i, d * weights[k]);
                return get<N>(x + i) * d;
            });
        }
}

}  // namespace

#define FOR_TYPE(NAME, T)                                                                                             \
    extern "C" void eco_combine_rows_##NAME(int64_t tokens, int64_t choices, int64_t width, const T *y,              \
                                            const float *weights, const int64_t *row, T *out) {                      \
        combine(tokens, choices, width, y, weights, row, out);                                                        \
    }                                                                                                                 \
    extern "C" void eco_combine_rows_backward_##NAME(int64_t tokens, int64_t choices, int64_t width, const T *y,     \
                                                     const float *weights, const int64_t *row, const T *dout,        \
                                                     T *dy, float *dweights) {                                       \
        combine_backward(tokens, choices, width, y, weights, row, dout, dy, dweights);                                \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
