// Sixteen fp32 numbers at once, for the loops that the compiler does not vectorise well by itself.
#pragma once
#include "numbers.h"

#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif

constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));

static inline Lanes lanes_at(const float *x) { return *(const Lanes *)x; }
static inline void store_lanes(float *out, Lanes x) { *(Lanes *)out = x; }

static inline Lanes lanes_at(const bf16 *x) {
#ifdef __AVX512BF16__  // of the conversion below GCC 12 makes four instructions
    return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i) * (const Halves *)x), 16);
#else
    return (Lanes)(__builtin_convertvector(*(const Halves *)x, Words) << 16);
#endif
}

// The bits of the sixteen numbers in bf16, rounded as `store` does.
static inline Halves bf16_bits(Lanes x) {
#ifdef __AVX512BF16__
    return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    const Words u = (Words)x;
    const Words rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return __builtin_convertvector(x != x ? Words{} + 0x7fc0 : rounded, Halves);
#endif
}

static inline void store_lanes(bf16 *out, Lanes x) { *(Halves *)out = bf16_bits(x); }

// acc[i] += a's two numbers times the two of b[i]
static inline Lanes add_pair_products(Lanes acc, uint32_t a, Words b) {
#ifdef __AVX512BF16__
    return (Lanes)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
#else
    const Lanes low = (Lanes)(b << 16), high = (Lanes)(b & 0xffff0000u);
    return acc + low * float_of(a << 16) + high * float_of(a & 0xffff0000u);
#endif
}

// See the scalar exp_of.
static inline Lanes exp_of(Lanes x) {
    const Lanes shifted = x * 1.44269504f + 12582912.0f;
    const Lanes n = shifted - 12582912.0f;
    const Lanes r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    Lanes p = r * 1.38888889e-3f + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Lanes power = (Lanes)(((Words)shifted + 127) << 23);
    const Lanes inside = x < -87.0f ? Lanes{} : p * power;
    return x > 88.0f ? Lanes{} + INFINITY : inside;
}

// out = in transposed, 16 x 16 words; rows are ldi and ldo words apart. Each round swaps the off-diagonal quarters of
// blocks twice as large as the last.
static inline void transpose_16(const uint32_t *in, int64_t ldi, uint32_t *out, int64_t ldo) {
    Words rows[LANES];
    for (int i = 0; i < LANES; i++) rows[i] = *(const Words *)(in + i * ldi);
#pragma GCC unroll 4
    for (int size = 1; size < LANES; size *= 2) {
        Words low, high;
        for (int i = 0; i < LANES; i++) {
            low[i] = i & size ? LANES + i - size : i;
            high[i] = i & size ? LANES + i : i + size;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & size) continue;
            const Words top = rows[i], bottom = rows[i + size];
            rows[i] = __builtin_shuffle(top, bottom, low);
            rows[i + size] = __builtin_shuffle(top, bottom, high);
        }
    }
    for (int i = 0; i < LANES; i++) *(Words *)(out + i * ldo) = rows[i];
}

// One formula for sixteen numbers and for one: body(i, kind) handles N = decltype(kind) from index i on, with
// get<N>(pointer) and put(pointer, N).
template <class Body>
static inline void for_each(int64_t count, Body body) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) body(i, Lanes{});
    for (; i < count; i++) body(i, 0.0f);
}

// The sum of body(i, kind) over all i, added in an order that depends on `count` alone.
template <class Body>
static inline float sum_each(int64_t count, Body body) {
    Lanes sums = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) sums += body(i, Lanes{});
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    for (; i < count; i++) sum += body(i, 0.0f);
    return sum;
}

template <class N, class T>
static inline N get(const T *x) {
    if constexpr (sizeof(N) == sizeof(float)) return load(*x);
    else return lanes_at(x);
}

template <class T>
static inline void put(T *out, float x) { store(*out, x); }
template <class T>
static inline void put(T *out, Lanes x) { store_lanes(out, x); }
