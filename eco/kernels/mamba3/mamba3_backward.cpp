// The Mamba-3 mixer, backward. A first sweep leaves the memory before each chunk of some heads, rounded to T; a second,
// from the last chunk to the first, computes each chunk's scores once more, and from them the gradients.
//
// Keys and queries belong to all heads: a batch's heads are cut into groups, each of which has sums of its own. How
// many groups there are depends on the problem alone, and so do the results.
#include "chunk.h"

using namespace mamba3;

namespace {

struct Gradients {
    // Of the output and of the state after it, which are given; the latter or null.
    View dy;
    const float *last_memory, *last_key, *last_value;
    // Of the inputs.
    int64_t groups;
    View x, gate;
    float *key, *query;                       // (B, groups, T, R, N)
    float *log_decay, *gain, *previous_gain;  // (B, T, H); the last zero at t = 0
    float *cos, *sin;                         // (B, T, H, A), or null
    float *key_bias, *query_bias;             // (B, H, R, N), zeros to start with, as those below
    float *value_in, *gate_in, *out, *skip;   // (B, H, R, P), the last (B, H, P)
    float *start;                             // (B, H, N, P), or null
};

// out[i] = the sum of the 16 numbers in sums[i], for `rows` rows, a multiple of 16.
void sum_rows(const float *sums, int rows, float *out) {
    alignas(64) float turned[LANES][LANES];
    for (int row = 0; row < rows; row += LANES) {
        transpose_16((const uint32_t *)sums + row * LANES, LANES, (uint32_t *)turned, LANES);
        Lanes sum = {};
        for (int i = 0; i < LANES; i++) sum += lanes_at(turned[i]);
        store_lanes(out + row, sum);
    }
}

template <class T>
struct Backward {
    const Problem &p;
    const Gradients &g;
    Chunk<T> c;
    const int L, N, P;
    Buffer<T> dmixed, dscores, turned, rounded;           // (L, P), (L, L), (L, L), (N, P)
    Buffer<float> dweights, dqueries, dkeys, dvalues;     // (L, L), then as the rows themselves
    Buffer<float> partial;                                // (L, 16), sums over rows in the making
    Buffer<float> row_sums, column_sums, own_sums, carried_sums, leaving_sums;  // (L)

    Backward(const Problem &p, const Gradients &g)
        : p(p), g(g), c(p), L(c.L), N(c.N), P(c.P), dmixed(L * P), dscores(int64_t(L) * L), turned(int64_t(L) * L),
          rounded(N * P), dweights(int64_t(L) * L), dqueries(L * N), dkeys(L * N), dvalues(L * P), partial(L * LANES),
          row_sums(L), column_sums(L), own_sums(L), carried_sums(L), leaving_sums(L) {}

    // From the gradient of the memory after the chunk to that before it. memory: before the chunk, rounded.
    void step(const Place &at, const T *memory, float *dmemory, int64_t group, bool first_of_group) {
        c.decay.load(p, at);
        c.load_keys(at);
        c.load_queries(at);
        c.load_values(at);
        c.mix(memory);
        scatter(at);
        differentiate_scores();
        const float dkept = sum_each(N * P, [&](int64_t i, auto kind) {
            return get<decltype(kind)>(memory + i) * get<decltype(kind)>(dmemory + i);
        });
        c.fade(dmemory, rounded);
        differentiate_queries(memory);
        differentiate_keys();
        differentiate_values();
        if (at.t + at.count == p.T) take_state(at);
        recall(dmemory);
        store_decay(at, dkept);
        store_values(at);
        store_turned(at, group, first_of_group);
    }

