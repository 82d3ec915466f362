/* huffman_encode.c: make canonical, length-limited Huffman codes and write their streams.
 *
 * Cost: counting and writing take one to two cycles a symbol each; they take two symbols at a time
 * where those that occur differ in their low six bits. Making a code takes at most `limit` passes
 * over the symbols that occur.
 *
 * Source: Larmore & Hirschberg 1990 (package-merge).
 */
#include "bytes.h"
#include "encoders.h"

#define LENGTH 63u /* bits of a code: how long it is; the codeword follows, its first bit lowest */
#define CODEWORD 8
#define PAIRS (1u << 12) /* of symbols, the low six bits of each */
#define PAIRED 12        /* bits of the longest codeword of which two are written at a time */

/* ---- Counting ---- */

/* The low six bits of bytes 2n and 2n + 1 as one number at bit 16n. */
FLY_INLINE uint64_t pair_indices(uint64_t word) {
    return (word & 0x003F003F003F003Fu) | (word >> 2 & 0x0FC00FC00FC00FC0u);
}

/* Count bytes at even places and those that follow them as pairs; return 0 if one is above 63. */
static int count_pairs(const uint8_t *bytes, size_t count, uint32_t base, uint32_t *totals) {
    uint32_t pairs[2][PAIRS], pair;
    uint64_t seen = 0;
    size_t at;
    memset(pairs, 0, sizeof pairs);
    for (at = 0; at < count; at += 8) {
        const uint64_t word = fly_load64(bytes + at);
        const uint64_t index = pair_indices(word);
        seen |= word;
        pairs[0][index & 0xFFFF]++;
        pairs[1][index >> 16 & 0xFFFF]++;
        pairs[0][index >> 32 & 0xFFFF]++;
        pairs[1][index >> 48]++;
    }
    for (pair = 0; pair < PAIRS && !(seen & 0xC0C0C0C0C0C0C0C0u); pair++) {
        const uint32_t number = pairs[0][pair] + pairs[1][pair];
        totals[((pair & 63) - base) & 0xFF] += number;
        totals[((pair >> 6) - base) & 0xFF] += number;
    }
    return pair == PAIRS;
}

static void count_bytes(const uint8_t *bytes, size_t count, uint32_t base, uint32_t *totals) {
    uint32_t parts[4][256]; /* apart, so that equal neighbors do not wait for each other */
    size_t at, part, symbol;
    memset(parts, 0, sizeof parts);
    for (at = 0; at + 8 <= count; at += 8) {
        const uint64_t word = fly_load64(bytes + at);
        parts[0][word & 0xFF]++;
        parts[1][word >> 8 & 0xFF]++;
        parts[2][word >> 16 & 0xFF]++;
        parts[3][word >> 24 & 0xFF]++;
        parts[0][word >> 32 & 0xFF]++;
        parts[1][word >> 40 & 0xFF]++;
        parts[2][word >> 48 & 0xFF]++;
        parts[3][word >> 56]++;
    }
    for (; at < count; at++) {
        parts[0][bytes[at]]++;
    }
    for (part = 0; part < 4; part++) {
        for (symbol = 0; symbol < 256; symbol++) {
            totals[symbol] += parts[part][(symbol + base) & 0xFF];
        }
    }
}

fly_status fly_count_symbols(const void *symbols, uint32_t count, uint32_t alphabet, uint32_t base,
                             uint32_t *counts) {
    uint32_t at, symbol;
    if (alphabet <= 256) {
        const uint8_t *bytes = symbols;
        uint32_t totals[256];
        const uint32_t whole = base + alphabet <= 64 && count >= 1u << 14 ? count / 8 * 8 : 0;
        memset(totals, 0, sizeof totals);
        if (whole > 0 && !count_pairs(bytes, whole, base, totals)) {
            return FLY_BAD_ARGUMENT;
        }
        count_bytes(bytes + whole, count - whole, base, totals);
        for (symbol = 0; symbol < 256; symbol++) {
            if (symbol < alphabet) {
                counts[symbol] += totals[symbol];
            } else if (totals[symbol] > 0) {
                return FLY_BAD_ARGUMENT;
            }
        }
        return FLY_OK;
    }
    for (at = 0; at < count; at++) {
        const uint32_t one = fly_symbol(symbols, 2, at);
        if (one >= alphabet) {
            return FLY_BAD_ARGUMENT;
        }
        counts[one]++;
    }
    return FLY_OK;
}

/* ---- Codes ---- */

unsigned fly_huffman_limit(uint32_t used, unsigned limit) {
    const unsigned least = used < 2 ? 0 : fly_width(used - 1) + 2;
    return limit > least ? limit : least < 16 ? least : 16;
}

