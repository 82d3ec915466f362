/* words.c: items as words of bits: distinct ones, and floats that fit a narrower type. */
#include "quantize.h"

#define SLOT_BITS 17 /* of the table of distinct words: twice as many as may be known */

typedef struct slot {
    uint64_t word;
    uint64_t used; /* 1 + the place of the word, 0 for none */
} slot;

FLY_INLINE uint64_t word_at(const uint8_t *at, size_t item) {
    switch (item) {
    case 1: return *at;
    case 2: return fly_load16(at);
    case 4: return fly_load32(at);
    default: return fly_load64(at);
    }
}

/* Call a function with the item size as a constant, so that its loop is compiled for each. */
#define FOR_ITEM(call)                \
    switch (item) {                   \
    case 1: return call(1);           \
    case 2: return call(2);           \
    case 4: return call(4);           \
    default: return call(8);          \
    }

int fly_all_equal(const uint8_t *words, size_t count, size_t item) {
    const size_t bytes = count < 2 ? 0 : (count - 1) * item;
    size_t at, place;
    for (at = 0; at < bytes; at += 4096) {
        const size_t piece = bytes - at < 4096 ? bytes - at : 4096;
        uint8_t differ = 0;
        for (place = at; place < at + piece; place++) {
            differ = (uint8_t)(differ | (words[place] ^ words[place + item]));
        }
        if (differ) {
            return 0;
        }
    }
    return 1;
}

size_t fly_distinct_workspace(void) { return sizeof(slot) << SLOT_BITS; }

/* The slot of a word, or the free one where it belongs. Items of 1 and 2 bytes tell their place. */
FLY_INLINE slot *slot_of(slot *table, uint64_t word, size_t item) {
    const size_t mask = ((size_t)1 << SLOT_BITS) - 1;
    size_t at = item <= 2 ? (size_t)word
                          : (size_t)((word * 0x9E3779B97F4A7C15u) >> (64 - SLOT_BITS));
    while (table[at].used && table[at].word != word) {
        at = (at + 1) & mask;
    }
    return table + at;
}

FLY_INLINE size_t distinct(const uint8_t *words, size_t count, size_t item, size_t limit,
                           slot *table, uint64_t *found, int64_t *counts) {
    size_t place, known = 0;
    for (place = 0; place < count; place++) {
        const uint64_t word = word_at(words + item * place, item);
        slot *const own = slot_of(table, word, item);
        if (!own->used) {
            if (known == limit) {
                return limit + 1;
            }
            own->word = word;
            own->used = known + 1;
            found[known] = word;
            counts[known++] = 0;
        }
        counts[own->used - 1]++;
    }
    return known;
}

size_t fly_distinct(const uint8_t *words, size_t count, size_t item, size_t limit, void *table,
                    uint64_t *found, int64_t *counts) {
    memset(table, 0, fly_distinct_workspace());
    limit = limit < FLY_MOST_KNOWN ? limit : FLY_MOST_KNOWN;
#define CALL(size) distinct(words, count, size, limit, table, found, counts)
    FOR_ITEM(CALL)
#undef CALL
}

FLY_INLINE int places(const uint8_t *words, size_t count, size_t item, slot *table, uint8_t *bytes,
                      uint16_t *halves) {
    uint64_t missing = 0;
    size_t place;
    for (place = 0; place < count; place++) {
        const uint64_t used = slot_of(table, word_at(words + item * place, item), item)->used;
        missing |= used == 0;
        if (bytes != NULL) {
            bytes[place] = (uint8_t)((used - 1) & 0xFF);
        } else {
            halves[place] = (uint16_t)((used - 1) & 0xFFFF);
        }
    }
    return missing == 0;
}