   private:
    // Through the gates and the sum over ranks: the gradients of the mixed values, of the gates and of their weights.
    void scatter(const Place &at) {
        const int64_t ranks = p.R, size = p.P, stride = P;
        const int64_t weights = at.h * ranks * size, sums = (at.b * p.H + at.h) * ranks * size;
        const float *spread = p.value_in + weights, *out = p.out + weights, *gate_in = p.gate_in + weights;
        const float *mixed = c.mixed;
        float *dout = g.out + sums, *dgate_in = g.gate_in + sums, *dskip = g.skip + (at.b * p.H + at.h) * size;
        T *inner = dmixed;
        for (int i = 0; i < at.count; i++, mixed += ranks * stride, inner += ranks * stride) {
            const T *x = p.x.row<T>(at.b, at.t + i, at.h), *gate = p.gate.row<T>(at.b, at.t + i, at.h);
            const T *dy = g.dy.row<T>(at.b, at.t + i, at.h);
            T *dgate = g.gate.row<T>(at.b, at.t + i, at.h);
            for_each(size, [=, skip = p.skip[at.h]](int64_t j, auto kind) {
                using V = decltype(kind);
                const V d = get<V>(dy + j), opened = get<V>(gate + j), value = get<V>(x + j), skipped = value * skip;
                V dopened = {}, dskipped = {};
                for (int64_t r = 0; r < ranks; r++) {
                    const int64_t cell = r * stride + j, weight = r * size + j;
                    const V whole = get<V>(mixed + cell) + skipped * get<V>(spread + weight);
                    const V z = opened * get<V>(gate_in + weight), s = sigmoid(z), silu = z * s;
                    const V share = d * get<V>(out + weight), dwhole = share * silu;
                    const V dz = share * whole * (s + silu * (1.0f - s));
                    put(inner + cell, dwhole);
                    put(dout + weight, get<V>(dout + weight) + d * whole * silu);
                    put(dgate_in + weight, get<V>(dgate_in + weight) + dz * opened);
                    dopened += dz * get<V>(gate_in + weight);
                    dskipped += dwhole * get<V>(spread + weight);
                }
                put(dgate + j, dopened);
                put(dskip + j, get<V>(dskip + j) + dskipped * value);
            });
        }
        std::memset(inner, 0, (L - at.count * ranks) * stride * sizeof(T));
    }

    // The gradients of the scores, and what those of the decays need: sums over the products of each factor between two
    // rows and its gradient. column_sums leave out the gains, and own_sums are the part of a row's own position.
    void differentiate_scores() {
        pack_transposed<T>(c.values, L, P, c.packed);
        for (int row = 0; row < L; row += 32)
            product(32, row + 32, P, dmixed + row * P, P, c.packed, L, dweights + row * L, L);
        std::memset(partial, 0, L * LANES * sizeof(float));
        for (int j = 0; j < L; j += LANES) store_lanes(column_sums + j, differentiate_columns(j));
        sum_rows(partial, L, row_sums);
        for (int row = 0; row < p.chunk * p.R; row++) {
            const int own = c.decay.position[row] * int(p.R);
            float sum = 0;
            for (int j = own; j < own + p.R; j++) sum += dweights[row * L + j] * c.scores[row * L + j];
            own_sums[row] = sum;
        }
    }

    // The columns j .. j + 15: returns their column_sums, adds to what row_sums will be.
    Lanes differentiate_columns(int j) {
        const Lanes merged = lanes_at(c.decay.merged + j);
        const float *scores = c.scores + j, *factors = c.decay.factors + j, *weights = c.decay.weights + j;
        const float *d = dweights + j;
        const int *position = c.decay.position;
        float *sums = partial;
        T *out = dscores + j;
        Lanes column_sum = {};
        for (int64_t row = j / 32 * 32, size = L; row < size; row++) {
            const int64_t at = position[row] * size;
            const Lanes dweight = lanes_at(d + row * size);
            const Lanes change = dweight * lanes_at(scores + row * size) * lanes_at(factors + at);
            column_sum += change;
            store_lanes(sums + row * LANES, lanes_at(sums + row * LANES) + change * merged);
            store_lanes(out + row * size, dweight * lanes_at(weights + at));
        }
        return column_sum;
    }

