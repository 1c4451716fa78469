// One token through a whole transformer, for any number of rows at once, in fp32.
//
// A token at batch 1 costs one reading of all weights, and little else: at this size calls of separate operations take
// longer than the arithmetic. So everything happens in one parallel region, in which every matrix product is split by
// its output rows: each number is computed by one thread in a fixed order, whatever the number of threads or rows, so
// results are equal bit for bit between them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <utility>

#include "numbers.h"

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int UNROLL = 2;
constexpr int SIDE = LANES == 16 ? 2 : 1;  // weight rows at a time with 4 inputs: half of the registers hold sums
constexpr int64_t NEAR = 6144;             // numbers (24 KiB) of input that stay in the first cache meanwhile
constexpr int AHEAD = 4096;  // numbers (16 KiB) from their prefetch to their use; half or four times as far is slower
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Vector vector_at(const float* from) { return *reinterpret_cast<const Vector*>(from); }

enum Activation : int64_t { SWIGLU, GELU, GELU_TANH };

struct Norm {            // LayerNorm where there is a bias, else RMSNorm; weight null: none
    const float *weight, *bias;
    double eps;
};

struct Linear {          // weight (rows, columns); bias (rows) or null
    const float *weight, *bias;
    int64_t rows, columns;
};

struct Layer {
    Norm attention_norm;
    Linear qkv;          // query heads, then key heads, then value heads
    Norm query_norm, key_norm;
    Linear output;
    Norm mlp_norm;
    Linear up;           // SwiGLU: the gate's units, then the others
    Linear down;
};

struct Model {
    const Layer* layers;
    int64_t layer_count, width, heads, kv_heads, head_size, activation;
    const float *embedding, *positions;  // positions null: none are learned
    Norm norm;
    Linear head;
};

struct Store {
    float *keys, *values;                // (layers, rows, kv_heads, capacity, head_size)
    int64_t layer_stride, row_stride, head_stride, position_stride;  // in numbers, of both
    int64_t at(int64_t layer, int64_t row, int64_t head, int64_t position) const {
        return layer * layer_stride + row * row_stride + head * head_stride + position * position_stride;
    }
};

struct Step {
    int64_t rows, threads;               // threads: at most so many
    const int64_t* tokens;               // (rows)
    const int64_t* padding;              // (rows), or null: none
    const float *cos, *sin;              // (head_size / 2) of this position, or null: no rotation
    Store own;
    const int64_t* slot;                 // (rows) in `own`, or null: in order
    Store prefix;                        // the first `shared` positions, which several rows may have in common
    const int64_t* source;               // (rows) in `prefix`
    int64_t shared, length;              // positions in the prefix, and in all before this token
    float* logits;                       // (rows, vocabulary)
    float* scratch;                      // scratch_size numbers
};

// (1 + tanh(a)) / 2 = sigmoid(2 a)
inline float gelu_tanh(float x) { return x * sigmoid_of(1.5957691216f * (x + 0.044715f * x * x * x)); }

// erf by Abramowitz and Stegun 7.1.26, absolute error below 2e-7.
inline float gelu(float x) {
    const float z = std::fabs(x) * 0.7071067812f;
    const float t = 1.0f / (1.0f + 0.3275911f * z);
    const float poly =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float erf = 1.0f - poly * exp_of(-z * z);
    return 0.5f * x * (1.0f + std::copysign(erf, x));
}

struct Team {
    int64_t thread, threads;
};

// The part of `count` that one thread does, in multiples of `unit` but for the end.
struct Share {
    int64_t begin, end;
    Share(int64_t count, int64_t unit, Team team) {
        const int64_t units = (count + unit - 1) / unit;
        begin = std::min(count, units * team.thread / team.threads * unit);
        end = std::min(count, units * (team.thread + 1) / team.threads * unit);
    }
    Share shifted(int64_t by) const {
        Share share = *this;
        share.begin += by;
        share.end += by;
        return share;
    }
};

