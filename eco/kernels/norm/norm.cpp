// RMSNorm and LayerNorm of fp32 or bf16 rows, forward and backward, with the addition to the residual stream that
// comes before them in a transformer: x = residual + delta, y = norm(x). Sums are fp32.
#include <cmath>
#include <cstdlib>
#include <memory>

#include "numbers.h"

namespace {

constexpr int64_t PARTS = 64;  // partial sums of the weight's gradient: as many whatever the number of threads

struct Sizes {
    int64_t rows, width;
    float eps;
    int32_t centred;  // 1: LayerNorm, 0: RMSNorm
};

template <class X, class Y>
void norm_row(const Sizes &s, const X *x, const float *weight, const float *bias, Y *y, float *mean, float *scale) {
    float sum = 0, squares = 0;
    if (s.centred) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < s.width; i++) sum += load(x[i]);
    }
    const float m = sum / float(s.width);
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < s.width; i++) squares += (load(x[i]) - m) * (load(x[i]) - m);
    const float r = 1.0f / std::sqrt(squares / float(s.width) + s.eps);
    if (bias)
#pragma omp simd
        for (int64_t i = 0; i < s.width; i++) store(y[i], (load(x[i]) - m) * r * weight[i] + bias[i]);
    else
#pragma omp simd
        for (int64_t i = 0; i < s.width; i++) store(y[i], (load(x[i]) - m) * r * weight[i]);
    *mean = m;
    *scale = r;
}

// residual and delta may be null: then x is the input already.
template <class X, class Y>
void norm(const Sizes &s, const X *residual, const Y *delta, X *x, const float *weight, const float *bias, Y *y,
          float *means, float *scales) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < s.rows; r++) {
        X *row = x + r * s.width;
        if (delta)
#pragma omp simd
            for (int64_t i = 0; i < s.width; i++)
                store(row[i], load(residual[r * s.width + i]) + load(delta[r * s.width + i]));
        norm_row(s, row, weight, bias, y + r * s.width, means + r, scales + r);
    }
}

// dx = dresidual + scale * (g - mean(g) - xhat * mean(g * xhat)), g = dy * weight, xhat = (x - m) * scale;
// ddelta, if wanted, is dx in delta's type.
template <class X, class Y>
void norm_backward_row(const Sizes &s, const X *x, const float *weight, float m, float scale, const Y *dy,
                       const X *dresidual, X *dx, Y *ddelta, float *dweight, float *dbias) {
    float along = 0, mean = 0;
#pragma omp simd reduction(+ : along, mean)
    for (int64_t i = 0; i < s.width; i++) {
        const float g = load(dy[i]) * weight[i];
        along += g * (load(x[i]) - m);
        mean += g;
    }
    along *= scale * scale / float(s.width);
    mean = s.centred ? mean / float(s.width) : 0.0f;
#pragma omp simd
    for (int64_t i = 0; i < s.width; i++) {
        const float d = load(dy[i]), away = load(x[i]) - m;
        const float carried = dresidual ? load(dresidual[i]) : 0.0f;
        store(dx[i], carried + scale * (d * weight[i] - mean - away * along));
        dweight[i] += d * away * scale;
    }
    if (dbias)
#pragma omp simd
        for (int64_t i = 0; i < s.width; i++) dbias[i] += load(dy[i]);
    if (ddelta)
#pragma omp simd
        for (int64_t i = 0; i < s.width; i++) store(ddelta[i], load(dx[i]));
}

template <class X, class Y>
void norm_backward(const Sizes &s, const X *x, const float *weight, const float *means, const float *scales,
                   const Y *dy, const X *dresidual, X *dx, Y *ddelta, float *dweight, float *dbias) {
    const int64_t width = s.width, parts = PARTS < s.rows ? PARTS : s.rows;
    std::unique_ptr<float, void (*)(void *)> memory((float *)std::calloc(2 * parts * width, sizeof(float)), std::free);
    float *sums = memory.get();
#pragma omp parallel for schedule(static)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t r = s.rows * part / parts; r < s.rows * (part + 1) / parts; r++) {
            const int64_t at = r * width;
            norm_backward_row(s, x + at, weight, means[r], scales[r], dy + at, dresidual ? dresidual + at : nullptr,
                              dx + at, ddelta ? ddelta + at : nullptr, sums + 2 * part * width,
                              dbias ? sums + (2 * part + 1) * width : nullptr);
        }
    for (int64_t i = 0; i < width; i++) dweight[i] = 0;
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < width; i++) dweight[i] += sums[2 * part * width + i];
    if (!dbias) return;
    for (int64_t i = 0; i < width; i++) dbias[i] = 0;
    for (int64_t part = 0; part < parts; part++)
        for (int64_t i = 0; i < width; i++) dbias[i] += sums[(2 * part + 1) * width + i];
}

}  // namespace

// NAME: the type of the rows, then that of the result.
#define FOR_TYPES(NAME, X, Y)                                                                                          \
    extern "C" void eco_norm_##NAME(const Sizes *s, const X *residual, const Y *delta, X *x, const float *weight,      \
                                    const float *bias, Y *y, float *means, float *scales) {                            \
        norm<X, Y>(*s, residual, delta, x, weight, bias, y, means, scales);                                            \
    }                                                                                                                  \
    extern "C" void eco_norm_backward_##NAME(const Sizes *s, const X *x, const float *weight, const float *means,      \
                                             const float *scales, const Y *dy, const X *dresidual, X *dx, Y *ddelta,   \
                                             float *dweight, float *dbias) {                                           \
        norm_backward<X, Y>(*s, x, weight, means, scales, dy, dresidual, dx, ddelta, dweight, dbias);                  \
    }

FOR_TYPES(float32_float32, float, float)
FOR_TYPES(float32_bfloat16, float, bf16)
FOR_TYPES(bfloat16_bfloat16, bf16, bf16)
