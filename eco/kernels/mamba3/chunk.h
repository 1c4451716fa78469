// What the forward and the backward pass of the mixer share: a chunk of positions of one head, from the inputs to the
// sums over ranks, in cache. The method is described in eager.py.
//
// Rows are (position, rank), L of them: chunk * R, rounded up. Padding rows and columns are zero and stay so.
#pragma once
#include "operands.h"

namespace mamba3 {

// A (B, T, H, P) tensor of bf16 or fp32: strides in elements, the P numbers contiguous.
struct View {
    void *data;
    int64_t batch, time, head;
    template <class T>
    T *row(int64_t b, int64_t t, int64_t h) const {
        return (T *)data + b * batch + t * time + h * head;
    }
};

struct Problem {
    int64_t B, T, H, P, N, R, A, chunk;
    View x, gate;
    const void *key, *query;                              // (B, T, R, N) as x
    const float *log_decay, *gain, *previous_gain;        // (B, T, H)
    const float *cos, *sin;                               // (B, T, H, A), or null, and then A is 0
    const float *key_bias, *query_bias;                   // (H, R, N)
    const float *value_in, *gate_in, *out, *skip;         // (H, R, P), the last (H)
    const float *start;                                   // (B, H, N, P), the memory before it all, or null
    const uint8_t *reset;                                 // (B, T), or null

    int64_t chunks() const { return (T + chunk - 1) / chunk; }
    int64_t at(int64_t b, int64_t t, int64_t h) const { return (b * T + t) * H + h; }
    // Whether nothing is seen of what is before.
    bool begins(int64_t b, int64_t t) const { return (reset && reset[b * T + t]) || (t == 0 && !start); }
};

static inline int padded(int64_t count) { return int(count + 31) / 32 * 32; }

// The positions t .. t + count - 1 of one head.
struct Place {
    int64_t b, h, t;
    int count;
    Place(const Problem &p, int64_t b, int64_t h, int64_t index)
        : b(b), h(h), t(index * p.chunk), count(int(std::min(p.chunk, p.T - t))) {}
};

// Asks for the rows of a place that comes later: they lie far apart, and each would be waited for. Inlined, as GCC
// drops calls of functions that do nothing else.
template <class T>
[[gnu::always_inline]] inline void fetch(const Problem &p, const View &x, const Place &at) {
    for (int i = 0; i < at.count; i++)
        for (int64_t c = 0; c < p.P; c += 64 / sizeof(T)) __builtin_prefetch(x.row<T>(at.b, at.t + i, at.h) + c);
}
[[gnu::always_inline]] inline void fetch_angles(const Problem &p, const Place &at) {
    for (int i = 0; i < at.count; i++)
        for (int64_t a = 0; a < p.A; a += LANES) {
            __builtin_prefetch(p.cos + p.at(at.b, at.t + i, at.h) * p.A + a);
            __builtin_prefetch(p.sin + p.at(at.b, at.t + i, at.h) * p.A + a);
        }
}

// How much the rows of a chunk pass on: to each other, from the memory before it, to the memory after it. Decays
// between positions are sums from one to the other, not differences of sums, so that a strong one does not blur those
// after it.
struct Decay {
    const int C, R, L;
    Buffer<int> begin;           // of each position: the first that it sees; -1: the memory before the chunk, too
    Buffer<int> position;        // of each row
    Buffer<float> log_decay;     // of each position
    Buffer<float> gain, merged;  // of each row: its weight at its own position, and at all later ones
    Buffer<float> carried;       // of each row: what it sees of the memory before the chunk
    Buffer<float> leaving, left;     // of each row: its share of the memory after the chunk, without and with `merged`
    Buffer<float> factors, weights;  // (C, L): of each row at each position, without and with its gains
    float kept = 0;                  // of the memory, at the end of the chunk

    Decay(const Problem &p, int L)
        : C(int(p.chunk)), R(int(p.R)), L(L), begin(C), position(L), log_decay(C), gain(L), merged(L), carried(L),
          leaving(L), left(L), factors(int64_t(C) * L), weights(int64_t(C) * L), since(L) {
        for (int row = 0; row < L; row++) position[row] = std::min(row / R, C - 1);
    }

