// The passes over memory of a ternary linear layer: codes of weights and of activations, the scaling of products, and
// the product of few rows with packed weights, in exact integers. Sums of weights are of doubles.
#include <algorithm>
#include <vector>

#include "lanes.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace {

constexpr float EPS = 1e-8f, LEAST = 1e-30f;  // as in eager.py
constexpr int64_t CHUNK = 16384;              // weights that a thread takes at a time

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(64)));

double sum_of_sizes(int64_t count, const float *x) {
    Doubles sums[2] = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int half = 0; half < 2; half++) {
            const Eight v = *(const Eight *)(x + i + 8 * half);
            sums[half] += __builtin_convertvector(v < 0 ? -v : v, Doubles);
        }
    double sum = 0;
    for (int lane = 0; lane < 8; lane++) sum += sums[0][lane] + sums[1][lane];
    for (; i < count; i++) sum += std::fabs(x[i]);
    return sum;
}

// One block of rows. Each thread reads the same chunks in both passes: a block that fits is in the cache the second time.
template <class T>
void ternarise(int64_t count, const float *weight, T *codes, float *scale) {
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    std::vector<double> sums(chunks);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; c++) sums[c] = sum_of_sizes(std::min(CHUNK, count - c * CHUNK), weight + c * CHUNK);
    double sum = 0;
    for (const double part : sums) sum += part;
    *scale = float(sum / double(count));
    if (!codes) return;
    const float inverse = 1.0f / (*scale + EPS);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; c++)
        for_each(std::min(CHUNK, count - c * CHUNK), [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N v = get<N>(weight + c * CHUNK + i) * inverse, one = N{} + 1.0f;
            put(codes + c * CHUNK + i, v > 0.5f ? one : v < -0.5f ? -one : N{});
        });
}

// codes = round(x * 127 / max|x|), ties to even, and the step max|x| / 127. A NaN stays one.
template <class X, class Y>
void round_row(int64_t width, const X *x, Y *codes, float *step) {
    Lanes most = Lanes{} + LEAST;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        const Lanes v = lanes_at(x + i), size = v < 0 ? -v : v;
        most = size > most ? size : most;
    }
    float max = LEAST;
    for (int lane = 0; lane < LANES; lane++) max = std::max(max, most[lane]);
    for (; i < width; i++) max = std::max(max, std::fabs(load(x[i])));
    const float inverse = 127.0f / max;
    for (i = 0; i < width; i++) store(codes[i], std::nearbyint(load(x[i]) * inverse));
    *step = max / 127.0f;
}

template <class X, class Y>
void round_rows(int64_t rows, int64_t width, const X *x, Y *codes, float *steps) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) round_row(width, x + r * width, codes + r * width, steps + r);
}

// out = x * row * column; rows or columns may be null.
template <class T>
void scale(int64_t rows, int64_t width, const T *x, const float *row, const float *column, T *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float factor = row ? row[r] : 1.0f;
        for_each(width, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N scaled = get<N>(x + r * width + i) * factor;
            put(out + r * width + i, column ? scaled * get<N>(column + i) : scaled);
        });
    }
}

// Byte j of a row is the codes j, Q + j, 2Q + j and 3Q + j, plus one, of two bits each; beyond the width they are 0.
template <class T>
void pack(int64_t rows, int64_t width, const T *codes, uint8_t *packed) {
    const int64_t quarter = (width + 3) / 4;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *out = packed + r * quarter;
        for (int64_t k = 0; k < 4; k++) {
            const int64_t filled = std::max(int64_t(0), std::min(quarter, width - k * quarter));
            const T *in = codes + r * width + k * quarter;
            for (int64_t j = 0; j < filled; j++) out[j] = (k ? out[j] : 0) | uint8_t(int(load(in[j])) + 1) << 2 * k;
            for (int64_t j = filled; j < quarter; j++) out[j] = (k ? out[j] : 0) | 1 << 2 * k;
        }
    }
}

constexpr int64_t BYTES = 64;  // of packed weights that are unpacked at a time
constexpr int ROWS = 4;        // of x that meet each unpacked weight

// Rows of x as codes, in the order in which the packed weights meet them: four quarters, each padded with zeros.
struct Activations {
    int64_t quarter, padded;
    std::vector<int8_t> codes;
    std::vector<float> steps;
    std::vector<int32_t> sums;

    const int8_t *at(int64_t row, int64_t k) const { return codes.data() + (4 * row + k) * padded; }
};

