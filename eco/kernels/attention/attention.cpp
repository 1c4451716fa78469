// Attention in bf16, causal or not, forward and backward, one key-value head at a time in cache (after FlashAttention,
// arXiv 2205.14135): scores and weights never reach memory. Scores and sums are fp32.
//
// Heads are read and written where the projections put them: (batch, head, time) have strides, the head's D numbers are
// contiguous. Rotary angles, if given, turn queries and keys on the way in and their gradients on the way out. Queries
// and keys may have further numbers, E of each in an fp32 tensor of their own, which are not turned: in working memory
// they follow the D.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "product.h"

namespace {

constexpr int ROWS = 32;  // queries at a time

template <class T>
struct Strided {
    T *data;
    int64_t batch, head, time;  // strides in elements
    T *row(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * time; }
};

using Heads = Strided<bf16>;

// Queries or keys: the D numbers of each head and the E further ones.
struct Sides {
    Heads main;
    Strided<float> extra;
};

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Shape {
    int64_t B, H, Hkv, T, D, E;
    float scale;
    const float *cos, *sin;  // (T, D/2), or null
    int64_t causal;          // 1: a query sees the keys up to its own, 0: all T
    int64_t padded() const { return round_up(T, ROWS); }
    int64_t inner() const { return round_up(D + E, GRAIN); }  // numbers of a query or key, with zeros, in a product
    int64_t stride() const { return round_up(D + E, 32); }    // and in a row of working memory: pairs in 16 lanes
    // How many keys the queries t .. t + ROWS - 1 are multiplied with; those that a query does not see weigh nothing.
    int64_t keys_for(int64_t t) const { return causal ? t + ROWS : padded(); }
};

// Working memory of one thread, taken once for all its heads: for short sequences a third of the time went into it.
class Memory {
    std::vector<std::unique_ptr<void, void (*)(void *)>> blocks;

   public:
    template <class T>
    T *take(int64_t count) {
        blocks.emplace_back(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64), std::free);
        return (T *)blocks.back().get();
    }
};

// Copies ROWS rows into out, `ldo` numbers apart, turned by their angles; zeros for those past the end.
void load_rows(const Shape &s, const Heads &x, int64_t b, int64_t h, int64_t t0, bool turn, bf16 *out, int64_t ldo) {
    const int64_t D = s.D, half = D / 2;
    for (int64_t r = 0; r < ROWS; r++, out += ldo) {
        if (t0 + r >= s.T) {
            std::memset(out, 0, D * sizeof(bf16));
            continue;
        }
        const bf16 *in = x.row(b, h, t0 + r);
        if (!turn || !s.cos) {
            std::memcpy(out, in, D * sizeof(bf16));
            continue;
        }
        const float *c = s.cos + (t0 + r) * half, *n = s.sin + (t0 + r) * half;
        for_each(half, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N p = get<N>(in + i), q = get<N>(in + i + half), cos = get<N>(c + i), sin = get<N>(n + i);
            put(out + i, p * cos - q * sin);
            put(out + i + half, q * cos + p * sin);
        });
    }
}

// Writes the rows t0 .. of x from fp32, `ldi` numbers apart, turned back by their angles.
void store_rows(const Shape &s, const float *in, int64_t ldi, const Heads &x, int64_t b, int64_t h, int64_t t0,
                bool turn) {
    const int64_t D = s.D, half = D / 2;
    for (int64_t r = 0; r < ROWS && t0 + r < s.T; r++, in += ldi) {
        bf16 *out = x.row(b, h, t0 + r);
        if (!turn || !s.cos) {
            for_each(D, [&](int64_t i, auto kind) { put(out + i, get<decltype(kind)>(in + i)); });
            continue;
        }
        const float *c = s.cos + (t0 + r) * half, *n = s.sin + (t0 + r) * half;
        for_each(half, [&](int64_t i, auto kind) {
            using N = decltype(kind);
            const N p = get<N>(in + i), q = get<N>(in + i + half), cos = get<N>(c + i), sin = get<N>(n + i);
            put(out + i, p * cos + q * sin);
            put(out + i + half, q * cos - p * sin);
        });
    }
}

// `load_rows` of queries or keys, turned, with their further numbers and zeros up to `stride`.
void load_sides(const Shape &s, const Sides &x, int64_t b, int64_t h, int64_t t0, bf16 *out) {
    const int64_t D = s.D, E = s.E, ldo = s.stride();
    load_rows(s, x.main, b, h, t0, true, out, ldo);
    if (!E) return;
    out += D;
    for (int64_t r = 0; r < ROWS; r++, out += ldo) {
        const int64_t count = t0 + r < s.T ? E : 0;
        const float *in = x.extra.row(b, h, t0 + r);
        for_each(count, [&](int64_t i, auto kind) { put(out + i, get<decltype(kind)>(in + i)); });
        std::memset(out + count, 0, (ldo - D - count) * sizeof(bf16));
    }
}