int fly_places(const uint8_t *words, size_t count, size_t item, const uint64_t *known,
               size_t known_count, void *table, void *out, size_t symbol_bytes) {
    uint8_t *const bytes = symbol_bytes == 1 ? out : NULL;
    uint16_t *const halves = out;
    size_t place;
    memset(table, 0, fly_distinct_workspace());
    for (place = 0; place < known_count && place < FLY_MOST_KNOWN; place++) {
        const uint64_t word = item <= 2 ? known[place] & 0xFFFF : known[place];
        slot *const own = slot_of(table, word, item);
        own->word = word;
        own->used = place + 1;
    }
#define CALL(size) places(words, count, size, table, bytes, halves)
    FOR_ITEM(CALL)
#undef CALL
}

/* Bits of the exponent and of the mantissa. */
typedef struct format {
    unsigned exponent, mantissa;
} format;

static format format_of(fly_dtype dtype) {
    static const format formats[] = {{5, 10}, {8, 7}, {8, 23}, {11, 52}, {4, 3}, {5, 2}};
    return formats[dtype - FLY_FLOAT16];
}

/* Narrow a float to a type with a narrower exponent; return 0 if that is inexact. */
static int narrow_word(uint64_t bits, format from, fly_dtype dtype, uint64_t *out) {
    const format to = format_of(dtype);
    const int eight = dtype >= FLY_FLOAT8_E4M3FN;
    const uint64_t top = ((uint64_t)1 << from.exponent) - 1;
    const uint64_t most = ((uint64_t)1 << to.exponent) - 1;
    const uint64_t exponent = bits >> from.mantissa & top;
    const uint64_t mantissa = bits & (((uint64_t)1 << from.mantissa) - 1);
    const uint64_t sign = bits >> (from.exponent + from.mantissa) << (to.exponent + to.mantissa);
    const int64_t moved = (int64_t)exponent - (int64_t)(top >> 1) + (int64_t)(most >> 1);
    unsigned dropped = from.mantissa - to.mantissa;
    uint64_t whole = mantissa;
    if (exponent == top) {
        *out = sign | most << to.mantissa;
        return mantissa == 0 && !eight;
    }
    if (exponent == 0) { /* zero; subnormal numbers are too small */
        *out = sign;
        return mantissa == 0;
    }
    if (moved > (int64_t)most - (dtype != FLY_FLOAT8_E4M3FN)) {
        return 0;
    }
    if (moved > 0) {
        whole |= (uint64_t)moved << from.mantissa;
    } else {
        if (moved < -(int64_t)to.mantissa) {
            return 0;
        }
        whole |= (uint64_t)1 << from.mantissa;
        dropped += (unsigned)(1 - moved);
    }
    *out = sign | whole >> dropped;
    if (dtype == FLY_FLOAT8_E4M3FN && (*out & 0x7F) == 0x7F) { /* that would be its NaN */
        return 0;
    }
    return (whole & (((uint64_t)1 << dropped) - 1)) == 0;
}

int fly_narrow(const uint8_t *values, size_t count, fly_dtype from, fly_dtype to, uint8_t *out) {
    const format wide = format_of(from);
    size_t place;
    for (place = 0; place < count; place++) {
        const uint64_t bits =
            from == FLY_FLOAT32 ? fly_load32(values + 4 * place) : fly_load64(values + 8 * place);
        uint64_t narrow = bits >> 16;
        int exact = (bits & 0xFFFF) == 0;
        if (to != FLY_BFLOAT16) { /* which has the exponent of float32 */
            exact = narrow_word(bits, wide, to, &narrow);
        }
        if (!exact) {
            return 0;
        }
        if (to == FLY_FLOAT32) {
            fly_store32(out + 4 * place, (uint32_t)(narrow & 0xFFFFFFFFu));
        } else if (to >= FLY_FLOAT8_E4M3FN) {
            out[place] = (uint8_t)(narrow & 0xFF);
        } else {
            fly_store16(out + 2 * place, (uint16_t)(narrow & 0xFFFF));
        }
    }
    return 1;
}