template <class X>
Activations round_activations(int64_t rows, int64_t width, const X *x) {
    const int64_t quarter = (width + 3) / 4, padded = (quarter + BYTES - 1) / BYTES * BYTES;
    Activations a{quarter, padded, std::vector<int8_t>(rows * 4 * padded), std::vector<float>(rows),
                  std::vector<int32_t>(rows)};
    std::vector<float> row(width);
    for (int64_t r = 0; r < rows; r++) {
        round_row(width, x + r * width, row.data(), &a.steps[r]);
        for (int64_t i = 0; i < width; i++) {
            const int8_t code = int8_t(row[i]);
            a.codes[(4 * r + i / quarter) * padded + i % quarter] = code;
            a.sums[r] += code;
        }
    }
    return a;
}

// sums[m] = the products of M rows of activations, from `first` on, with one row of packed codes plus one.
template <int M>
void product(const Activations &a, int64_t first, const uint8_t *packed, int32_t *sums) {
#ifdef __AVX512VNNI__
    __m512i acc[M] = {};
    const __m512i low = _mm512_set1_epi8(3);
    for (int64_t j = 0; j < a.quarter; j += BYTES) {
        const int64_t left = a.quarter - j;
        const __mmask64 inside = left < BYTES ? (uint64_t(1) << left) - 1 : ~uint64_t(0);
        const __m512i bytes = _mm512_maskz_loadu_epi8(inside, packed + j);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const __m512i codes = _mm512_and_si512(_mm512_srli_epi16(bytes, 2 * k), low);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++)
                acc[m] = _mm512_dpbusd_epi32(acc[m], codes, _mm512_loadu_si512(a.at(first + m, k) + j));
        }
    }
    for (int m = 0; m < M; m++) sums[m] = _mm512_reduce_add_epi32(acc[m]);
#else
    for (int m = 0; m < M; m++) {
        sums[m] = 0;
        for (int k = 0; k < 4; k++) {
            const int8_t *x = a.at(first + m, k);
            for (int64_t j = 0; j < a.quarter; j++) sums[m] += int32_t(packed[j] >> 2 * k & 3) * x[j];
        }
    }
#endif
}

void product(const Activations &a, int64_t first, int64_t rows, const uint8_t *packed, int32_t *sums) {
    switch (rows) {
        case 1: return product<1>(a, first, packed, sums);
        case 2: return product<2>(a, first, packed, sums);
        case 3: return product<3>(a, first, packed, sums);
        default: return product<ROWS>(a, first, packed, sums);
    }
}

// out (rows, outputs) = x (rows, width) times the transpose of packed (outputs, quarter) times column (outputs).
template <class X, class Y>
void packed_linear(int64_t rows, int64_t width, int64_t outputs, const X *x, const uint8_t *packed, const float *column,
                   Y *out) {
    const Activations a = round_activations(rows, width, x);
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < outputs; o++)
        for (int64_t first = 0; first < rows; first += ROWS) {
            const int64_t count = std::min(int64_t(ROWS), rows - first);
            int32_t sums[ROWS];
            product(a, first, count, packed + o * a.quarter, sums);
            for (int64_t m = 0; m < count; m++) {
                const int64_t r = first + m;
                store(out[r * outputs + o], float(sums[m] - a.sums[r]) * a.steps[r] * column[o]);
            }
        }
}

}  // namespace

#define FOR_TYPE(NAME, T)                                                                                             \
    extern "C" void eco_ternarise_##NAME(int64_t count, const float *weight, T *codes, float *scale) {                \
        ternarise(count, weight, codes, scale);                                                                       \
    }                                                                                                                 \
    extern "C" void eco_ternary_scale_##NAME(int64_t rows, int64_t width, const T *x, const float *row,               \
                                             const float *column, T *out) {                                           \
        scale(rows, width, x, row, column, out);                                                                      \
    }                                                                                                                 \
    extern "C" void eco_ternary_pack_##NAME(int64_t rows, int64_t width, const T *codes, uint8_t *packed) {           \
        pack(rows, width, codes, packed);                                                                             \
    }

FOR_TYPE(float32, float)
FOR_TYPE(bfloat16, bf16)

// NAME: the type of the rows, then that of the result.
#define FOR_TYPES(NAME, X, Y)                                                                                         \
    extern "C" void eco_ternary_round_##NAME(int64_t rows, int64_t width, const X *x, Y *codes, float *steps) {       \
        round_rows(rows, width, x, codes, steps);                                                                     \
    }                                                                                                                 \
    extern "C" void eco_packed_linear_##NAME(int64_t rows, int64_t width, int64_t outputs, const X *x,                \
                                             const uint8_t *packed, const float *column, Y *out) {                    \
        packed_linear(rows, width, outputs, x, packed, column, out);                                                  \
    }

FOR_TYPES(float32_float32, float, float)
FOR_TYPES(float32_bfloat16, float, bf16)
FOR_TYPES(bfloat16_bfloat16, bf16, bf16)