// `store_rows` of the gradients of queries or keys, `inner` numbers apart.
void store_sides(const Shape &s, const float *in, const Sides &x, int64_t b, int64_t h, int64_t t0) {
    store_rows(s, in, s.inner(), x.main, b, h, t0, true);
    if (!s.E) return;
    for (int64_t r = 0; r < ROWS && t0 + r < s.T; r++) {
        std::memcpy(x.extra.row(b, h, t0 + r), in + r * s.inner() + s.D, s.E * sizeof(float));
    }
}

// out (columns x rows) = x (rows x columns) transposed, its rows `ldo` words apart; both sizes multiples of 16.
void transpose(const uint32_t *x, int64_t rows, int64_t columns, uint32_t *out, int64_t ldo) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c += LANES) transpose_16(x + r * columns + c, columns, out + c * ldo + r, ldo);
}

// out[d / 2][t] = the pair x[t][d], x[t][d + 1]: `product`'s B for x transposed. ldo words per row of out.
void pair_columns(const bf16 *x, int64_t rows, int64_t D, uint32_t *out, int64_t ldo) {
    transpose((const uint32_t *)x, rows, D / 2, out, ldo);
}

// out[t / 2][d] = the pair x[t][d], x[t + 1][d]: `product`'s B for x itself.
void pair_rows(const bf16 *x, int64_t rows, int64_t D, uint32_t *out) {
    for (int64_t t = 0; t < rows; t += 2, x += 2 * D, out += D)
        for (int64_t d = 0; d < D; d++) out[d] = uint32_t(x[d].bits) | uint32_t(x[D + d].bits) << 16;
}

// The n scores of each of 16 queries, rows ld apart, become weights exp(scale * score - top). `tops` are the largest
// scaled scores, `sums` those of the weights.
void weigh(const float *scores, int64_t n, int64_t ld, float scale, bf16 *weights, float *sums, float *tops) {
    alignas(64) float lanes[LANES][LANES], turned[LANES][LANES];  // of each row 16 partial results, then of all 16 rows
    for (int r = 0; r < LANES; r++) {
        Lanes most = lanes_at(scores + r * ld);
        for (int64_t j = LANES; j < n; j += LANES) {
            const Lanes x = lanes_at(scores + r * ld + j);
            most = x > most ? x : most;
        }
        store_lanes(lanes[r], most);
    }
    transpose_16((uint32_t *)lanes, LANES, (uint32_t *)turned, LANES);
    Lanes top = lanes_at(turned[0]);
    for (int i = 1; i < LANES; i++) top = lanes_at(turned[i]) > top ? lanes_at(turned[i]) : top;
    store_lanes(tops, top * scale);
    for (int r = 0; r < LANES; r++) {
        Lanes sum = {};
        for (int64_t j = 0; j < n; j += LANES) {
            const Lanes w = exp_of(lanes_at(scores + r * ld + j) * scale - tops[r]);
            *(Halves *)(weights + r * ld + j) = bf16_bits(w);
            sum += w;
        }
        store_lanes(lanes[r], sum);
    }
    transpose_16((uint32_t *)lanes, LANES, (uint32_t *)turned, LANES);
    Lanes sum = {};
    for (int i = 0; i < LANES; i++) sum += lanes_at(turned[i]);
    store_lanes(sums, sum);
}

// Scores of n keys (rows) by ROWS queries (columns) become the weights once more, now normalised. Their gradients
// become those of the scores, weight * (dweight - delta) * scale, once as they are and once with rows in pairs.
void weigh_backward(const float *scores, const float *dweights, int64_t n, float scale, const float *log_sums,
                    const float *deltas, bf16 *weights, bf16 *dscores, uint32_t *dscore_pairs) {
    for (int64_t j = 0; j < n * ROWS; j += 2 * ROWS)
        for (int64_t i = j; i < j + ROWS; i += LANES) {
            Halves bits[2];
            for (int64_t at = i, row = 0; row < 2; at += ROWS, row++) {
                const Lanes w = exp_of(lanes_at(scores + at) * scale - lanes_at(log_sums + i - j));
                *(Halves *)(weights + at) = bf16_bits(w);
                bits[row] = bf16_bits(w * (lanes_at(dweights + at) - lanes_at(deltas + i - j)) * scale);
                *(Halves *)(dscores + at) = bits[row];
            }
            *(Words *)(dscore_pairs + j / 2 + i - j) =
                __builtin_convertvector(bits[0], Words) | __builtin_convertvector(bits[1], Words) << 16;
        }
}

