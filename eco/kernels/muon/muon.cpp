// What Muon does before and after it orthogonalises, in one pass over memory each.
//
// A thread takes whole rows. The greatest of a matrix does not depend on who finds it; squares are added row by row, and
// the rows' sums in their order: threads change no bit.
#include <algorithm>
#include <vector>

#include "lanes.h"

namespace {

constexpr int64_t FEW = 32768;  // elements that are not worth a second thread

inline float magnitude(float x) { return std::fabs(x); }
inline Lanes magnitude(Lanes x) { return (Lanes)((Words)x & 0x7fffffffu); }
inline float greater(float a, float b) { return b > a ? b : a; }
inline Lanes greater(Lanes a, Lanes b) { return b > a ? b : a; }

// The greatest magnitude of a row. A NaN does not count.
template <class T>
float look_ahead(int64_t n, float decay, float *momentum, const float *gradient, T *out) {
    Lanes most = {};
    float rest = 0;
    const auto ahead = [&](int64_t i, auto kind, auto &largest) {
        using N = decltype(kind);
        const N g = get<N>(gradient + i);
        const N m = g + (get<N>(momentum + i) - g) * decay;
        const N x = g + (m - g) * decay;
        put(momentum + i, m);
        put(out + i, x);
        largest = greater(largest, magnitude(x));
    };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) ahead(i, Lanes{}, most);
    for (; i < n; i++) ahead(i, 0.0f, rest);
    for (int lane = 0; lane < LANES; lane++) rest = greater(rest, most[lane]);
    return rest;
}

// The sum of the squares of what is subtracted from a row, decay apart.
template <class T>
float move(int64_t n, float decay, float size, float *weight, const T *factor) {
    return sum_each(n, [&](int64_t i, auto kind) {
        using N = decltype(kind);
        const N update = get<N>(factor + i) * size;
        put(weight + i, get<N>(weight + i) * decay - update);
        return update * update;
    });
}

template <class T>
void look_ahead_all(int64_t m, int64_t n, float decay, float *momentum, const float *gradient, T *out, int64_t stride,
                    float *largest) {
    float most = 0;
#pragma omp parallel for schedule(static) reduction(max : most) if (m * n > FEW)
    for (int64_t row = 0; row < m; row++)
        most = greater(most, look_ahead(n, decay, momentum + row * n, gradient + row * n, out + row * stride));
    *largest = most;
}

template <class T>
void move_all(int64_t m, int64_t n, float decay, const float *sizes, float *weight, const T *factor, int64_t stride,
              float *norm) {
    std::vector<float> squares(m);
#pragma omp parallel for schedule(static) if (m * n > FEW)
    for (int64_t row = 0; row < m; row++)
        squares[row] = move(n, decay, sizes[row], weight + row * n, factor + row * stride);
    double sum = 0;
    for (const float square : squares) sum += square;
    *norm = float(std::sqrt(sum));
}

}  // namespace

#define FOR_TYPE(NAME, T)                                                                                              \
    extern "C" void eco_muon_look_ahead_##NAME(int64_t m, int64_t n, const float *decay, float *momentum,              \
                                               const float *gradient, T *out, int64_t stride, float *largest) {        \
        look_ahead_all(m, n, *decay, momentum, gradient, out, stride, largest);                                        \
    }                                                                                                                  \
    extern "C" void eco_muon_move_##NAME(int64_t m, int64_t n, const float *decay, const float *sizes, float *weight,  \
                                         const T *factor, int64_t stride, float *norm) {                               \
        move_all(m, n, *decay, sizes, weight, factor, stride, norm);                                                   \
    }
FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)