    void differentiate_queries(const T *memory) {
        pack_transposed<T>(memory, N, P, c.packed);
        product(L, N, P, dmixed, P, c.packed, N, dqueries, N);
        scale(dqueries, c.queries, N, c.decay.carried, carried_sums);
        pack(c.keys, L, N, c.packed);
        for (int row = 0; row < L; row += 32)
            product(32, N, row + 32, dscores + row * L, L, c.packed, N, dqueries + row * N, N, true);
    }

    void differentiate_keys() {
        pack_transposed<T>(rounded, N, P, c.packed);
        product(L, N, P, c.values, P, c.packed, N, dkeys, N);
        scale(dkeys, c.keys, N, c.decay.left, leaving_sums);
        transpose(dscores);
        pack(c.queries, L, N, c.packed);
        add_from_later(c.packed, N, dkeys);
    }

    void differentiate_values() {
        pack(rounded, N, P, c.packed);
        product(L, P, N, c.keys, N, c.packed, P, dvalues, P);
        c.scale_rows(dvalues, P, c.decay.left);
        transpose(c.weights);
        pack(dmixed, L, P, c.packed);
        add_from_later(c.packed, P, dvalues);
    }

    void recall(float *dmemory) {
        pack_transposed<T>(c.queries, L, N, c.packed);
        unpack(c.packed, N, L, c.keys_turned);
        pack_scaled<T>(dmixed, c.decay.carried, L, P, c.packed);
        product(N, P, L, c.keys_turned, L, c.packed, P, dmemory, P, true);
    }

    // sums = what each row of x yields with that of y; then x's rows are multiplied by `scales`.
    void scale(float *x, const T *y, int columns, const float *scales, float *sums) {
        float *lanes = partial;
        for (int row = 0; row < L; row++, x += columns, y += columns) {
            const float factor = scales[row];
            Lanes sum = {};
            for (int j = 0; j < columns; j += LANES) {
                sum += lanes_at(x + j) * lanes_at(y + j);
                store_lanes(x + j, lanes_at(x + j) * factor);
            }
            store_lanes(lanes + row * LANES, sum);
        }
        sum_rows(lanes, L, sums);
    }

    void transpose(const T *x) {
        pack_transposed<T>(x, L, L, c.packed);
        unpack(c.packed, L, L, turned);
    }

    // out (L x columns) += `turned` times a packed matrix; a row gets from itself and later ones.
    void add_from_later(const Word<T> *packed, int columns, float *out) {
        for (int row = 0; row < L; row += 32)
            product(32, columns, L - row, turned + row * L + row, L, packed + row / PACK<T> * columns, columns,
                    out + row * columns, columns, true);
    }

    // The gradients that reach the last position's key and value from beyond.
    void take_state(const Place &at) {
        const int64_t head = (at.b * p.H + at.h) * p.R;
        for (int64_t r = 0; r < p.R; r++) {
            float *key = dkeys + ((at.count - 1) * p.R + r) * N, *value = dvalues + ((at.count - 1) * p.R + r) * P;
            for (int64_t n = 0; g.last_key && n < p.N; n++) key[n] += g.last_key[(head + r) * p.N + n];
            for (int64_t j = 0; g.last_value && j < p.P; j++) value[j] += g.last_value[(head + r) * p.P + j];
        }
    }

    void store_decay(const Place &at, float dkept) {
        const Decay &d = c.decay;
        const int R = int(p.R);
        float running = d.kept * dkept;
        for (int row = 0; row < at.count * R; row++) running += d.left[row] * leaving_sums[row];
        for (int i = at.count - 1; i >= 0; i--) {
            float own = 0, seen = 0, merged = 0;
            for (int row = i * R; row < (i + 1) * R; row++) {
                own += own_sums[row];
                seen += row_sums[row] + d.carried[row] * carried_sums[row];
                merged += column_sums[row] + d.leaving[row] * leaving_sums[row];
            }
            merged -= own;
            running = d.begin[i] == i ? 0 : running + seen - d.merged[i * R] * (own + merged);
            const int64_t j = p.at(at.b, at.t + i, at.h);
            g.log_decay[j] = running;
            g.gain[j] = merged + own;
            if (at.t + i + 1 < p.T) g.previous_gain[j + p.H] = merged;
        }
    }