// What the backward pass needs of each query from t on: its log_sum, and the product of its output with the gradient
// of that. A query past the end weighs nothing.
void query_sums(const Shape &s, const Heads &out, const bf16 *dout, const float *all_log_sums, int64_t b, int64_t h,
                int64_t t, float *log_sums, float *deltas) {
    for (int64_t r = 0; r < ROWS; r++) {
        log_sums[r] = INFINITY;
        deltas[r] = 0;
        if (t + r >= s.T) continue;
        const bf16 *o = out.row(b, h, t + r), *g = dout + r * s.D;
        float delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int64_t d = 0; d < s.D; d++) delta += load(o[d]) * load(g[d]);
        log_sums[r] = all_log_sums[(b * s.H + h) * s.T + t + r];
        deltas[r] = delta;
    }
}

struct ForwardScratch {
    uint32_t *keys, *values;
    bf16 *block, *weights;
    float *scores, *mixed;
    ForwardScratch(Memory &memory, int64_t D, int64_t S, int64_t P)
        : keys(memory.take<uint32_t>(S / 2 * P)),
          values(memory.take<uint32_t>(P / 2 * D)),
          block(memory.take<bf16>(ROWS * S)),
          weights(memory.take<bf16>(ROWS * P)),
          scores(memory.take<float>(ROWS * P)),
          mixed(memory.take<float>(ROWS * D)) {}
};

void forward_head(const Shape &s, const Sides &q, const Sides &k, const Heads &v, const Heads &out, float *log_sums,
                  int64_t b, int64_t hk, const ForwardScratch &scratch) {
    const int64_t D = s.D, K = s.inner(), S = s.stride(), P = s.padded(), group = s.H / s.Hkv;
    const auto [keys, values, block, weights, scores, mixed] = scratch;
    for (int64_t t = 0; t < P; t += ROWS) {
        load_sides(s, k, b, hk, t, block);
        pair_columns(block, ROWS, S, keys + t, P);
        load_rows(s, v, b, hk, t, false, block, D);
        pair_rows(block, ROWS, D, values + t / 2 * D);
    }
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
        for (int64_t t = 0; t < P; t += ROWS) {
            const int64_t n = s.keys_for(t);
            float sums[ROWS], tops[ROWS];
            load_sides(s, q, b, h, t, block);
            product(ROWS, n, K, block, S, keys, P, scores, n);
            for (int64_t r = 0; r < ROWS; r++) {
                const int64_t seen = s.causal ? t + r + 1 : s.T;
                std::fill(scores + r * n + seen, scores + (r + 1) * n, -INFINITY);
            }
            for (int64_t r = 0; r < ROWS && t + r < s.T; r += LANES)
                weigh(scores + r * n, n, n, s.scale, weights + r * n, sums + r, tops + r);
            product(ROWS, D, n, weights, n, values, D, mixed, D);
            for (int64_t r = 0; r < ROWS && t + r < s.T; r++) {
                log_sums[(b * s.H + h) * s.T + t + r] = tops[r] + std::log(sums[r]);
                for (int64_t d = 0; d < D; d++) mixed[r * D + d] *= 1 / sums[r];
            }
            store_rows(s, mixed, D, out, b, h, t, false);
        }
}

struct BackwardScratch {
    bf16 *keys, *keys_turned, *values, *block, *dblock, *weights, *dscores;
    uint32_t *pairs, *dscore_pairs;
    float *scores, *dweights, *dkeys, *dvalues, *dqueries_turned, *dqueries;
    BackwardScratch(Memory &memory, int64_t D, int64_t K, int64_t S, int64_t P)
        : keys(memory.take<bf16>(P * S)),
          keys_turned(memory.take<bf16>(S * P)),
          values(memory.take<bf16>(P * D)),
          block(memory.take<bf16>(ROWS * S)),
          dblock(memory.take<bf16>(ROWS * D)),
          weights(memory.take<bf16>(P * ROWS)),
          dscores(memory.take<bf16>(P * ROWS)),
          pairs(memory.take<uint32_t>(ROWS / 2 * S)),
          dscore_pairs(memory.take<uint32_t>(P / 2 * ROWS)),
          scores(memory.take<float>(P * ROWS)),
          dweights(memory.take<float>(P * ROWS)),
          dkeys(memory.take<float>(P * K)),
          dvalues(memory.take<float>(P * D)),
          dqueries_turned(memory.take<float>(K * ROWS)),
          dqueries(memory.take<float>(ROWS * K)) {}
};

