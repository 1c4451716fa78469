// Matrices as the mixer's products read them, in bf16 and in fp32.
//
// A product's first matrix has its rows contiguous along the summed dimension. Its second is packed: the word at
// [k / PACK][n] holds the entries k .. k + PACK - 1 of column n, two in bf16 (see product.h), one in fp32. All sizes
// are multiples of 32.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <memory>

#include "product.h"

namespace mamba3 {

template <class T>
struct Packed;
template <>
struct Packed<bf16> {
    using Word = uint32_t;
};
template <>
struct Packed<float> {
    using Word = float;
};
template <class T>
using Word = typename Packed<T>::Word;
template <class T>
constexpr int PACK = sizeof(Word<T>) / sizeof(T);

// Zeros, aligned to the lanes.
template <class T>
class Buffer {
    std::unique_ptr<T[], void (*)(void *)> data;

   public:
    explicit Buffer(int64_t count) : data((T *)std::aligned_alloc(64, padded(count)), std::free) {
        std::memset(data.get(), 0, padded(count));
    }
    operator T *() const { return data.get(); }

   private:
    static int64_t padded(int64_t count) { return (count * int64_t(sizeof(T)) + 63) / 64 * 64; }
};

using ::product;

// The same in fp32.
static inline void product(int M, int N, int K, const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                           bool accumulate = false) {
    constexpr int ROWS = 8, COLUMNS = 2;
    for (int n = 0; n < N; n += LANES * COLUMNS)
        for (int m = 0; m < M; m += ROWS) {
            Lanes acc[ROWS][COLUMNS] = {};
            if (accumulate)
                for (int i = 0; i < ROWS; i++)
                    for (int j = 0; j < COLUMNS; j++) acc[i][j] = lanes_at(c + (m + i) * ldc + n + LANES * j);
            for (int k = 0; k < K; k++)
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                    for (int j = 0; j < COLUMNS; j++)
                        acc[i][j] += a[(m + i) * lda + k] * lanes_at(b + k * ldb + n + LANES * j);
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < COLUMNS; j++) store_lanes(c + (m + i) * ldc + n + LANES * j, acc[i][j]);
        }
}

static inline Words wide(Halves x) {
#ifdef __AVX512BF16__
    // One instruction, of which GCC 12 makes four below; masked, as its own header warns of the plain one.
    return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)x);
#else
    return __builtin_convertvector(x, Words);
#endif
}

static inline void store_packed(float *out, const Lanes (&rows)[1]) { store_lanes(out, rows[0]); }
static inline void store_packed(uint32_t *out, const Lanes (&rows)[2]) {
    *(Words *)out = wide(bf16_bits(rows[0])) | wide(bf16_bits(rows[1])) << 16;
}

// x packed, each of its rows times a number of its own.
template <class T>
void pack_scaled(const T *x, const float *scales, int rows, int columns, Word<T> *out) {
    for (int row = 0; row < rows; row += PACK<T>)
        for (int column = 0; column < columns; column += LANES) {
            Lanes scaled[PACK<T>];
            for (int i = 0; i < PACK<T>; i++)
                scaled[i] = lanes_at(x + (row + i) * columns + column) * scales[row + i];
            store_packed(out + row / PACK<T> * columns + column, scaled);
        }
}

// x packed.
static inline void pack(const float *x, int rows, int columns, float *out) {
    std::memcpy(out, x, sizeof(float) * rows * columns);
}
static inline void pack(const bf16 *x, int rows, int columns, uint32_t *out) {
    for (int row = 0; row < rows; row += 2, x += 2 * columns, out += columns)
        for (int column = 0; column < columns; column += LANES)
            *(Words *)(out + column) = wide(*(const Halves *)(x + column)) |
                                       wide(*(const Halves *)(x + columns + column)) << 16;
}

static inline void transpose_words(const void *x, int rows, int columns, void *out) {
    for (int row = 0; row < rows; row += LANES)
        for (int column = 0; column < columns; column += LANES)
            transpose_16((const uint32_t *)x + row * columns + column, columns, (uint32_t *)out + column * rows + row,
                         rows);
}

// The transpose of x (rows x columns), packed: columns / PACK x rows words.
template <class T>
void pack_transposed(const T *x, int rows, int columns, Word<T> *out) {
    transpose_words(x, rows, columns / PACK<T>, out);
}

// x (rows x columns), which is given packed, as it is: the way to a transpose.
static inline void unpack(const float *x, int rows, int columns, float *out) { pack(x, rows, columns, out); }
static inline void unpack(const uint32_t *x, int rows, int columns, bf16 *out) {
    for (int row = 0; row < rows; row += 2, x += columns, out += 2 * columns)
        for (int column = 0; column < columns; column += LANES) {
            const Words words = *(const Words *)(x + column);
            *(Halves *)(out + column) = __builtin_convertvector(words, Halves);
            *(Halves *)(out + columns + column) = __builtin_convertvector(words >> 16, Halves);
        }
}

}  // namespace mamba3
