// Causal attention in bf16, forward and backward, one key-value head at a time in cache (after FlashAttention,
// arXiv 2205.14135): scores and weights never reach memory. Scores and sums are fp32.
//
// Heads are read and written where the projections put them: (batch, head, time) have strides, the head's D numbers are
// contiguous. Rotary angles, if given, turn queries and keys on the way in and their gradients on the way out.
#include <cmath>
#include <memory>

#include "product.h"

namespace {

constexpr int ROWS = 64;  // queries at a time

struct Heads {
    bf16 *data;
    int64_t batch, head, time;  // strides in elements
    bf16 *row(int64_t b, int64_t h, int64_t t) const { return data + b * batch + h * head + t * time; }
};

struct Shape {
    int64_t B, H, Hkv, T, D;
    float scale;
    const float *cos, *sin;  // (T, D/2), or null
    int64_t padded() const { return (T + ROWS - 1) / ROWS * ROWS; }
};

template <class T>
struct Scratch {
    std::unique_ptr<T, void (*)(void *)> memory;
    explicit Scratch(int64_t count) : memory((T *)std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64), std::free) {}
    operator T *() const { return memory.get(); }
};

// Copies `count` rows into out (ROWS x D), turned by their angles, zeros after them.
void load_rows(const Shape &s, const Heads &x, int64_t b, int64_t h, int64_t t0, bool turn, bf16 *out) {
    const int64_t D = s.D, half = D / 2;
    for (int64_t r = 0; r < ROWS; r++, out += D) {
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
        for (int64_t i = 0; i < half; i++) {
            const float p = load(in[i]), q = load(in[i + half]);
            store(out[i], p * c[i] - q * n[i]);
            store(out[i + half], q * c[i] + p * n[i]);
        }
    }
}

// Writes the rows t0 .. of x from fp32, times `factor`, turned back by their angles.
void store_rows(const Shape &s, const float *in, const Heads &x, int64_t b, int64_t h, int64_t t0, bool turn) {
    const int64_t D = s.D, half = D / 2;
    for (int64_t r = 0; r < ROWS && t0 + r < s.T; r++, in += D) {
        bf16 *out = x.row(b, h, t0 + r);
        if (!turn || !s.cos) {
            for (int64_t i = 0; i < D; i++) store(out[i], in[i]);
            continue;
        }
        const float *c = s.cos + (t0 + r) * half, *n = s.sin + (t0 + r) * half;
        for (int64_t i = 0; i < half; i++) {
            store(out[i], in[i] * c[i] + in[i + half] * n[i]);
            store(out[i + half], in[i + half] * c[i] - in[i] * n[i]);
        }
    }
}

// out[d / 2][t] = the pair x[t][d], x[t][d + 1]: `product`'s B for x transposed. ldo words per row of out.
void pair_columns(const bf16 *x, int64_t rows, int64_t D, uint32_t *out, int64_t ldo) {
    const uint32_t *in = (const uint32_t *)x;
    for (int64_t t = 0; t < rows; t += 16)
        for (int64_t d = 0; d < D / 2; d++)
            for (int64_t i = 0; i < 16; i++) out[d * ldo + t + i] = in[(t + i) * (D / 2) + d];
}

// out[t / 2][d] = the pair x[t][d], x[t + 1][d]: `product`'s B for x itself.
void pair_rows(const bf16 *x, int64_t rows, int64_t D, uint32_t *out) {
    for (int64_t t = 0; t < rows; t += 2, x += 2 * D, out += D)
        for (int64_t d = 0; d < D; d++) out[d] = uint32_t(x[d].bits) | uint32_t(x[D + d].bits) << 16;
}

// Scores (n of them) of the query at position t become weights exp(scale * score - top), zero for the future.
// Returns their sum and writes the largest scaled score.
float weigh(const float *scores, int64_t n, int64_t t, float scale, bf16 *weights, float *top) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int j = 0; j < int(n); j++) {
        const float x = j <= int(t) ? scores[j] : -INFINITY;
        most = x > most ? x : most;
    }
    most *= scale;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < int(n); j++) {
        const float w = j <= int(t) ? exp_of(scores[j] * scale - most) : 0.0f;
        store(weights[j], w);
        sum += w;
    }
    *top = most;
    return sum;
}

// The same weights once more, normalised, and the gradient of the scores: w * (dw - delta) * scale.
void weigh_backward(const float *scores, const float *dweights, int64_t n, int64_t t, float scale, float log_sum,
                    float delta, bf16 *weights, bf16 *dscores) {
#pragma omp simd
    for (int j = 0; j < int(n); j++) {
        const float w = j <= int(t) ? exp_of(scores[j] * scale - log_sum) : 0.0f;
        store(weights[j], w);
        store(dscores[j], w * (dweights[j] - delta) * scale);
    }
}

// out (n x ROWS) = x (ROWS x n) transposed, in 16 x 16 pieces that stay in the nearest cache.
void transpose(const bf16 *x, int64_t n, bf16 *out) {
    for (int64_t j0 = 0; j0 < n; j0 += 32)
        for (int64_t j = j0; j < j0 + 32; j++)
            for (int64_t r = 0; r < ROWS; r++) out[j * ROWS + r] = x[r * n + j];
}