// Scores are computed transposed, keys by queries: weights and their gradients then already lie as the products for the
// gradients of values and keys read them.
void backward_head(const Shape &s, const Sides &q, const Sides &k, const Heads &v, const Heads &out, const Heads &dout,
                   const float *all_log_sums, const Sides &dq, const Sides &dk, const Heads &dv, int64_t b, int64_t hk,
                   const BackwardScratch &scratch) {
    const int64_t D = s.D, K = s.inner(), S = s.stride(), P = s.padded(), group = s.H / s.Hkv;
    const auto [keys, keys_turned, values, block, dblock, weights, dscores, pairs, dscore_pairs, scores, dweights,
                dkeys, dvalues, dqueries_turned, dqueries] = scratch;
    for (int64_t t = 0; t < P; t += ROWS) {
        load_sides(s, k, b, hk, t, keys + t * S);
        load_rows(s, v, b, hk, t, false, values + t * D, D);
        pair_rows(keys + t * S, ROWS, S, pairs);
        transpose(pairs, ROWS / 2, S, (uint32_t *)(keys_turned + t), P / 2);
    }
    std::memset(dkeys, 0, P * K * sizeof(float));
    std::memset(dvalues, 0, P * D * sizeof(float));
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
        for (int64_t t = 0; t < P; t += ROWS) {
            const int64_t n = s.keys_for(t);
            float log_sums[ROWS], deltas[ROWS];
            load_sides(s, q, b, h, t, block);
            load_rows(s, dout, b, h, t, false, dblock, D);
            query_sums(s, out, dblock, all_log_sums, b, h, t, log_sums, deltas);
            pair_columns(block, ROWS, S, pairs, ROWS);
            product(n, ROWS, K, keys, S, pairs, ROWS, scores, ROWS);
            pair_columns(dblock, ROWS, D, pairs, ROWS);
            product(n, ROWS, D, values, D, pairs, ROWS, dweights, ROWS);
            for (int64_t j = s.causal ? t : s.T; j < n; j++)  // hidden from the queries before it, or from all
                std::fill_n(scores + j * ROWS, s.causal ? j - t : ROWS, -INFINITY);
            weigh_backward(scores, dweights, n, s.scale, log_sums, deltas, weights, dscores, dscore_pairs);
            pair_rows(dblock, ROWS, D, pairs);
            product(n, D, ROWS, weights, ROWS, pairs, D, dvalues, D, true);
            pair_rows(block, ROWS, S, pairs);
            product(n, K, ROWS, dscores, ROWS, pairs, S, dkeys, K, true);
            product(K, ROWS, n, keys_turned, P, dscore_pairs, ROWS, dqueries_turned, ROWS);
            transpose((uint32_t *)dqueries_turned, K, ROWS, (uint32_t *)dqueries, K);
            store_sides(s, dqueries, dq, b, h, t);
        }
    for (int64_t t = 0; t < P; t += ROWS) {
        store_sides(s, dkeys + t * K, dk, b, hk, t);
        store_rows(s, dvalues + t * D, D, dv, b, hk, t, false);
    }
}

}  // namespace

// One thread per (batch, key-value head): each result is written by one thread, so the outcome does not depend on how
// many there are.
extern "C" void eco_attention_forward(const Shape *s, const Sides *q, const Sides *k, const Heads *v, const Heads *out,
                                      float *log_sums) {
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Memory memory;
        const ForwardScratch scratch(memory, s->D, s->stride(), s->padded());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->B * s->Hkv; i++)
            forward_head(*s, *q, *k, *v, *out, log_sums, i / s->Hkv, i % s->Hkv, scratch);
    }
}

extern "C" void eco_attention_backward(const Shape *s, const Sides *q, const Sides *k, const Heads *v, const Heads *out,
                                       const Heads *dout, const float *log_sums, const Sides *dq, const Sides *dk,
                                       const Heads *dv) {
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        Memory memory;
        const BackwardScratch scratch(memory, s->D, s->inner(), s->stride(), s->padded());
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->B * s->Hkv; i++)
            backward_head(*s, *q, *k, *v, *out, *dout, log_sums, *dq, *dk, *dv, i / s->Hkv, i % s->Hkv, scratch);
    }
}
