/* floats.h: binary16 and bfloat16 to binary32 and back, to nearest with ties to even.
 *
 * By integers and by sums of normal numbers only: the same where subnormal numbers are flushed.
 */
#ifndef FLY_FLOATS_H
#define FLY_FLOATS_H

#include "bytes.h"

/* No fused multiplication and addition; for GCC setup.py has -ffp-contract=off. */
#if defined(_MSC_VER)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

FLY_INLINE float fly_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

FLY_INLINE uint32_t fly_bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

FLY_INLINE float fly_float_of_half(uint16_t half) {
    const uint32_t rest = (uint32_t)(half & 0x7FFFu) << 13;
    const uint32_t normal = rest + (112u << 23);
    const float tiny = fly_float_of_bits(normal + (1u << 23)) - fly_float_of_bits(113u << 23);
    /* Without branches, so that compilers make vectors of it. */
    const uint32_t small = 0u - ((rest - (1u << 23)) >> 31), infinite = (rest + (1u << 23)) >> 28;
    uint32_t bits = (fly_bits_of_float(tiny) & small) | (normal & ~small);
    bits += infinite * (112u << 23);
    return fly_float_of_bits(bits | (uint32_t)(half & 0x8000u) << 16);
}

FLY_INLINE uint16_t fly_half_of_float(float value) {
    const uint32_t bits = fly_bits_of_float(value), size = bits & 0x7FFFFFFFu;
    uint32_t half;
    if (size >= 143u << 23) { /* 65,536 and more, infinity, NaN */
        half = size > 255u << 23 ? 0x7E00u : 0x7C00u;
    } else if (size < 113u << 23) { /* below 2**-14: the sum rounds to multiples of 2**-24 */
        half = fly_bits_of_float(fly_float_of_bits(size) + 0.5f) - (126u << 23);
    } else {
        half = (size - (112u << 23) + 0xFFFu + (size >> 13 & 1u)) >> 13;
    }
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

FLY_INLINE float fly_float_of_bfloat(uint16_t bits) {
    return fly_float_of_bits((uint32_t)bits << 16);
}

/* Of a value that is no NaN. */
FLY_INLINE uint16_t fly_bfloat_of_float(float value) {
    const uint32_t bits = fly_bits_of_float(value);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#endif
