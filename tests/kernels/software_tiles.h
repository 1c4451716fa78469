// AMX in software, for machines without it: included before the kernels, it stands in for the tile instructions.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

struct Registers {
    uint8_t config[64];
    uint8_t tiles[8][16][64];
};
static thread_local Registers registers;

// The kernels use whole tiles only: 16 rows of 64 bytes.
static void require_whole(int tile) {
    if (!registers.config[0] || registers.config[16 + 2 * tile] != 64 || registers.config[48 + tile] != 16) abort();
}

static void software_load(int tile, const void *from, long stride) {
    require_whole(tile);
    for (int row = 0; row < 16; row++) memcpy(registers.tiles[tile][row], (const char *)from + row * stride, 64);
}

static void software_store(int tile, void *to, long stride) {
    require_whole(tile);
    for (int row = 0; row < 16; row++) memcpy((char *)to + row * stride, registers.tiles[tile][row], 64);
}

static float number_at(const uint8_t *pair, int half) {
    uint16_t bits;
    memcpy(&bits, pair + 2 * half, 2);
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}

static void software_product(int c, int a, int b) {
    require_whole(c);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, &registers.tiles[c][m][4 * n], 4);
            for (int k = 0; k < 32; k++)
                sum += number_at(&registers.tiles[a][m][k / 2 * 4], k % 2) *
                       number_at(&registers.tiles[b][k / 2][4 * n], k % 2);
            memcpy(&registers.tiles[c][m][4 * n], &sum, 4);
        }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_release
#define _tile_loadd software_load
#define _tile_stored software_store
#define _tile_zero(tile) memset(registers.tiles[tile], 0, sizeof registers.tiles[tile])
#define _tile_dpbf16ps software_product
#define _tile_loadconfig(from) memcpy(registers.config, from, 64)
#define _tile_storeconfig(to) memcpy((void *)(to), registers.config, 64)
#define _tile_release() memset(registers.config, 0, 64)

#define syscall(...) 0  // permission granted
#ifndef __AMX_BF16__
#define __AMX_BF16__ 1
#endif
