// Products that are symmetric: the lower half is computed, by strips of columns, and the upper one is its mirror image.
// Threads take strips, each of which is always summed in the same order.
#include <algorithm>
#include <vector>

#include "product.h"

namespace {

constexpr int SIDE = 32;    // columns at a time
constexpr int DEPTH = 512;  // of the sums, at a time: 32 KiB of B stay in the first cache

// SIDE rows of b, `depth` numbers of each, turned into the pairs that `product` reads.
void pack(const bf16 *b, int64_t k, int64_t depth, uint32_t *pairs) {
    for (int row = 0; row < SIDE; row += LANES)
        for (int64_t i = 0; i < depth / 2; i += LANES)
            transpose_16((const uint32_t *)(b + row * k) + i, k / 2, pairs + i * SIDE + row, SIDE);
}

// Rows and columns from `first` on of a b^T, (m, m), of which SIDE columns and as many rows are new.
void strip(int64_t m, int64_t k, int64_t first, const bf16 *a, const bf16 *b, bf16 *out, uint32_t *pairs, float *sums) {
    const int64_t rows = m - first;
    for (int64_t at = 0; at < k; at += DEPTH) {
        const int64_t depth = std::min<int64_t>(DEPTH, k - at);
        pack(b + first * k + at, k, depth, pairs);
        product(rows, SIDE, depth, a + first * k + at, k, pairs, SIDE, sums, SIDE, at > 0);
    }
    for (int64_t row = 0; row < rows; row += LANES)
        for (int column = 0; column < SIDE; column += LANES) {
            alignas(64) float turned[LANES * LANES];
            const float *block = sums + row * SIDE + column;
            transpose_16((const uint32_t *)block, SIDE, (uint32_t *)turned, LANES);
            for (int i = 0; i < LANES; i++) {
                store_lanes(out + (first + row + i) * m + first + column, lanes_at(block + i * SIDE));
                if (row >= SIDE) store_lanes(out + (first + column + i) * m + first + row, lanes_at(turned + i * LANES));
            }
        }
}

}  // namespace

// out (count, m, m) = a b^T of a, b (count, m, k); m and k are multiples of 32.
extern "C" void eco_symmetric_product(int64_t count, int64_t m, int64_t k, const bf16 *a, const bf16 *b, bf16 *out) {
    const int64_t strips = m / SIDE;
#pragma omp parallel
    {
        [[maybe_unused]] Tiles tiles;
        std::vector<uint32_t> pairs(DEPTH / 2 * SIDE);
        std::vector<float> sums(m * SIDE);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < count * strips; task++) {
            const int64_t matrix = task / strips, first = task % strips * SIDE;
            strip(m, k, first, a + matrix * m * k, b + matrix * m * k, out + matrix * m * m, pairs.data(), sums.data());
        }
    }
}
