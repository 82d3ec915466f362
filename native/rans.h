/* rans.h: what the decoder and the encoder of rANS streams share. */
#ifndef FLY_RANS_H
#define FLY_RANS_H

#include "bytes.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#include <immintrin.h>
#define FLY_RANS_AVX2 __attribute__((target("avx2")))
#elif defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#define FLY_RANS_AVX2
#endif

/* The states of the lanes, in memory that vector loads like. */
#if defined(_MSC_VER)
#define FLY_RANS_ALIGNED __declspec(align(32))
#elif defined(__GNUC__) || defined(__clang__)
#define FLY_RANS_ALIGNED __attribute__((aligned(32)))
#else
#define FLY_RANS_ALIGNED
#endif

#define RANS_LOW 65536u      /* a state below this takes a word; lanes but a lone one start here */
#define RANS_MIN_BITS 9u     /* of probability */
#define RANS_EXACT 7u        /* the precision that stores weights as they are */
#define RANS_MAX_LANES 128u
#define RANS_MAX_TABLE (1u << 19)
#define RANS_CHUNK (1u << 21)

/* The number of the nearest weight that has `precision` bits after the first, and its weight. */
FLY_INLINE uint32_t fly_rans_number(uint32_t weight, unsigned precision) {
    const unsigned log = fly_log2(weight);
    const unsigned shift = log > precision ? log - precision : 0;
    if (precision == RANS_EXACT) {
        return weight;
    }
    return (shift << precision) + ((weight + (1u << shift >> 1)) >> shift);
}

FLY_INLINE uint32_t fly_rans_weight(uint32_t number, unsigned precision) {
    const uint32_t high = number >> precision;
    if (precision == RANS_EXACT || high < 2) {
        return number;
    }
    return (number - ((high - 1) << precision)) << (high - 1);
}

/* The number that the differences of a table begin with: that of an even share. */
FLY_INLINE uint32_t fly_rans_first(uint32_t used, unsigned bits, unsigned precision) {
    return fly_rans_number(((1u << bits) - used) / used, precision);
}

#endif