void forward_head(const Shape &s, const Heads &q, const Heads &k, const Heads &v, const Heads &out, float *log_sums,
                  int64_t b, int64_t hk) {
    const int64_t D = s.D, P = s.padded(), group = s.H / s.Hkv;
    Scratch<uint32_t> keys(D / 2 * P), values(P / 2 * D);
    Scratch<bf16> block(ROWS * D), weights(ROWS * P);
    Scratch<float> scores(ROWS * P), mixed(ROWS * D);
    for (int64_t t = 0; t < P; t += ROWS) {
        load_rows(s, k, b, hk, t, true, block);
        pair_columns(block, ROWS, D, keys + t, P);
        load_rows(s, v, b, hk, t, false, block);
        pair_rows(block, ROWS, D, values + t / 2 * D);
    }
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
        for (int64_t t = 0; t < P; t += ROWS) {
            const int64_t n = t + ROWS;
            float sums[ROWS], tops[ROWS];
            load_rows(s, q, b, h, t, true, block);
            product(ROWS, n, D, block, D, keys, P, scores, n);
            for (int64_t r = 0; r < ROWS; r++)
                sums[r] = weigh(scores + r * n, n, t + r, s.scale, weights + r * n, &tops[r]);
            product(ROWS, D, n, weights, n, values, D, mixed, D);
            for (int64_t r = 0; r < ROWS && t + r < s.T; r++) {
                log_sums[(b * s.H + h) * s.T + t + r] = tops[r] + std::log(sums[r]);
                for (int64_t d = 0; d < D; d++) mixed[r * D + d] *= 1 / sums[r];
            }
            store_rows(s, mixed, out, b, h, t, false);
        }
}

void backward_head(const Shape &s, const Heads &q, const Heads &k, const Heads &v, const Heads &out, const Heads &dout,
                   const float *log_sums, const Heads &dq, const Heads &dk, const Heads &dv, int64_t b, int64_t hk) {
    const int64_t D = s.D, P = s.padded(), group = s.H / s.Hkv;
    Scratch<uint32_t> keys(D / 2 * P), key_rows(P / 2 * D), values(D / 2 * P), pairs(ROWS / 2 * D);
    Scratch<bf16> block(ROWS * D), dblock(ROWS * D), weights(ROWS * P), dscores(ROWS * P), turned(ROWS * P);
    Scratch<float> scores(ROWS * P), dweights(ROWS * P), dqueries(ROWS * D), dkeys(P * D), dvalues(P * D);
    for (int64_t t = 0; t < P; t += ROWS) {
        load_rows(s, k, b, hk, t, true, block);
        pair_columns(block, ROWS, D, keys + t, P);
        pair_rows(block, ROWS, D, key_rows + t / 2 * D);
        load_rows(s, v, b, hk, t, false, block);
        pair_columns(block, ROWS, D, values + t, P);
    }
    std::memset(dkeys, 0, P * D * sizeof(float));
    std::memset(dvalues, 0, P * D * sizeof(float));
    for (int64_t h = hk * group; h < (hk + 1) * group; h++)
        for (int64_t t = 0; t < P; t += ROWS) {
            const int64_t n = t + ROWS;
            load_rows(s, q, b, h, t, true, block);
            load_rows(s, dout, b, h, t, false, dblock);
            product(ROWS, n, D, block, D, keys, P, scores, n);
            product(ROWS, n, D, dblock, D, values, P, dweights, n);
            for (int64_t r = 0; r < ROWS; r++) {
                float delta = 0, log_sum = INFINITY;  // a row past the end weighs nothing
                if (t + r < s.T) {
                    const bf16 *o = out.row(b, h, t + r), *g = dblock + r * D;
#pragma omp simd reduction(+ : delta)
                    for (int64_t d = 0; d < D; d++) delta += load(o[d]) * load(g[d]);
                    log_sum = log_sums[(b * s.H + h) * s.T + t + r];
                }
                weigh_backward(scores + r * n, dweights + r * n, n, t + r, s.scale, log_sum, delta, weights + r * n,
                               dscores + r * n);
            }
            transpose(weights, n, turned);
            pair_rows(dblock, ROWS, D, pairs);
            product(n, D, ROWS, turned, ROWS, pairs, D, dvalues, D, true);
            transpose(dscores, n, turned);
            pair_rows(block, ROWS, D, pairs);
            product(n, D, ROWS, turned, ROWS, pairs, D, dkeys, D, true);
            product(ROWS, D, n, dscores, n, key_rows, D, dqueries, D);
            store_rows(s, dqueries, dq, b, h, t, true);
        }
    for (int64_t t = 0; t < P; t += ROWS) {
        store_rows(s, dkeys + t * D, dk, b, hk, t, true);
        store_rows(s, dvalues + t * D, dv, b, hk, t, false);
    }
}

}  // namespace

// One thread per (batch, key-value head): each result is written by one thread, so the outcome does not depend on how
// many there are.
extern "C" void eco_attention_forward(const Shape *s, const Heads *q, const Heads *k, const Heads *v, const Heads *out,
                                      float *log_sums) {
#pragma omp parallel
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->B * s->Hkv; i++)
            forward_head(*s, *q, *k, *v, *out, log_sums, i / s->Hkv, i % s->Hkv);
    }
}

extern "C" void eco_attention_backward(const Shape *s, const Heads *q, const Heads *k, const Heads *v, const Heads *out,
                                       const Heads *dout, const float *log_sums, const Heads *dq, const Heads *dk,
                                       const Heads *dv) {
#pragma omp parallel
    {
        Tiles tiles;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->B * s->Hkv; i++)
            backward_head(*s, *q, *k, *v, *out, *dout, log_sums, *dq, *dk, *dv, i / s->Hkv, i % s->Hkv);
    }
}
