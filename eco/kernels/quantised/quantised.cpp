// Numbers in 4, 6 or 8 bits, in groups with a grid of their own, rounded stochastically: one pass each way.
//
// No multiplication is fused with the addition after it, so that plain torch computes the same bits.
#pragma GCC optimize("fp-contract=off")
#include <algorithm>

#include "lanes.h"
#include "rounding.h"

namespace {

constexpr int GROUP = 128;
constexpr int64_t CHUNK = 128;         // groups that a thread takes at a time
constexpr float LEAST_STEP = 1e-30f;  // a group of numbers closer than this is its least number

float down(float x) {  // the next lower bf16 number
    const uint32_t u = bits_of(x), high = u & 0xffff0000u;
    return float_of(high + (u >> 31 && (u & 0xffff) ? 0x10000u : 0u));
}
float up(float x) { return -down(-x); }
bf16 narrow(float x) { return {uint16_t(bits_of(x) >> 16)}; }  // of a number that bf16 holds

struct Grid {
    float low, step;
};

Grid grid(const float *x, float levels) {
    Lanes least = lanes_at(x), most = least, broken = {}, fraction = {};
    for (int i = 0; i < GROUP; i += LANES) {
        const Lanes v = lanes_at(x + i);
        // Adding and subtracting 1.5 x 2^23 rounds to an integer what is below 2^22; larger numbers span more than any
        // group of integers may, or are all the same.
        const Lanes shifted = v + 12582912.0f;
        least = v < least ? v : least;
        most = v > most ? v : most;
        broken += v * 0.0f;
        fraction = v == shifted - 12582912.0f ? fraction : Lanes{} + 1.0f;
    }
    float lowest = least[0], highest = most[0], bad = 0, parts = 0;
    for (int i = 0; i < LANES; i++) {
        lowest = std::min(lowest, least[i]);
        highest = std::max(highest, most[i]);
        bad += broken[i];
        parts += fraction[i];
    }
    const float low = down(lowest), span = highest - low;
    if (bad != bad) return {NAN, NAN};
    return {low, parts == 0 && span <= levels ? 1.0f : up(span * (1.0f / levels))};
}

template <int BITS>
void encode(const float *x, uint32_t first, uint32_t key, Grid g, uint8_t *codes) {
    constexpr float LEVELS = (1 << BITS) - 1;
    const float inverse = g.step >= LEAST_STEP ? 1.0f / g.step : 0.0f;
    uint8_t found[GROUP];
    for (int i = 0; i < GROUP; i++) {
        const float drawn = float(int32_t(mix((first + uint32_t(i)) ^ key) >> 16)) * 0x1p-16f;
        const float place = (x[i] - g.low) * inverse + drawn;
        found[i] = uint8_t(int32_t(place < LEVELS ? place : LEVELS));
    }
    if (BITS == 8) {
        std::memcpy(codes, found, GROUP);
        return;
    }
    for (int i = 0; i < GROUP / 2; i++) codes[i] = uint8_t((found[i] & 15) | found[GROUP / 2 + i] << 4);
    if (BITS == 6)
        for (int i = 0; i < GROUP / 4; i++) {
            const uint8_t *in = found + i;
            const int pairs = in[0] >> 4 | in[GROUP / 4] >> 4 << 2 | in[GROUP / 2] >> 4 << 4 | in[GROUP * 3 / 4] >> 4 << 6;
            codes[GROUP / 2 + i] = uint8_t(pairs);
        }
}

template <int BITS, class T>
void quantise(int64_t count, uint32_t key, const T *x, uint8_t *codes, bf16 *low, bf16 *step) {
    const int64_t groups = (count + GROUP - 1) / GROUP;
#pragma omp parallel for schedule(static, CHUNK)
    for (int64_t group = 0; group < groups; group++) {
        const int64_t first = group * GROUP;
        const int there = int(std::min<int64_t>(GROUP, count - first));
        alignas(64) float numbers[GROUP];
        if (there == GROUP)
            for (int i = 0; i < GROUP; i += LANES) store_lanes(numbers + i, lanes_at(x + first + i));
        else
            for (int i = 0; i < GROUP; i++) numbers[i] = load(x[first + std::min(i, there - 1)]);
        const Grid g = grid(numbers, (1 << BITS) - 1);
        encode<BITS>(numbers, uint32_t(first), key, g, codes + group * (GROUP * BITS / 8));
        low[group] = narrow(g.low);
        step[group] = narrow(g.step);
    }
}

template <int BITS>
void decode(const uint8_t *codes, uint8_t *found) {
    if (BITS == 8) {
        std::memcpy(found, codes, GROUP);
        return;
    }
    for (int i = 0; i < GROUP / 2; i++) {
        found[i] = codes[i] & 15;
        found[GROUP / 2 + i] = codes[i] >> 4;
    }
    if (BITS == 6)
        for (int quarter = 0; quarter < 4; quarter++)
            for (int i = 0; i < GROUP / 4; i++)
                found[quarter * (GROUP / 4) + i] |= uint8_t((codes[GROUP / 2 + i] >> 2 * quarter & 3) << 4);
}

template <int BITS, class T>
void dequantise(int64_t count, const uint8_t *codes, const bf16 *low, const bf16 *step, T *out) {
    const int64_t groups = (count + GROUP - 1) / GROUP;
#pragma omp parallel for schedule(static, CHUNK)
    for (int64_t group = 0; group < groups; group++) {
        const float lowest = load(low[group]), size = load(step[group]);
        uint8_t found[GROUP];
        decode<BITS>(codes + group * (GROUP * BITS / 8), found);
        alignas(64) float numbers[GROUP];
        for (int i = 0; i < GROUP; i++) numbers[i] = float(int32_t(found[i])) * size + lowest;
        const int64_t first = group * GROUP, there = std::min<int64_t>(GROUP, count - first);
        for_each(there, [&](int64_t i, auto kind) { put(out + first + i, get<decltype(kind)>(numbers + i)); });
    }
}

// pick(4, 6, 8) by `bits`.
template <class F>
F pick(int64_t bits, F four, F six, F eight) {
    return bits == 4 ? four : bits == 6 ? six : eight;
}

}  // namespace

#define QUANTISED(name, T)                                                                                             \
    extern "C" void eco_quantise_##name(int64_t count, int64_t bits, int64_t key, const T *x, uint8_t *codes,          \
                                        bf16 *low, bf16 *step) {                                                       \
        pick(bits, quantise<4, T>, quantise<6, T>, quantise<8, T>)(count, uint32_t(key), x, codes, low, step);         \
    }                                                                                                                  \
    extern "C" void eco_dequantise_##name(int64_t count, int64_t bits, const uint8_t *codes, const bf16 *low,          \
                                          const bf16 *step, T *out) {                                                  \
        pick(bits, dequantise<4, T>, dequantise<6, T>, dequantise<8, T>)(count, codes, low, step, out);                \
    }

QUANTISED(float32, float)
QUANTISED(bfloat16, bf16)