    void store_values(const Place &at) {
        const int64_t ranks = p.R, size = p.P, stride = P;
        const float *spread = p.value_in + at.h * ranks * size, *d = dvalues;
        float *dspread = g.value_in + (at.b * p.H + at.h) * ranks * size;
        const T *inner = dmixed;
        for (int i = 0; i < at.count; i++, d += ranks * stride, inner += ranks * stride) {
            const T *x = p.x.row<T>(at.b, at.t + i, at.h);
            T *dx = g.x.row<T>(at.b, at.t + i, at.h);
            for_each(size, [=, skip = p.skip[at.h]](int64_t j, auto kind) {
                using V = decltype(kind);
                const V value = get<V>(x + j);
                V sum = {};
                for (int64_t r = 0; r < ranks; r++) {
                    const int64_t weight = r * size + j;
                    const V whole = get<V>(d + r * stride + j) + get<V>(inner + r * stride + j) * skip;
                    sum += whole * get<V>(spread + weight);
                    put(dspread + weight, get<V>(dspread + weight) + whole * value);
                }
                put(dx + j, sum);
            });
        }
    }

    void store_turned(const Place &at, int64_t group, bool first_of_group) {
        const int64_t bias = at.h * p.R * p.N, dbias = (at.b * p.H + at.h) * p.R * p.N;
        const int64_t angles = p.at(at.b, at.t, at.h) * p.A, shared = (at.b * p.T + at.t) * p.R * p.N;
        const int64_t sums = ((at.b * g.groups + group) * p.T + at.t) * p.R * p.N;
        for (int64_t i = 0; i < at.count; i++) {
            const int64_t angle = angles + i * p.H * p.A;
            std::fill_n(g.cos + angle, p.A, 0.0f);
            std::fill_n(g.sin + angle, p.A, 0.0f);
        }
        if (first_of_group) {
            std::fill_n(g.key + sums, at.count * p.R * p.N, 0.0f);
            std::fill_n(g.query + sums, at.count * p.R * p.N, 0.0f);
        }
        const T *key = (const T *)p.key + shared, *query = (const T *)p.query + shared;
        turn_back(at.count, angles, key, p.key_bias + bias, dkeys, g.key + sums, g.key_bias + dbias);
        turn_back(at.count, angles, query, p.query_bias + bias, dqueries, g.query + sums, g.query_bias + dbias);
    }

    // From the gradients of turned rows (see turn_row) to those of the rows, their biases and angles, which it adds.
    void turn_back(int64_t count, int64_t angles, const T *in, const float *bias, const float *d, float *din,
                   float *dbias) {
        const int64_t ranks = p.R, size = p.N, A = p.A, stride = N;
        for (int64_t i = 0; i < count; i++, angles += p.H * A) {
            const float *cos = p.cos + angles, *sin = p.sin + angles;
            float *dcos = g.cos + angles, *dsin = g.sin + angles;
            for (int64_t r = 0; r < ranks; r++, in += size, din += size, d += stride) {
                const float *offset = bias + r * size;
                float *doffset = dbias + r * size;
                const auto add = [=](int64_t at, auto x) {
                    using V = decltype(x);
                    put(din + at, get<V>(din + at) + x);
                    put(doffset + at, get<V>(doffset + at) + x);
                };
                for_each(A, [=](int64_t j, auto kind) {
                    using V = decltype(kind);
                    const V a = get<V>(in + j) + get<V>(offset + j), b = get<V>(in + A + j) + get<V>(offset + A + j);
                    const V da = get<V>(d + j), db = get<V>(d + A + j), c = get<V>(cos + j), s = get<V>(sin + j);
                    put(dcos + j, get<V>(dcos + j) + da * a + db * b);
                    put(dsin + j, get<V>(dsin + j) + db * a - da * b);
                    add(j, da * c + db * s);
                    add(A + j, db * c - da * s);
                });
                for_each(size - 2 * A, [=, rest = d + 2 * A](int64_t j, auto kind) {
                    add(2 * A + j, get<decltype(kind)>(rest + j));
                });
            }
        }
    }
};

// The heads of one group: what it works on, and the memories and their gradients between chunks.
template <class T>
struct Group {
    const Problem &p;
    const Gradients &g;
    Backward<T> work;
    const int64_t size, most;  // numbers of a memory, heads of a group
    Buffer<T> memories;        // before each chunk of each head
    Buffer<float> memory, dmemories;