    void load(const Problem &p, const Place &at) {
        int first = -1;
        for (int i = 0; i < C; i++) {
            const int64_t j = p.at(at.b, at.t + i, at.h);
            const bool inside = i < at.count, followed = inside && at.t + i + 1 < p.T;
            if (inside && p.begins(at.b, at.t + i)) first = i;
            const float own = inside ? p.gain[j] : 0, later = followed ? p.previous_gain[j + p.H] : 0;
            begin[i] = first;
            log_decay[i] = inside ? p.log_decay[j] : 0;
            fill(gain, i, own);
            fill(merged, i, own + later);
        }
        float sum = 0;
        for (int i = C - 1; i >= 0; sum += log_decay[i--]) fill(since, i, sum);
        std::fill(since + C * R, since + L, 0.0f);
        kept = first < 0 ? exp_of(sum) : 0;
        for (int row = 0; row < L; row += LANES) {
            const Lanes passed = exp_of(lanes_at(since + row));
            store_lanes(leaving + row, passed);
            store_lanes(left + row, passed * lanes_at(merged + row));
        }
        for (int i = 0; i < first; i++) {
            fill(leaving, i, 0);
            fill(left, i, 0);
        }
    }

    // The rest, which only `Chunk::mix` and the gradients need.
    void weigh() {
        float sum = 0;
        for (int i = 0; i < C; i++) {
            sum += log_decay[i];
            fill(carried, i, begin[i] < 0 ? exp_of(sum) : 0);
            weigh(i);
        }
    }

   private:
    Buffer<float> since;  // of each row: the sum of the log decays after its position

    void fill(float *rows, int i, float x) const { std::fill_n(rows + i * R, R, x); }

    void weigh(int i) {
        float *factor = factors + i * L, *weight = weights + i * L, *sums = since;
        const int hidden = std::max(begin[i], 0) * R, own = i * R, end = own + R, unseen = std::min(L, end + LANES);
        const float present = log_decay[i];
        for (int row = 0; row < own; row += LANES) {
            const Lanes sum = lanes_at(sums + row) + present, passed = exp_of(sum);
            store_lanes(sums + row, sum);
            store_lanes(factor + row, passed);
            store_lanes(weight + row, passed * lanes_at(merged + row));
        }
        std::fill(sums + own, sums + end, 0.0f);
        std::fill(factor, factor + hidden, 0.0f);
        std::fill(weight, weight + hidden, 0.0f);
        std::fill(factor + own, factor + end, 1.0f);
        std::fill(weight + own, weight + end, gain[own]);
        std::fill(factor + end, factor + unseen, 0.0f);
        std::fill(weight + end, weight + unseen, 0.0f);
    }
};

// A key or query of one head and rank: biased and rotated, N numbers of which 2A turn.
template <class T, class U>
void turn_row(int64_t N, int64_t A, const T *in, const float *bias, const float *cos, const float *sin, U *out) {
    for_each(A, [&](int64_t i, auto kind) {
        using V = decltype(kind);
        const V a = get<V>(in + i) + get<V>(bias + i), b = get<V>(in + A + i) + get<V>(bias + A + i);
        const V c = get<V>(cos + i), s = get<V>(sin + i);
        put(out + i, a * c - b * s);
        put(out + A + i, b * c + a * s);
    });
    for_each(N - 2 * A, [=, in = in + 2 * A, bias = bias + 2 * A, out = out + 2 * A](int64_t i, auto kind) {
        using V = decltype(kind);
        put(out + i, get<V>(in + i) + get<V>(bias + i));
    });
}

template <class T>
struct Chunk {
    const Problem &p;
    const int R, L, N, P;  // ranks, rows, and the padded sizes of state and head
    Decay decay;
    Buffer<T> keys, queries, values, keys_turned, weights;
    Buffer<Word<T>> packed, packed_values;
    Buffer<float> scores, mixed;  // (L, L), (L, P); mixed lacks the skip

    explicit Chunk(const Problem &p)
        : p(p), R(int(p.R)), L(padded(p.chunk * p.R)), N(padded(p.N)), P(padded(p.P)), decay(p, L), keys(L * N),
          queries(L * N), values(L * P), keys_turned(L * N), weights(int64_t(L) * L), packed(largest()),
          packed_values(L * P), scores(int64_t(L) * L), mixed(L * P) {}