inline float sum_of(Vector vector) {
    float lanes[LANES];
    std::memcpy(lanes, &vector, sizeof lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

#ifdef __AVX512F__
typedef int32_t Places __attribute__((vector_size(LANES * sizeof(int32_t))));

// Adds lanes HALF apart, as `sum_of` does: a's sums, then b's, each where its block of 2 HALF lanes was.
template <int HALF>
inline Vector halved(Vector a, Vector b) {
    constexpr int BLOCKS = LANES / 2 / HALF;
    Places low;
    for (int i = 0; i < LANES; ++i)
        low[i] = i / HALF / BLOCKS * LANES + i / HALF % BLOCKS * 2 * HALF + i % HALF;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, low + HALF);
}

// out[i] = sum_of(vectors[i]), bit for bit.
inline void sums_of(const Vector (&vectors)[8], float* out) {
    Vector quarters[4], halves[2];
    for (int i = 0; i < 4; ++i) quarters[i] = halved<8>(vectors[2 * i], vectors[2 * i + 1]);
    for (int i = 0; i < 2; ++i) halves[i] = halved<4>(quarters[2 * i], quarters[2 * i + 1]);
    const Vector pairs = halved<2>(halves[0], halves[1]), sums = halved<1>(pairs, pairs);
    std::memcpy(out, &sums, 8 * sizeof(float));
}
#endif

template <int COUNT>
inline void sums_of(const Vector (&vectors)[COUNT], float* out) {
    for (int i = 0; i < COUNT; ++i) out[i] = sum_of(vectors[i]);
}

// out[b][r] (+)= row r . input[b] + bias[r], for R rows and B inputs. A thread that has few inputs walks through its
// part of the weights in the order in which they lie in memory, R = 1: measured 1.4 times as fast as rows side by side.
// With many inputs the arithmetic counts, and rows share what is loaded. The order of a sum is the same.
template <int R, int B>
inline void products(const float* weights, int64_t columns, const float* input, const float* bias, float* out,
                     int64_t stride, bool add) {
    Vector parts[UNROLL][B * R] = {};
    int64_t c = 0;
    for (; c + UNROLL * LANES <= columns; c += UNROLL * LANES)
        for (int u = 0; u < UNROLL; ++u) {
            const int64_t at = c + u * LANES;
            if (R == 1) __builtin_prefetch(weights + at + AHEAD);
            for (int r = 0; r < R; ++r) {
                const Vector row = vector_at(weights + r * columns + at);
                for (int b = 0; b < B; ++b) parts[u][b * R + r] += row * vector_at(input + b * columns + at);
            }
        }
    for (int i = 0; i < B * R; ++i)
        for (int u = 1; u < UNROLL; ++u) parts[0][i] += parts[u][i];
    float sums[B * R];
    sums_of(parts[0], sums);
    for (int b = 0; b < B; ++b)
        for (int r = 0; r < R; ++r) {
            float sum = sums[b * R + r];
            for (int64_t i = c; i < columns; ++i) sum += weights[r * columns + i] * input[b * columns + i];
            out[b * stride + r] = (add ? out[b * stride + r] : 0.0f) + sum + (bias ? bias[r] : 0.0f);
        }
}

template <int R>
inline void rows_product(const Linear& linear, int64_t row, const float* input, int64_t count, float* out, bool add) {
    const int64_t columns = linear.columns, rows = linear.rows;
    const float *weights = linear.weight + row * columns, *bias = linear.bias ? linear.bias + row : nullptr;
    int64_t b = 0;
    for (; b + 4 <= count; b += 4)
        products<R, 4>(weights, columns, input + b * columns, bias, out + b * rows + row, rows, add);
    for (; b < count; ++b)
        products<R, 1>(weights, columns, input + b * columns, bias, out + b * rows + row, rows, add);
}

// out (count, rows) = or += input (count, columns) times the transposed weight, for a share of the rows.
void multiply(const Linear& linear, const float* input, int64_t count, Share share, float* out, bool add = false) {
    const int64_t together = std::max<int64_t>(8, NEAR / linear.columns / 4 * 4);
    for (int64_t first = 0; first < count; first += together) {
        const float* from = input + first * linear.columns;
        float* to = out + first * linear.rows;
        const int64_t size = std::min(together, count - first);
        int64_t r = share.begin;
        if (count >= 4)
            for (; r + SIDE <= share.end; r += SIDE) rows_product<SIDE>(linear, r, from, size, to, add);
        for (; r < share.end; ++r) rows_product<1>(linear, r, from, size, to, add);
    }
}

inline float dot(const float* a, const float* b, int64_t size) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
    return sum;
}

