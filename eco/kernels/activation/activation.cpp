// SwiGLU and tanh-approximated GELU, forward and backward, one pass over memory each.
#include "numbers.h"

namespace {

// gelu(x) = x * sigmoid(2u) with u = sqrt(2 / pi) * (x + 0.044715 x^3), because 1 + tanh(u) = 2 sigmoid(2u).
constexpr float SLOPE = 1.5957691216f, CUBIC = 0.044715f;  // SLOPE = 2 * sqrt(2 / pi)

// gate_up: (rows, 2 * width), a row's gate first. out: (rows, width).
template <class T>
void swiglu(int64_t rows, int64_t width, const T *gate_up, T *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const T *gate = gate_up + 2 * r * width, *up = gate + width;
        T *y = out + r * width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            const float x = load(gate[i]);
            store(y[i], x * sigmoid_of(x) * load(up[i]));
        }
    }
}

template <class T>
void swiglu_backward(int64_t rows, int64_t width, const T *gate_up, const T *dout, T *dgate_up) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const T *gate = gate_up + 2 * r * width, *up = gate + width, *dy = dout + r * width;
        T *dgate = dgate_up + 2 * r * width, *dup = dgate + width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            const float x = load(gate[i]), d = load(dy[i]), s = sigmoid_of(x);
            store(dup[i], d * x * s);
            store(dgate[i], d * load(up[i]) * s * (1.0f + x * (1.0f - s)));
        }
    }
}

constexpr int64_t CHUNK = 4096;  // elements that a thread takes at a time

template <class T>
void gelu(int64_t count, const T *x, T *y) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < count; start += CHUNK) {
        const int64_t end = start + CHUNK < count ? start + CHUNK : count;
#pragma omp simd
        for (int64_t i = start; i < end; i++) {
            const float v = load(x[i]);
            store(y[i], v * sigmoid_of(SLOPE * v * (1.0f + CUBIC * v * v)));
        }
    }
}

template <class T>
void gelu_backward(int64_t count, const T *x, const T *dy, T *dx) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < count; start += CHUNK) {
        const int64_t end = start + CHUNK < count ? start + CHUNK : count;
#pragma omp simd
        for (int64_t i = start; i < end; i++) {
            const float v = load(x[i]), s = sigmoid_of(SLOPE * v * (1.0f + CUBIC * v * v));
            const float slope = SLOPE * (1.0f + 3.0f * CUBIC * v * v);
            store(dx[i], load(dy[i]) * s * (1.0f + v * (1.0f - s) * slope));
        }
    }
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