    Group(const Problem &p, const Gradients &g)
        : p(p), g(g), work(p, g), size(work.N * work.P), most((p.H + g.groups - 1) / g.groups),
          memories(most * p.chunks() * size), memory(size), dmemories(most * size) {}

    void run(int64_t b, int64_t group) {
        const int64_t begin = p.H * group / g.groups, heads = p.H * (group + 1) / g.groups - begin;
        for (int64_t i = 0; i < heads; i++) record(b, begin + i, memories + i * p.chunks() * size);
        std::memset(dmemories, 0, heads * size * sizeof(float));
        for (int64_t i = 0; i < heads && g.last_memory; i++)
            work.c.copy_memory(g.last_memory + (b * p.H + begin + i) * p.N * p.P, p.P, dmemories + i * size, work.P);
        for (int64_t index = p.chunks() - 1; index >= 0; index--)
            for (int64_t i = 0; i < heads; i++) {
                const bool last = i + 1 == heads;
                fetch(Place(p, b, last ? begin : begin + i + 1, last ? std::max(index - 1, int64_t(0)) : index));
                work.step(Place(p, b, begin + i, index), memories + (i * p.chunks() + index) * size,
                          dmemories + i * size, group, i == 0);
            }
        for (int64_t i = 0; i < heads && g.start; i++)
            work.c.copy_memory(dmemories + i * size, work.P, g.start + (b * p.H + begin + i) * p.N * p.P, p.P);
    }

   private:
    // The memory before each chunk of one head.
    void record(int64_t b, int64_t h, T *out) {
        work.c.start(b, h, memory);
        for (int64_t index = 0; index < p.chunks(); index++, out += size) {
            const Place at(p, b, h, index), next(p, b, h, std::min(index + 1, p.chunks() - 1));
            mamba3::fetch<T>(p, p.x, next);
            fetch_angles(p, next);
            work.c.decay.load(p, at);
            work.c.fade(memory, out);
            work.c.load_keys(at);
            work.c.load_values(at);
            pack_transposed<T>(work.c.keys, work.L, work.N, work.c.packed);
            work.c.remember(memory);
        }
    }

    [[gnu::always_inline]] void fetch(const Place &next) {
        mamba3::fetch<T>(p, p.x, next);
        mamba3::fetch<T>(p, p.gate, next);
        mamba3::fetch<T>(p, g.dy, next);
        fetch_angles(p, next);
    }
};

template <class T>
void backward(const Problem &p, const Gradients &g) {
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Group<T> work(p, g);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < p.B * g.groups; item++) work.run(item / g.groups, item % g.groups);
    }
}

}  // namespace

extern "C" void eco_mamba3_backward_float32(const Problem *p, const Gradients *g) { backward<float>(*p, *g); }
extern "C" void eco_mamba3_backward_bfloat16(const Problem *p, const Gradients *g) { backward<bf16>(*p, *g); }
