// Element types and the few functions that every kernel needs, written so that the compiler vectorises them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct bf16 {
    uint16_t bits;
};

static inline uint32_t bits_of(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    return u;
}

static inline float float_of(uint32_t u) {
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

static inline float load(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
static inline float load(float x) { return x; }

// Round to nearest, ties to even; a NaN stays a NaN, so that a broken loss is seen.
static inline void store(bf16 &out, float x) {
    const uint32_t u = bits_of(x);
    const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    out.bits = uint16_t(x != x ? 0x7fc0 : rounded);
}
static inline void store(float &out, float x) { out = x; }

// exp with relative error under 2e-7 between -87 and 88; 0 below, infinity above, NaN of NaN.
// exp(x) = 2^n * exp(r) with r in [-ln2/2, ln2/2], and exp(r) by its Taylor polynomial to degree 7.
static inline float exp_of(float x) {
    const float shifted = x * 1.44269504f + 12582912.0f;  // the sum's low mantissa bits are the rounded integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const float power = float_of((bits_of(shifted) + 127) << 23);
    const float inside = x < -87.0f ? 0.0f : p * power;
    return x > 88.0f ? INFINITY : inside;
}

static inline float sigmoid_of(float x) { return 1.0f / (1.0f + exp_of(-x)); }