    void load_keys(const Place &at) { load_turned(at, (const T *)p.key, p.key_bias, keys); }
    void load_queries(const Place &at) { load_turned(at, (const T *)p.query, p.query_bias, queries); }

    void load_values(const Place &at) {
        const int64_t ranks = p.R, size = p.P, stride = P;
        const float *spread = p.value_in + at.h * ranks * size;
        T *out = values;
        for (int i = 0; i < at.count; i++, out += ranks * stride) {
            const T *x = p.x.row<T>(at.b, at.t + i, at.h);
            for_each(size, [=](int64_t c, auto kind) {
                using V = decltype(kind);
                const V value = get<V>(x + c);
                for (int64_t r = 0; r < ranks; r++) put(out + r * stride + c, value * get<V>(spread + r * size + c));
            });
        }
        std::memset(out, 0, (L - at.count * ranks) * stride * sizeof(T));
    }

    // mixed = decayed queries times `memory` (N x P, before the chunk) plus weighted scores times values. Leaves the
    // keys' transpose packed in `packed`.
    void mix(const T *memory) {
        decay.weigh();
        pack(memory, N, P, packed);
        product(L, P, N, queries, N, packed, P, mixed, P);
        scale_rows(mixed, P, decay.carried);
        pack_transposed<T>(keys, L, N, packed);
        pack(values, L, P, packed_values);
        for (int row = 0; row < L; row += 32) {  // a row sees no later ones
            const int seen = row + 32;
            product(32, seen, N, queries + row * N, N, packed, L, scores + row * L, L);
            for (int i = row; i < seen; i++)
                weigh(scores + i * L, decay.weights + decay.position[i] * L, seen, weights + i * L);
            product(32, P, seen, weights + row * L, L, packed_values, P, mixed + row * P, P, true);
        }
    }

    // What the chunk keeps of a memory (N x P) that was before it; `rounded` is the memory as it was.
    void fade(float *memory, T *rounded) const {
        for (int i = 0; i < N * P; i += LANES) {
            const Lanes x = lanes_at(memory + i);
            store_lanes(rounded + i, x);
            store_lanes(memory + i, x * decay.kept);
        }
    }

    // What it adds. `packed` holds the keys' transpose.
    void remember(float *memory) {
        unpack(packed, N, L, keys_turned);
        pack_scaled<T>(values, decay.left, L, P, packed);
        product(N, P, L, keys_turned, L, packed, P, memory, P, true);
    }

    void scale_rows(float *x, int columns, const float *scales) const {
        for (int row = 0; row < L; row++, x += columns)
            for (int c = 0; c < columns; c += LANES) store_lanes(x + c, lanes_at(x + c) * scales[row]);
    }

    // The memory before the first chunk.
    void start(int64_t b, int64_t h, float *memory) const {
        std::memset(memory, 0, N * P * sizeof(float));
        if (p.start) copy_memory(p.start + (b * p.H + h) * p.N * p.P, p.P, memory, P);
    }

    void copy_memory(const float *from, int64_t from_stride, float *to, int64_t to_stride) const {
        for (int64_t n = 0; n < p.N; n++) std::copy_n(from + n * from_stride, p.P, to + n * to_stride);
    }

   private:
    int64_t largest() const {
        const int64_t most = std::max({L, N, P});
        return most * most;
    }

    static void weigh(const float *scores, const float *weight, int count, T *out) {
        for (int j = 0; j < count; j += LANES) store_lanes(out + j, lanes_at(scores + j) * lanes_at(weight + j));
    }

    void load_turned(const Place &at, const T *shared, const float *biases, T *out) {
        const int64_t ranks = p.R, size = p.N, A = p.A, stride = N;
        const T *in = shared + (at.b * p.T + at.t) * ranks * size;
        biases += at.h * ranks * size;
        for (int i = 0; i < at.count; i++) {
            const int64_t angle = p.at(at.b, at.t + i, at.h) * A;
            const float *cos = p.cos + angle, *sin = p.sin + angle;
            for (int64_t r = 0; r < ranks; r++, in += size, out += stride)
                turn_row(size, A, in, biases + r * size, cos, sin, out);
        }
        std::memset(out, 0, (L - at.count * ranks) * stride * sizeof(T));
    }
};

template <class V>
static inline V sigmoid(V x) {
    return 1.0f / (1.0f + exp_of(-x));
}

}  // namespace mamba3
