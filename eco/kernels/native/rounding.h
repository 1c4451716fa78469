// bf16 rounded stochastically, so that small changes to it add up; plain torch draws the same bits.
#pragma once
#include "numbers.h"

// Every bit of x spread over all of them: the finaliser of MurmurHash3.
static inline uint32_t mix(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

// Away from zero where the lower 16 bits and the 16 drawn ones carry over.
static inline bf16 rounded(float x, uint32_t bits) { return {uint16_t((bits_of(x) + bits) >> 16)}; }
