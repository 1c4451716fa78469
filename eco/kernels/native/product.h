// The small matrix product inside the fused kernels: C (M x N, fp32) [+]= A (M x K, bf16) B (K x N, bf16).
//
// A's rows are contiguous along K. B comes in pairs: the 32-bit word at [k / 2][n] holds B[k][n] and B[k + 1][n], the
// layout that both vdpbf16ps (AVX512-BF16) and tdpbf16ps (AMX) read. M, N and K are multiples of GRAIN.
#pragma once
#include "lanes.h"

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#ifdef __AMX_BF16__
constexpr int GRAIN = 32;
#else
constexpr int GRAIN = 16;
#endif

// N a multiple of COLUMNS lanes.
template <int COLUMNS>
static inline void product_lanes(int M, int N, int K, const uint32_t *a, int lda, const uint32_t *b, int ldb, float *c,
                                 int ldc, bool accumulate) {
    constexpr int ROWS = 8;
    for (int n = 0; n < N; n += LANES * COLUMNS)
        for (int m = 0; m < M; m += ROWS) {
            Lanes acc[ROWS][COLUMNS] = {};
            if (accumulate)
                for (int i = 0; i < ROWS; i++)
                    for (int j = 0; j < COLUMNS; j++) acc[i][j] = lanes_at(c + (m + i) * ldc + n + LANES * j);
            for (int k = 0; k < K / 2; k++)
#pragma GCC unroll 8
                for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
                    for (int j = 0; j < COLUMNS; j++)
                        acc[i][j] = add_pair_products(acc[i][j], a[(m + i) * lda + k],
                                                      *(const Words *)(b + k * ldb + n + LANES * j));
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < COLUMNS; j++) store_lanes(c + (m + i) * ldc + n + LANES * j, acc[i][j]);
        }
}

#ifdef __AMX_BF16__
// The compiler does not know that tile instructions read and write memory: this keeps what is before them before them.
static inline void settle_memory() { asm volatile("" ::: "memory"); }

static inline void product_tiles(int M, int N, int K, const uint32_t *a, int lda, const uint32_t *b, int ldb, float *c,
                                 int ldc, bool accumulate) {
    settle_memory();
    for (int n = 0; n < N; n += 32)
        for (int m = 0; m < M; m += 32) {
            float *c0 = c + m * ldc + n, *c1 = c0 + 16 * ldc;
            if (accumulate) {
                _tile_loadd(0, c0, ldc * 4);
                _tile_loadd(1, c0 + 16, ldc * 4);
                _tile_loadd(2, c1, ldc * 4);
                _tile_loadd(3, c1 + 16, ldc * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (int k = 0; k < K / 2; k += 16) {
                _tile_loadd(4, a + m * lda + k, lda * 4);
                _tile_loadd(5, a + (m + 16) * lda + k, lda * 4);
                _tile_loadd(6, b + k * ldb + n, ldb * 4);
                _tile_loadd(7, b + k * ldb + n + 16, ldb * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, c0, ldc * 4);
            _tile_stored(1, c0 + 16, ldc * 4);
            _tile_stored(2, c1, ldc * 4);
            _tile_stored(3, c1 + 16, ldc * 4);
        }
    settle_memory();
}

// Linux grants a process the tile registers only on request.
static inline bool tiles_granted() {
    static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    return granted;
}
#endif

// While one lives, its thread's tile registers are set up for `product`. Afterwards they are as before: oneDNN
// remembers which set-up it loaded last and would not load its own again.
class Tiles {
#ifdef __AMX_BF16__
    struct alignas(64) Config {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    };
    Config before{};

   public:
    Tiles() {
        if (!tiles_granted()) return;
        _tile_storeconfig(&before);
        Config ours{};
        ours.palette = 1;
        for (int tile = 0; tile < 8; tile++) {
            ours.row_bytes[tile] = 64;
            ours.rows[tile] = 16;
        }
        settle_memory();
        _tile_loadconfig(&ours);
    }
    ~Tiles() {
        if (!tiles_granted()) return;
        settle_memory();
        if (before.palette) _tile_loadconfig(&before);
        else _tile_release();
    }
#endif
};

static inline void product(int M, int N, int K, const bf16 *a, int lda, const uint32_t *b, int ldb, float *c, int ldc,
                           bool accumulate = false) {
    const uint32_t *pairs = (const uint32_t *)a;
#ifdef __AMX_BF16__
    if (tiles_granted()) return product_tiles(M, N, K, pairs, lda / 2, b, ldb, c, ldc, accumulate);
#endif
    const int even = N / (2 * LANES) * (2 * LANES);
    // 8 rows of 2: 16 accumulators hide the latency and leave registers for B
    product_lanes<2>(M, even, K, pairs, lda / 2, b, ldb, c, ldc, accumulate);
    if (even < N) product_lanes<1>(M, LANES, K, pairs, lda / 2, b + even, ldb, c + even, ldc, accumulate);
}
