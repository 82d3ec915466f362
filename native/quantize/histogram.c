/* histogram.c: count values by their first 16 bits: sign, exponent and the top of the mantissa. */
#include "quantize.h"

void fly_histogram(const uint8_t *values, size_t count, size_t item, uint64_t *bins) {
    const uint64_t one = (uint64_t)1 << 40;
    size_t place;
    memset(bins, 0, sizeof(uint64_t) * FLY_BINS);
    if (item == 2) {
        for (place = 0; place < count; place++) {
            bins[fly_load16(values + 2 * place)] += one;
        }
    } else {
        for (place = 0; place < count; place++) {
            const uint32_t bits = fly_load32(values + 4 * place);
            bins[bits >> 16] += one + (bits & 0xFFFFu);
        }
    }
}

FLY_INLINE void bin_symbols(const uint8_t *values, size_t count, size_t item,
                            const uint16_t *table, void *out, size_t symbol_bytes) {
    uint8_t *const bytes = out;
    uint16_t *const halves = out;
    size_t place;
    for (place = 0; place < count; place++) {
        const uint16_t symbol = table[fly_load16(values + item * place + item - 2)];
        if (symbol_bytes == 1) {
            bytes[place] = (uint8_t)(symbol & 0xFF);
        } else {
            halves[place] = symbol;
        }
    }
}

void fly_bin_symbols(const uint8_t *values, size_t count, size_t item, const uint16_t *table,
                     void *out, size_t symbol_bytes) {
    if (symbol_bytes == 1) {
        item == 2 ? bin_symbols(values, count, 2, table, out, 1)
                  : bin_symbols(values, count, 4, table, out, 1);
    } else {
        item == 2 ? bin_symbols(values, count, 2, table, out, 2)
                  : bin_symbols(values, count, 4, table, out, 2);
    }
}