size_t fly_huffman_code_workspace(uint32_t used, unsigned limit) {
    const size_t rounds = limit < 17 ? 17 : limit;
    return 8 + 8 * (5 * (size_t)used + 5) + 4 * (size_t)used + 2 * rounds * (size_t)used;
}

/* Sort `number` symbols, ascending, by their counts; `other` has room for as many. Return the one
 * of the two arrays that holds them. */
static uint16_t *sort_symbols(uint16_t *symbols, uint16_t *other, uint32_t number,
                              const uint64_t *counts) {
    uint64_t highest = 0;
    uint32_t at, places[256], sum, place;
    unsigned shift;
    for (at = 0; at < number; at++) {
        highest |= counts[symbols[at]];
    }
    for (shift = 0; shift < 64 && highest >> shift > 0; shift += 8) {
        uint16_t *sorted = other;
        memset(places, 0, sizeof places);
        for (at = 0; at < number; at++) {
            places[counts[symbols[at]] >> shift & 0xFF]++;
        }
        for (at = 0, sum = 0; at < 256; at++) {
            place = sum;
            sum += places[at];
            places[at] = place;
        }
        for (at = 0; at < number; at++) {
            sorted[places[counts[symbols[at]] >> shift & 0xFF]++] = symbols[at];
        }
        other = symbols;
        symbols = sorted;
    }
    return symbols;
}

void fly_huffman_code(const uint64_t *counts, uint32_t alphabet, unsigned limit, uint8_t *lengths,
                      void *workspace) {
    /* In each round the cheapest items are paired into packages, which compete with the leaves in
     * the next; ties go to the leaf. A symbol's length is how many rounds use its leaf. */
    uint32_t symbol, used = 0, rounds, round, items, chosen;
    for (symbol = 0; symbol < alphabet; symbol++) {
        lengths[symbol] = counts[symbol] > 0;
        used += counts[symbol] > 0;
    }
    if (used < 2) {
        return;
    }
    {
        uint64_t *leaves = (uint64_t *)(((uintptr_t)workspace + 7) / 8 * 8);
        uint64_t *costs = leaves + used + 1, *next = costs + 2 * (size_t)used + 2;
        uint16_t *sorted = (uint16_t *)(next + 2 * (size_t)used + 2);
        uint8_t *is_leaf = (uint8_t *)(sorted + 2 * (size_t)used);
        uint32_t at = 0;
        for (symbol = 0; symbol < alphabet; symbol++) {
            sorted[at] = (uint16_t)symbol;
            at += counts[symbol] > 0;
            if (at == used) {
                break;
            }
        }
        sorted = sort_symbols(sorted, sorted + used, used, counts);
        for (at = 0; at < used; at++) {
            leaves[at] = costs[at] = counts[sorted[at]];
        }
        leaves[used] = UINT64_MAX; /* after the last leaf, and after the last item, below */
        memset(is_leaf, 1, used);
        rounds = fly_width(used - 1);
        rounds = rounds < limit ? limit : rounds;
        items = used;
        for (round = 1; round < rounds; round++) {
            uint8_t *row = is_leaf + 2 * (size_t)used * round;
            const uint32_t merged = used + items / 2;
            const uint64_t *leaf = leaves, *package = costs;
            uint64_t *swap = costs;
            costs[items / 2 * 2] = costs[items / 2 * 2 + 1] = (uint64_t)1 << 62;
            for (at = 0; at < merged; at++) {
                const uint64_t pair = package[0] + package[1];
                const unsigned take = *leaf <= pair;
                next[at] = take ? *leaf : pair;
                row[at] = (uint8_t)take;
                leaf += take;
                package += 2 * (1 - take);
            }
            items = merged;
            costs = next;
            next = swap;
        }
        memset(lengths, 0, alphabet);
        chosen = 2 * used - 2;
        while (round-- > 0) {
            uint32_t leaf_count = 0;
            for (at = 0; at < chosen; at++) {
                leaf_count += is_leaf[2 * (size_t)used * round + at];
            }
            for (at = 0; at < leaf_count; at++) {
                lengths[sorted[at]]++;
            }
            chosen = 2 * (chosen - leaf_count);
        }
    }
}

typedef struct bit_writer {
    uint8_t *out;
    size_t at; /* in bits */
} bit_writer;

/* Append the low `length` bits of a number, the highest first. */
static void put_bits(bit_writer *bits, uint32_t number, unsigned length) {
    while (length-- > 0) {
        uint8_t *byte = bits->out + (bits->at >> 3);
        const unsigned place = 7 - (unsigned)(bits->at++ & 7);
        *byte = (uint8_t)((place < 7 ? *byte : 0) | (number >> length & 1) << place);
    }
}

static void put_gamma(bit_writer *bits, uint32_t number) {
    put_bits(bits, number, 2 * fly_width(number) - 1);
}