void normalise(const Norm& norm, const float* x, int64_t size, float* out) {
    float mean = 0.0f;
    if (norm.bias) {
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < size; ++i) mean += x[i];
        mean /= size;
    }
    float square = 0.0f;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < size; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt(square / size + static_cast<float>(norm.eps));
    for (int64_t i = 0; i < size; ++i)
        out[i] = (x[i] - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f);
}

void normalise_rows(const Norm& norm, const float* x, int64_t rows, int64_t size, float* out) {
    for (int64_t b = 0; b < rows; ++b) normalise(norm, x + b * size, size, out + b * size);
}

// A query or key head made ready: QK-norm and rotation (first half of the head against the second), where they are.
void prepare_head(const Norm& norm, const Step& step, const float* head, int64_t size, float* out) {
    if (norm.weight)
        normalise(norm, head, size, out);
    else
        std::copy(head, head + size, out);
    if (!step.cos) return;
    const int64_t half = size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const float a = out[i], b = out[i + half];
        out[i] = a * step.cos[i] - b * step.sin[i];
        out[i + half] = b * step.cos[i] + a * step.sin[i];
    }
}

struct Past {
    const float *keys, *values;          // (count, size), `stride` numbers apart
    int64_t count, stride;
};

// Softmax attention of one query over the shared past, then the row's own, then the new position.
void attend(const float* query, const Past (&pasts)[2], const float* key, const float* value, int64_t size,
            float* scores, float* out) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    float* score = scores;
    for (const Past& past : pasts)
        for (int64_t t = 0; t < past.count; ++t) *score++ = dot(query, past.keys + t * past.stride, size) * scale;
    *score++ = dot(query, key, size) * scale;
    const int64_t count = score - scores;
    const float highest = *std::max_element(scores, score);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < count; ++t) {
        scores[t] = exp_of(scores[t] - highest);
        sum += scores[t];
    }
    score = scores;
    for (int64_t i = 0; i < size; ++i) out[i] = scores[count - 1] * value[i];
    for (const Past& past : pasts)
        for (int64_t t = 0; t < past.count; ++t, ++score)
            for (int64_t i = 0; i < size; ++i) out[i] += *score * past.values[t * past.stride + i];
    for (int64_t i = 0; i < size; ++i) out[i] /= sum;
}

// The buffers that all threads share, and a thread's own.
struct Buffers {
    float *x, *qkv, *mixed, *up, *units, *normed, *head, *scores;
    Buffers(const Model& model, const Step& step, Team team) {
        const Layer& layer = model.layers[0];
        float* at = step.scratch;
        const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
        x = take(step.rows * model.width);
        qkv = take(step.rows * layer.qkv.rows);
        mixed = take(step.rows * model.heads * model.head_size);
        up = take(step.rows * layer.up.rows);
        units = take(step.rows * layer.down.columns);
        const int64_t own = step.rows * model.width + 2 * model.head_size + step.length + 1;
        at += team.thread * own;
        normed = take(step.rows * model.width);
        head = take(2 * model.head_size);
        scores = take(step.length + 1);
    }
};

// x (rows, width): the residual stream of the new tokens, before the first layer.
void embed(const Model& model, const Step& step, float* x, Share share) {
    for (int64_t b = 0; b < step.rows; ++b) {
        const float* token = model.embedding + step.tokens[b] * model.width;
        const int64_t position = step.length - (step.padding ? step.padding[b] : 0);
        const float* place = model.positions ? model.positions + position * model.width : nullptr;
        for (int64_t i = share.begin; i < share.end; ++i)
            x[b * model.width + i] = token[i] + (place ? place[i] : 0.0f);
    }
}

// Positions first .. end - 1 of what begins at `at`.
inline Past past_of(const Store& store, int64_t at, int64_t first, int64_t end) {
    const int64_t from = at + first * store.position_stride;
    return {store.keys + from, store.values + from, std::max<int64_t>(0, end - first), store.position_stride};
}

inline Past shared_past(const Step& step, int64_t layer, int64_t b, int64_t group, int64_t first) {
    if (!step.shared) return {};
    return past_of(step.prefix, step.prefix.at(layer, step.source[b], group, 0), first, step.shared);
}

