/* widen.c: from values as stored to values of their dtype, exactly, by integers alone. */
#include "bytes.h"

/* Bits of the exponent and of the mantissa. */
typedef struct layout {
    unsigned exponent, mantissa;
} layout;

static layout layout_of(fly_dtype dtype) {
    static const layout layouts[6] = {{5, 10}, {8, 7}, {8, 23}, {11, 52}, {4, 3}, {5, 2}};
    return layouts[dtype - FLY_FLOAT16];
}

/* A number in a layout as the same number in a wider one; *refused is set for what no writer
 * stores in a narrower type: NaN, and in 8 bits infinity. */
static uint64_t widen_float(uint64_t bits, fly_dtype storage, layout from, layout to,
                            int *refused) {
    const uint64_t sign = bits >> (from.exponent + from.mantissa);
    const int top = (1 << from.exponent) - 1;
    const int shift = (1 << (to.exponent - 1)) - (1 << (from.exponent - 1));
    int exponent = (int)(bits >> from.mantissa) & top;
    uint64_t rest = bits & (((uint64_t)1 << from.mantissa) - 1);
    if (storage == FLY_FLOAT8_E4M3FN) {
        *refused |= exponent == top && rest == 7;
        exponent += shift;
    } else if (exponent == top) {
        *refused |= rest != 0 || storage == FLY_FLOAT8_E5M2;
        exponent = (1 << to.exponent) - 1;
    } else {
        exponent += shift;
    }
    if (exponent == shift) { /* zero, or a subnormal number, which is normal in the wider type */
        exponent = rest == 0 ? 0 : exponent + 1;
        while (exponent != 0 && rest >> from.mantissa == 0) {
            rest <<= 1;
            exponent--;
        }
        rest &= ((uint64_t)1 << from.mantissa) - 1;
    }
    return sign << (to.exponent + to.mantissa) | (uint64_t)exponent << to.mantissa |
           rest << (to.mantissa - from.mantissa);
}

/* Reads and writes `count` values. */
fly_status fly_widen(fly_dtype dtype, fly_dtype storage, const uint8_t *stored, size_t count,
                     uint8_t *out) {
    const size_t narrow = fly_item_bytes(storage), item = fly_item_bytes(dtype);
    int refused = 0;
    size_t place, index;
    if (storage == dtype) {
        memmove(out, stored, count * item);
        for (place = 0; dtype == FLY_BOOL && place < count; place++) {
            refused |= out[place] > 1;
        }
        return refused ? FLY_BAD_BOOL : FLY_OK;
    }
    for (place = 0; place < count; place++, stored += narrow, out += item) {
        uint64_t bits = 0;
        for (index = narrow; index-- != 0;) {
            bits = bits << 8 | stored[index];
        }
        if (storage == FLY_BFLOAT16) {
            bits <<= 16;
        } else if (dtype >= FLY_FLOAT16) {
            bits = widen_float(bits, storage, layout_of(storage), layout_of(dtype), &refused);
        } else if (storage == FLY_INT8 || storage == FLY_INT16 || storage == FLY_INT32) {
            const uint64_t sign = (uint64_t)1 << (8 * narrow - 1);
            bits = (bits ^ sign) - sign;
        }
        for (index = 0; index < item; index++, bits >>= 8) {
            out[index] = (uint8_t)(bits & 0xFF);
        }
    }
    return refused ? FLY_NOT_FINITE : FLY_OK;
}