size_t fly_huffman_pack(const uint8_t *lengths, uint32_t alphabet, uint8_t *table) {
    uint32_t symbol, used = 0, expected = 0;
    int previous = (int)fly_width(alphabet - 1);
    bit_writer bits;
    bits.out = table;
    bits.at = 0;
    previous = previous < 15 ? previous : 15;
    for (symbol = 0; symbol < alphabet; symbol++) {
        used += lengths[symbol] > 0;
    }
    for (symbol = 0; symbol < alphabet && alphabet > 1; symbol++) {
        const int length = used == 1 ? 0 : lengths[symbol], step = length - previous;
        if (lengths[symbol] == 0) {
            continue;
        }
        if (symbol > expected) {
            put_bits(&bits, 6, 3);
            put_gamma(&bits, symbol - expected);
        }
        if (step >= -1 && step <= 1) {
            put_bits(&bits, step == 0 ? 0 : step > 0 ? 4 : 5, step == 0 ? 1 : 3);
        } else {
            put_bits(&bits, step > 0 ? 14 : 15, 4);
            put_gamma(&bits, (uint32_t)(step > 0 ? step : -step) - 1);
        }
        previous = length;
        expected = symbol + 1;
    }
    return (bits.at + 7) / 8;
}

/* ---- Streams ---- */

size_t fly_huffman_head(const uint64_t *sizes, uint64_t streams, uint8_t *out) {
    uint8_t varint[9];
    size_t length = 0;
    uint64_t stream;
    for (stream = 0; stream + 1 < streams; stream++) {
        length += fly_put_varint(out == NULL ? varint : out + length, sizes[stream]);
    }
    return length;
}

uint64_t fly_huffman_sizes(const uint32_t *counts, uint64_t streams, const uint8_t *lengths,
                           uint32_t alphabet, uint64_t *sizes) {
    uint64_t total = 0, stream;
    uint32_t symbol;
    for (stream = 0; stream < streams; stream++, counts += alphabet) {
        uint64_t bits = 7;
        for (symbol = 0; symbol < alphabet; symbol++) {
            bits += (uint64_t)counts[symbol] * lengths[symbol];
        }
        sizes[stream] = bits / 8;
        total += bits / 8;
    }
    return total + fly_huffman_head(sizes, streams, NULL);
}

typedef struct coder {
    uint32_t alphabet;
    uint8_t longest, paired, simd;
    uint32_t pairs[PAIRS]; /* two codes as one, if they are paired */
    uint32_t codes[1];     /* 256, or 65536 for symbols of two bytes */
} coder;

static coder *coder_in(const void *workspace) {
    return (coder *)(((uintptr_t)workspace + 7) / 8 * 8);
}

size_t fly_huffman_coder_workspace(uint32_t alphabet) {
    return 7 + sizeof(coder) + 4 * (alphabet <= 256 ? (size_t)256 : 65536);
}

/* The codewords of two codes, one after the other. */
FLY_INLINE uint64_t both(uint64_t first, uint64_t second) {
    return first >> CODEWORD | second >> CODEWORD << (first & LENGTH);
}

fly_status fly_huffman_coder(const uint8_t *lengths, uint32_t alphabet, uint32_t base,
                             uint64_t count, fly_simd simd, void *workspace) {
    coder *c = coder_in(workspace);
    const uint32_t last = alphabet <= 256 ? 0xFF : 0xFFFF;
    uint32_t symbol, number[17], next[17], code = 0, pair;
    uint8_t used[64];
    unsigned length;
    c->alphabet = alphabet;
    c->longest = 0;
    c->paired = alphabet <= 256 && count >= 8 * PAIRS;
    c->simd = simd != FLY_SCALAR;
    memset(number, 0, sizeof number);
    memset(used, 0, sizeof used);
    memset(c->codes, 0, 4 * ((size_t)last + 1));
    for (symbol = 0; symbol < alphabet; symbol++) {
        length = lengths[symbol];
        if (length > 16) {
            return FLY_BAD_ARGUMENT;
        }
        number[length]++;
        c->longest = (uint8_t)(length > c->longest ? length : c->longest);
        used[symbol & 63] = (uint8_t)(used[symbol & 63] + (length > 0));
        c->paired = c->paired && used[symbol & 63] < 2;
    }
    for (length = 1; length <= 16; length++) {
        next[length] = code;
        code = (code + number[length]) << 1;
        if (code > 2u << length) {
            return FLY_BAD_ARGUMENT; /* the Kraft sum is above 1 */
        }
    }
    for (symbol = 0; symbol < alphabet; symbol++) {
        length = lengths[symbol];
        if (length > 0) {
            code = next[length]++ << (16 - length); /* then its bits from last to first */
            code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
            code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
            code = (code & 0x0F0F) << 4 | (code >> 4 & 0x0F0F);
            code = (code & 0x00FF) << 8 | code >> 8;
            c->codes[(symbol + base) & last] = code << CODEWORD | length;
        }
    }
    c->paired = c->paired && c->longest <= PAIRED;
    if (c->paired) {
        uint32_t by_low[64];
        memset(by_low, 0, sizeof by_low);
        for (symbol = 0; symbol < 256; symbol++) {
            by_low[symbol & 63] |= c->codes[symbol];
        }
        for (pair = 0; pair < PAIRS; pair++) {
            const uint32_t a = by_low[pair & 63], b = by_low[pair >> 6];
            c->pairs[pair] = (uint32_t)both(a, b) << CODEWORD | ((a & LENGTH) + (b & LENGTH));
        }
    }
    return FLY_OK;
}