// One query head of one row. Every head of a group makes its key and value ready, and one of them writes the cache:
// the others read the new position from their own copy, so that nobody waits.
void attention_head(const Model& model, const Step& step, int64_t layer, int64_t b, int64_t head, Buffers& buffers) {
    const Layer& weights = model.layers[layer];
    const int64_t size = model.head_size, group = head / (model.heads / model.kv_heads);
    const float* qkv = buffers.qkv + b * weights.qkv.rows;
    const float* value = qkv + (model.heads + model.kv_heads + group) * size;
    float *query = buffers.head, *key = buffers.head + size;
    prepare_head(weights.query_norm, step, qkv + head * size, size, query);
    prepare_head(weights.key_norm, step, qkv + (model.heads + group) * size, size, key);
    const int64_t slot = step.slot ? step.slot[b] : b;
    const int64_t begin = step.own.at(layer, slot, group, 0);
    if (head % (model.heads / model.kv_heads) == 0) {
        const int64_t end = begin + (step.length - step.shared) * step.own.position_stride;
        std::copy(key, key + size, step.own.keys + end);
        std::copy(value, value + size, step.own.values + end);
    }
    const int64_t first = step.padding ? step.padding[b] : 0;
    const int64_t skipped = std::max<int64_t>(0, first - step.shared);
    const Past pasts[2] = {shared_past(step, layer, b, group, first),
                           past_of(step.own, begin, skipped, step.length - step.shared)};
    attend(query, pasts, key, value, size, buffers.scores, buffers.mixed + (b * model.heads + head) * size);
}

// units (rows, down.columns) = activation(up(normed)), for this team member's units. Gate and unit come from the same
// thread, so that nobody waits in between.
void expand(const Model& model, const Step& step, const Layer& layer, const Buffers& buffers, Team team) {
    const int64_t count = layer.down.columns;
    const Share share(count, LANES, team);
    multiply(layer.up, buffers.normed, step.rows, share, buffers.up);
    if (model.activation == SWIGLU) multiply(layer.up, buffers.normed, step.rows, share.shifted(count), buffers.up);
    for (int64_t b = 0; b < step.rows; ++b) {
        const float* in = buffers.up + b * layer.up.rows;
        float* out = buffers.units + b * count;
        if (model.activation == SWIGLU)
            for (int64_t i = share.begin; i < share.end; ++i) out[i] = in[i] * sigmoid_of(in[i]) * in[count + i];
        else if (model.activation == GELU)
            for (int64_t i = share.begin; i < share.end; ++i) out[i] = gelu(in[i]);
        else
            for (int64_t i = share.begin; i < share.end; ++i) out[i] = gelu_tanh(in[i]);
    }
}

void run(const Model& model, const Step& step, Team team) {
    Buffers buffers(model, step, team);
    const Share width(model.width, LANES, team);
    embed(model, step, buffers.x, width);
#pragma omp barrier
    for (int64_t l = 0; l < model.layer_count; ++l) {
        const Layer& layer = model.layers[l];
        normalise_rows(layer.attention_norm, buffers.x, step.rows, model.width, buffers.normed);
        multiply(layer.qkv, buffers.normed, step.rows, Share(layer.qkv.rows, LANES, team), buffers.qkv);
#pragma omp barrier
        const Share heads(step.rows * model.heads, 1, team);
        for (int64_t i = heads.begin; i < heads.end; ++i)
            attention_head(model, step, l, i % step.rows, i / step.rows, buffers);  // neighbours share a prefix
#pragma omp barrier
        multiply(layer.output, buffers.mixed, step.rows, width, buffers.x, true);
#pragma omp barrier
        normalise_rows(layer.mlp_norm, buffers.x, step.rows, model.width, buffers.normed);
        expand(model, step, layer, buffers, team);
#pragma omp barrier
        multiply(layer.down, buffers.units, step.rows, width, buffers.x, true);
#pragma omp barrier
    }
    normalise_rows(model.norm, buffers.x, step.rows, model.width, buffers.normed);
    multiply(model.head, buffers.normed, step.rows, Share(model.head.rows, LANES, team), step.logits);
}

}  // namespace

extern "C" {

void eco_decode_step(const Model* model, const Step* step) {
#pragma omp parallel num_threads(static_cast<int>(step->threads))
    run(*model, *step, Team{omp_get_thread_num(), omp_get_num_threads()});
}

}
