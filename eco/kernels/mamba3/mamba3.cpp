// The Mamba-3 mixer, forward: chunk after chunk of one head in cache; neither values, keys and queries of the heads nor
// scores reach memory. Sums, decays and the memory are fp32, products of matrices T.
#include "chunk.h"

using namespace mamba3;

namespace {

struct State {
    float *memory, *key, *value;  // (B, H, N, P), (B, H, R, N), (B, H, R, P)
};

template <class T>
void gather(const Chunk<T> &c, const Place &at, const View &y) {
    const Problem &p = c.p;
    const int64_t ranks = p.R, size = p.P, stride = c.P, weights = at.h * ranks * size;
    const float *spread = p.value_in + weights, *gate_in = p.gate_in + weights, *out = p.out + weights;
    const float *mixed = c.mixed;
    for (int i = 0; i < at.count; i++, mixed += ranks * stride) {
        const T *x = p.x.row<T>(at.b, at.t + i, at.h), *gate = p.gate.row<T>(at.b, at.t + i, at.h);
        T *to = y.row<T>(at.b, at.t + i, at.h);
        for_each(size, [=, skip = p.skip[at.h]](int64_t j, auto kind) {
            using V = decltype(kind);
            const V opened = get<V>(gate + j), skipped = get<V>(x + j) * skip;
            V sum = {};
            for (int64_t r = 0; r < ranks; r++) {
                const int64_t weight = r * size + j;
                const V whole = get<V>(mixed + r * stride + j) + skipped * get<V>(spread + weight);
                const V z = opened * get<V>(gate_in + weight);
                sum += whole * z * sigmoid(z) * get<V>(out + weight);
            }
            put(to + j, sum);
        });
    }
}

// The state after the last position of one head.
template <class T>
void store_state(const Chunk<T> &c, int64_t b, int64_t h, const float *memory, const State &state) {
    const Problem &p = c.p;
    const int64_t head = b * p.H + h, last = p.T - 1, angle = p.at(b, last, h) * p.A;
    c.copy_memory(memory, c.P, state.memory + head * p.N * p.P, p.P);
    const T *key = (const T *)p.key + (b * p.T + last) * p.R * p.N, *x = p.x.row<T>(b, last, h);
    for (int64_t r = 0; r < p.R; r++) {
        turn_row(p.N, p.A, key + r * p.N, p.key_bias + (h * p.R + r) * p.N, p.cos + angle, p.sin + angle,
                 state.key + (head * p.R + r) * p.N);
        for (int64_t j = 0; j < p.P; j++)
            state.value[(head * p.R + r) * p.P + j] = load(x[j]) * p.value_in[(h * p.R + r) * p.P + j];
    }
}

template <class T>
void forward(const Problem &p, const View &y, const State &state) {
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Chunk<T> c(p);
        Buffer<float> memory(c.N * c.P);
        Buffer<T> rounded(c.N * c.P);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < p.B * p.H; item++) {
            const int64_t b = item / p.H, h = item % p.H;
            c.start(b, h, memory);
            for (int64_t index = 0; index < p.chunks(); index++) {
                const Place at(p, b, h, index), next(p, b, h, std::min(index + 1, p.chunks() - 1));
                fetch<T>(p, p.x, next);
                fetch<T>(p, p.gate, next);
                fetch_angles(p, next);
                c.decay.load(p, at);
                c.load_keys(at);
                c.load_queries(at);
                c.load_values(at);
                c.fade(memory, rounded);
                c.mix(rounded);
                gather(c, at, y);
                c.remember(memory);
            }
            store_state(c, b, h, memory, state);
        }
    }
}

}  // namespace

// One thread per (batch, head): the results do not depend on how many there are.
extern "C" void eco_mamba3_forward_float32(const Problem *p, const View *y, const State *state) {
    forward<float>(*p, *y, *state);
}
extern "C" void eco_mamba3_forward_bfloat16(const Problem *p, const View *y, const State *state) {
    forward<bf16>(*p, *y, *state);
}
