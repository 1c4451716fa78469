// SwiGLU and tanh-approximated GELU, forward and backward, one pass over memory each.
#include "lanes.h"

namespace {

// gelu(x) = x * sigmoid(2u) with u = sqrt(2 / pi) * (x + 0.044715 x^3), because 1 + tanh(u) = 2 sigmoid(2u).
constexpr float SLOPE = 1.5957691216f, CUBIC = 0.044715f;  // SLOPE = 2 * sqrt(2 / pi)

constexpr int64_t CHUNK = 4096;  // elements that a thread takes at a time

template <class N>
N sigmoid(N x) {
    return 1.0f / (1.0f + exp_of(-x));
}

// gate_up: (rows, 2 * width), a row's gate first. out: (rows, width).
template <class T>
void swiglu(int64_t rows, int64_t width, const T *gate_up, T *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const T *gate = gate_up + 2 * r * width, *up = gate + width;
        T *y = out + r * width;
        for_each(width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N x = get<N>(gate + i);
            put(y + i, x * sigmoid(x) * get<N>(up + i));
        });
    }
}

template <class T>
void swiglu_backward(int64_t rows, int64_t width, const T *gate_up, const T *dout, T *dgate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const T *gate = gate_up + 2 * r * width, *up = gate + width, *dy = dout + r * width;
        T *dgate = dgate_up + 2 * r * width, *dup = dgate + width;
        for_each(width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N x = get<N>(gate + i), d = get<N>(dy + i), s = sigmoid(x);
            put(dup + i, d * x * s);
            put(dgate + i, d * get<N>(up + i) * s * (1.0f + x * (1.0f - s)));
        });
    }
}

template <class T>
void gelu(int64_t count, const T *x, T *y) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < count; start += CHUNK)
        for_each(count - start < CHUNK ? count - start : CHUNK, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N v = get<N>(x + start + i);
            put(y + start + i, v * sigmoid(SLOPE * v * (1.0f + CUBIC * v * v)));
        });
}

template <class T>
void gelu_backward(int64_t count, const T *x, const T *dy, T *dx) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < count; start += CHUNK)
        for_each(count - start < CHUNK ? count - start : CHUNK, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N v = get<N>(x + start + i), s = sigmoid(SLOPE * v * (1.0f + CUBIC * v * v));
            const N slope = SLOPE * (1.0f + 3.0f * CUBIC * v * v);
            put(dx + start + i, get<N>(dy + start + i) * s * (1.0f + v * (1.0f - s) * slope));
        });
}

}  // namespace

#define FOR_TYPE(NAME, T)                                                                                             \
    extern "C" void eco_swiglu_##NAME(int64_t rows, int64_t width, const T *gate_up, T *out) {                        \
        swiglu(rows, width, gate_up, out);                                                                            \
    }                                                                                                                 \
    extern "C" void eco_swiglu_backward_##NAME(int64_t rows, int64_t width, const T *gate_up, const T *dout,          \
                                               T *dgate_up) {                                                         \
        swiglu_backward(rows, width, gate_up, dout, dgate_up);                                                        \
    }                                                                                                                 \
    extern "C" void eco_gelu_##NAME(int64_t count, const T *x, T *y) { gelu(count, x, y); }                           \
    extern "C" void eco_gelu_backward_##NAME(int64_t count, const T *x, const T *dy, T *dx) {                         \
        gelu_backward(count, x, dy, dx);                                                                              \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