typedef struct writer {
    uint64_t bits; /* below the lowest `held`, at most 7, zeros */
    unsigned held;
    uint8_t *at, *end;
} writer;

/* Append at most 56 bits; eight bytes must be left. */
FLY_INLINE void append(writer *w, uint64_t word, uint64_t length) {
    uint64_t held = w->held + (length & LENGTH);
    w->bits |= word << w->held;
    fly_store64(w->at, w->bits);
    w->at += held >> 3;
    w->bits >>= held & 56;
    w->held = (unsigned)held & 7;
}

/* How many rounds, `most` or fewer, of at most `bytes` bytes each fit before the end. */
FLY_INLINE size_t fitting(const writer *w, size_t bytes, size_t most) {
    const size_t left = (size_t)(w->end - w->at), fit = left < 8 ? 0 : (left - 8) / bytes;
    return fit < most ? fit : most;
}

FLY_INLINE uint64_t code_at(const coder *c, const uint8_t *symbols, size_t at) {
    return c->codes[fly_symbol(symbols, c->alphabet <= 256 ? 1 : 2, at)];
}

/* Write most of the symbols; return how many. */
FLY_INLINE size_t write_most(const coder *c, const uint8_t *symbols, size_t count, writer *out) {
    writer w = *out;
    size_t at = 0, rounds;
    while (c->paired && (rounds = fitting(&w, 14, (count - at) / 8)) > 0) {
        for (; rounds > 0; rounds--, at += 8) {
            const uint64_t index = pair_indices(fly_load64(symbols + at));
            const uint64_t a = c->pairs[index & 0xFFFF], b = c->pairs[index >> 16 & 0xFFFF];
            const uint64_t d = c->pairs[index >> 32 & 0xFFFF], e = c->pairs[index >> 48];
            append(&w, both(a, b), a + b);
            append(&w, both(d, e), d + e);
        }
    }
    while (!c->paired && (rounds = fitting(&w, 7, (count - at) / 4)) > 0) {
        const size_t each = c->longest <= 14 ? 4 : 3; /* of at most 56 bits together */
        for (; rounds > 0; rounds--, at += each) {
            const uint64_t a = code_at(c, symbols, at), b = code_at(c, symbols, at + 1);
            const uint64_t d = code_at(c, symbols, at + 2);
            const uint64_t e = each == 4 ? code_at(c, symbols, at + 3) : 0;
            append(&w, both(a, b) | both(d, e) << ((a + b) & LENGTH), a + b + d + e);
        }
    }
    *out = w;
    return at;
}

static size_t write_plainly(const coder *c, const uint8_t *symbols, size_t count, writer *w) {
    return write_most(c, symbols, count, w);
}
FLY_BMI2 static size_t write_quickly(const coder *c, const uint8_t *symbols, size_t count,
                                     writer *w) {
    return write_most(c, symbols, count, w);
}

fly_status fly_huffman_write(const void *workspace, const void *symbols, size_t count,
                             uint8_t *out, size_t size) {
    const coder *c = coder_in(workspace);
    writer w;
    size_t at;
    w.bits = 0;
    w.held = 0;
    w.at = out;
    w.end = out + size;
    at = (c->simd ? write_quickly : write_plainly)(c, symbols, count, &w);
    for (;;) {
        for (; w.held >= 8 || (at == count && w.held > 0); w.bits >>= 8) {
            if (w.at == w.end) {
                return FLY_BAD_ARGUMENT;
            }
            *w.at++ = (uint8_t)(w.bits & 0xFF);
            w.held = w.held < 8 ? 0 : w.held - 8;
        }
        if (at == count) {
            return w.at == w.end ? FLY_OK : FLY_BAD_ARGUMENT;
        }
        {
            const uint64_t code = code_at(c, symbols, at++);
            w.bits |= code >> CODEWORD << w.held;
            w.held += (unsigned)(code & LENGTH);
        }
    }
}
