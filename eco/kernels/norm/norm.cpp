// RMSNorm and LayerNorm of fp32 or bf16 rows, forward and backward, with the addition to the residual stream that
// comes before them in a transformer: x = residual + delta, y = norm(x). Sums are fp32.
#include <cmath>
#include <cstdlib>
#include <memory>

#include "lanes.h"

namespace {

constexpr int64_t PARTS = 64;  // partial sums of the weight's gradient: as many whatever the number of threads

struct Sizes {
    int64_t rows, width;
    float eps;
    int32_t centred;  // 1: LayerNorm, 0: RMSNorm
};

template <class X, class Y>
void norm_row(const Sizes &s, const X *x, const float *weight, const float *bias, Y *y, float *mean, float *scale) {
    const auto value = [&](int64_t i, auto kind) { return get<decltype(kind)>(x + i); };
    const float m = s.centred ? sum_each(s.width, value) / float(s.width) : 0.0f;
    const float squares = sum_each(s.width, [&](int64_t i, auto kind) {
        const auto away = get<decltype(kind)>(x + i) - m;
        return away * away;
    });
    const float r = 1.0f / std::sqrt(squares / float(s.width) + s.eps);
    for_each(s.width, [&](int64_t i, auto kind) {
        using N = decltype(kind);
        const N scaled = (get<N>(x + i) - m) * r * get<N>(weight + i);
        put(y + i, bias ? scaled + get<N>(bias + i) : scaled);
    });
    *mean = m;
    *scale = r;
}

// residual and delta may be null: then x is the input already.
template <class X, class Y>
void norm(const Sizes &s, const X *residual, const Y *delta, X *x, const float *weight, const float *bias, Y *y,
          float *means, float *scales) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < s.rows; r++) {
        const int64_t at = r * s.width;
        if (delta)
            for_each(s.width, [&](int64_t i, auto kind) {
                using N = decltype(kind);
                put(x + at + i, get<N>(residual + at + i) + get<N>(delta + at + i));
            });
        norm_row(s, x + at, weight, bias, y + at, means + r, scales + r);
    }
}

// dx = dresidual + scale * (g - mean(g) - xhat * mean(g * xhat)), g = dy * weight, xhat = (x - m) * scale;
// ddelta, if wanted, is dx in delta's type.
template <class X, class Y>
void norm_backward_row(const Sizes &s, const X *x, const float *weight, float m, float scale, const Y *dy,
                       const X *dresidual, X *dx, Y *ddelta, float *dweight, float *dbias) {
    const auto along_x = [&](int64_t i, auto kind) {
        using N = decltype(kind);
        return get<N>(dy + i) * get<N>(weight + i) * (get<N>(x + i) - m);
    };
    const auto gradient = [&](int64_t i, auto kind) {
        using N = decltype(kind);
        return get<N>(dy + i) * get<N>(weight + i);
    };
    const float along = sum_each(s.width, along_x) * scale * scale / float(s.width);
    const float mean = s.centred ? sum_each(s.width, gradient) / float(s.width) : 0.0f;
    for_each(s.width, [&](int64_t i, auto kind) {
        using N = decltype(kind);
        const N d = get<N>(dy + i), away = get<N>(x + i) - m;
        const N own = scale * (d * get<N>(weight + i) - mean - away * along);
        const N all = dresidual ? own + get<N>(dresidual + i) : own;
        put(dx + i, all);
        if (ddelta) put(ddelta + i, all);
        put(dweight + i, get<N>(dweight + i) + d * away * scale);
        if (dbias) put(dbias + i, get<N>(dbias + i) + d);
    });
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

// y = (x + delta) * scale, where scale = 1 / sqrt(mean((x + delta)^2) + eps); the sum is never rounded to X.
template <class X>
void add_unit_norm(const Sizes &s, const X *x, const X *delta, X *y, float *scales) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < s.rows; r++) {
        const int64_t at = r * s.width;
        const auto total = [&](int64_t i, auto kind) {
            using N = decltype(kind);
            return get<N>(x + at + i) + get<N>(delta + at + i);
        };
        const float squares = sum_each(s.width, [&](int64_t i, auto kind) {
            const auto t = total(i, kind);
            return t * t;
        });
        const float scale = 1.0f / std::sqrt(squares / float(s.width) + s.eps);
        for_each(s.width, [&](int64_t i, auto kind) { put(y + at + i, total(i, kind) * scale); });
        scales[r] = scale;
    }
}

// dx = scale * (dy - y * mean(dy * y)), and delta's gradient is the same: the output stands for the input.
template <class X>
void add_unit_norm_backward(const Sizes &s, const X *y, const float *scales, const X *dy, X *dx) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < s.rows; r++) {
        const int64_t at = r * s.width;
        const float along = sum_each(s.width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            return get<N>(dy + at + i) * get<N>(y + at + i);
        });
        const float mean = along / float(s.width);
        for_each(s.width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            put(dx + at + i, (get<N>(dy + at + i) - get<N>(y + at + i) * mean) * scales[r]);
        });
    }
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

#define FOR_TYPE(NAME, X)                                                                                              \
    extern "C" void eco_add_unit_norm_##NAME(const Sizes *s, const X *x, const X *delta, X *y, float *scales) {        \
        add_unit_norm<X>(*s, x, delta, y, scales);                                                                     \
    }                                                                                                                  \
    extern "C" void eco_add_unit_norm_backward_##NAME(const Sizes *s, const X *y, const float *scales, const X *dy,    \
                                                      X *dx) {                                                         \
        add_unit_norm_backward<X>(*s, y, scales, dy, dx);                                                              \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
