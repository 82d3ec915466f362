/* rans_encode.c: encoder of rANS streams: the table, and chunks of states and words.
 *
 * All is integer arithmetic, so the same symbols give the same bytes on every machine.
 *
 * Sources: Duda 2013; Giesen 2014; Robison 2005, "N-bit unsigned division via N-bit multiply-add".
 */
#include "encoders.h"
#include "rans.h"

#define RANS_SHORT 4096u        /* symbols: fewer may take 9 bits, others 14 or 16 */
#define RANS_LONG (1u << 17)    /* symbols, from which a rougher table is not worth the search */
#define RANS_FREE (1u << 20)    /* symbols, from which a lone lane might go below 1/4096 byte */
#define RANS_LANE_BYTES 1024u

/* ---- frequencies ---- */

/* 2**16 log2(n), rounded down bit by bit, for n from 1 to below 2**16. */
static uint32_t log2_of(uint32_t number) {
    uint32_t log = fly_log2(number);
    uint64_t mantissa = (uint64_t)number << (31 - log);
    unsigned bit;
    for (bit = 0; bit < 16; bit++) {
        unsigned carry;
        mantissa = mantissa * mantissa >> 31;
        carry = (unsigned)(mantissa >> 32);
        mantissa >>= carry;
        log = 2 * log + carry;
    }
    return log;
}

/* What a unit of frequency after `unit` is worth, below 2**44: about count * ln(1 + 1/unit). */
static uint64_t worth(uint32_t scaled, uint64_t unit) {
    return ((uint64_t)scaled * (6 * unit + 3) << 14) / (6 * unit * unit + 6 * unit + 1);
}

/* A heap of keys, the largest first; a key is a worth << 16 | a rank, and no two are equal. */
static void sift(uint64_t *heap, uint32_t size, uint32_t place) {
    const uint64_t key = heap[place];
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= size) {
            break;
        }
        child += child + 1 < size && heap[child + 1] > heap[child];
        if (heap[child] < key) {
            break;
        }
        heap[place] = heap[child];
        place = child;
    }
    heap[place] = key;
}

static void make_heap(uint64_t *heap, uint32_t size) {
    uint32_t place;
    for (place = size / 2; place-- > 0;) {
        sift(heap, size, place);
    }
}

static uint64_t pop(uint64_t *heap, uint32_t *size) {
    const uint64_t key = heap[0];
    heap[0] = heap[--*size];
    sift(heap, *size, 0);
    return key;
}

typedef struct search {
    uint64_t *counts; /* of each used symbol */
    uint64_t *gains, *losses;
    uint32_t *symbols, *scaled, *wanted, *numbers, *best; /* numbers: tried, and the best so far */
    uint32_t used;
    unsigned bits, precision, order, lanes; /* of the best */
} search;

/* The highest frequency that a writer gives, so that few bytes never stand for a vast array. */
static uint32_t ceiling(unsigned bits) { return (1u << bits) - (1u << (bits - 9)); }

/* Fill `gains` with (worth of a unit more + 1, or 0 at the ceiling) << 16 | 65535 - place. */
static void fill_gains(search *s, uint32_t highest) {
    uint32_t index;
    for (index = 0; index < s->used; index++) {
        const uint64_t gain =
            s->wanted[index] < highest ? worth(s->scaled[index], s->wanted[index]) + 1 : 0;
        s->gains[index] = gain << 16 | (65535 - index);
    }
    make_heap(s->gains, s->used);
}

/* Set `wanted` to integer frequencies that sum to 2**bits and make the code as short as they can:
 * start below the proportional share, and move units while one gains more elsewhere. */
static void set_frequencies(search *s, unsigned bits) {
    const uint32_t size = 1u << bits, highest = ceiling(bits);
    uint32_t index, room = size, spare = size, left, moves;
    uint64_t sum = 0;
    uint32_t inactive;
    for (index = 0; index < s->used; index++) {
        sum += s->scaled[index];
        s->wanted[index] = 0;
    }
    do { /* symbols with a share below one get one, and the others share the rest */
        const uint64_t all = sum;
        const uint32_t places = room;
        inactive = 0;
        for (index = 0; index < s->used; index++) {
            if (s->wanted[index] == 0 && (uint64_t)s->scaled[index] * places < all) {
                s->wanted[index] = 1;
                sum -= s->scaled[index];
                room--;
                inactive++;
            }
        }
    } while (inactive != 0);
    for (index = 0; index < s->used; index++) {
        if (s->wanted[index] == 0) {
            const uint32_t share = (uint32_t)((uint64_t)s->scaled[index] * room / sum);
            s->wanted[index] = share < highest ? share : highest;
        }
        spare -= s->wanted[index];
    }
    while (spare != 0) { /* a unit each for those to whom it is worth most, and again */
        fill_gains(s, highest);
        for (left = s->used; spare != 0 && left != 0 && s->gains[0] >> 16 != 0; spare--) {
            s->wanted[65535 - (pop(s->gains, &left) & 0xFFFF)]++;
        }
    }
    do {
        uint32_t lossy = s->used;
        fill_gains(s, highest);
        for (index = 0; index < s->used; index++) {
            const uint64_t loss = s->wanted[index] > 1
                                      ? worth(s->scaled[index], s->wanted[index] - 1) + 1
                                      : (uint64_t)1 << 47;
            s->losses[index] = ~(loss << 16 | index);
        }
        make_heap(s->losses, s->used);
        left = s->used;
        for (moves = 0; left != 0 && s->gains[0] >> 16 > ~s->losses[0] >> 16; moves++) {
            s->wanted[65535 - (pop(s->gains, &left) & 0xFFFF)]++;
            s->wanted[~pop(s->losses, &lossy) & 0xFFFF]--;
        }
    } while (moves != 0);
}

/* Set `numbers` to those of the weights: wanted frequencies less 1, or the counts themselves. */
static void set_numbers(search *s, int from_counts, unsigned precision) {
    uint32_t index, any = 0;
    for (index = 0; index < s->used; index++) {
        const uint32_t weight = from_counts ? (uint32_t)s->counts[index] : s->wanted[index] - 1;
        s->numbers[index] = fly_rans_number(weight, precision);
        any |= s->numbers[index];
    }
    for (index = 0; any == 0 && index < s->used; index++) {
        s->numbers[index] = 1;
    }
}

/* The bits that all symbols take with the frequencies of a table of `numbers`, or 2**64 - 1 if one
 * of these is above the ceiling. */
static uint64_t table_length(const search *s, unsigned bits, unsigned precision) {
    const uint32_t size = 1u << bits, highest = ceiling(bits);
    uint64_t total = 0, sum = 0, cost = 0;
    uint32_t index, place = 0;
    for (index = 0; index < s->used; index++) {
        total += fly_rans_weight(s->numbers[index], precision);
    }
    for (index = 0; index < s->used; index++) {
        uint32_t next, share;
        sum += fly_rans_weight(s->numbers[index], precision);
        next = index + 1 + (uint32_t)(sum * (size - s->used) / total);
        share = next - place;
        if (share > highest) {
            return ~(uint64_t)0;
        }
        cost += s->counts[index] * ((bits << 16) - log2_of(share));
        place = next;
    }
    return cost >> 16;
}

/* Raise a cost by 1/256 above 12 bits: look-ups in a larger table are slower. */
static uint64_t with_penalty(uint64_t cost, unsigned bits) {
    return bits > 12 ? cost + (cost >> 8) : cost;
}

static uint32_t lanes_for(uint64_t bytes, uint64_t total, uint64_t chunks) {
    const uint64_t most = bytes / RANS_LANE_BYTES;
    const uint32_t lanes =
        1u << fly_log2(most < RANS_MAX_LANES ? (uint32_t)most : RANS_MAX_LANES);
    return lanes == 1 && (chunks > 1 || total > RANS_FREE) ? 2 : lanes;
}

/* What an Exp-Golomb code stores for the step from the number before to this one. */
static uint32_t folded(uint32_t number, uint32_t before) {
    return number < before ? 2 * (before - number) - 1 : 2 * (number - before);
}

static unsigned golomb_width(uint32_t value, unsigned order) {
    return 2 * fly_log2((value >> order) + 1) + 1 + order;
}

/* The shortest order for the steps between `numbers`, and the bits that they take in it. */
static unsigned best_order(const search *s, unsigned bits, unsigned precision, uint64_t *width) {
    uint64_t widths[8] = {0};
    uint32_t index, before = fly_rans_first(s->used, bits, precision);
    unsigned order, best = 0;
    for (index = 0; index < s->used; index++) {
        const uint32_t value = folded(s->numbers[index], before);
        before = s->numbers[index];
        for (order = 0; order < 8; order++) {
            widths[order] += golomb_width(value, order);
        }
    }
    for (order = 1; order < 8; order++) {
        best = widths[order] < widths[best] ? order : best;
    }
    *width = widths[best];
    return best;
}

/* ---- tables ---- */

typedef struct bit_writer {
    uint8_t *at;
    uint64_t bits; /* not yet written, the last `width` */
    unsigned width;
} bit_writer;

static void put(bit_writer *writer, uint32_t number, unsigned width) {
    writer->bits = writer->bits << width | number;
    for (writer->width += width; writer->width >= 8;) {
        writer->width -= 8;
        *writer->at++ = (uint8_t)(writer->bits >> writer->width & 0xFF);
    }
}

static void put_golomb(bit_writer *writer, uint32_t value, unsigned order) {
    const uint32_t first = (value >> order) + 1;
    put(writer, 0, fly_log2(first));
    put(writer, first, fly_log2(first) + 1);
    put(writer, value & ((1u << order) - 1), order);
}

/* Write which symbols are used, as runs or, where that is shorter, as a bitmap. */
static void put_used(const search *s, uint32_t alphabet, bit_writer *writer) {
    const bit_writer start = *writer;
    const int gap_first = s->symbols[0] != 0;
    uint32_t symbol = 0, index = 0;
    uint64_t width = !gap_first;
    if (s->used == alphabet) {
        put(writer, 1, 1);
        return;
    }
    put(writer, 0, 2);
    if (!gap_first) {
        put_golomb(writer, 0, 0);
    }
    while (symbol < alphabet) {
        const uint32_t first = symbol;
        for (; index < s->used && s->symbols[index] == symbol; index++) {
            symbol++;
        }
        if (symbol == first) {
            symbol = index < s->used ? s->symbols[index] : alphabet;
        }
        put_golomb(writer, symbol - first - !(gap_first && first == 0), 0);
        width += golomb_width(symbol - first - !(gap_first && first == 0), 0);
    }
    if (width <= alphabet) {
        return;
    }
    *writer = start;
    put(writer, 1, 2);
    for (symbol = 0, index = 0; symbol < alphabet; symbol++) {
        const int is_used = index < s->used && s->symbols[index] == symbol;
        put(writer, (uint32_t)is_used, 1);
        index += (uint32_t)is_used;
    }
}

size_t fly_rans_table_workspace(uint32_t alphabet) { return ((size_t)alphabet + 1) * 44; }

size_t fly_rans_table_bound(uint32_t alphabet) { return 16 + (size_t)alphabet * 6; }

static search search_in(uint64_t *workspace, uint32_t alphabet) {
    search s;
    s.counts = workspace;
    s.gains = s.counts + alphabet;
    s.losses = s.gains + alphabet;
    s.symbols = (uint32_t *)(s.losses + alphabet);
    s.scaled = s.symbols + alphabet;
    s.wanted = s.scaled + alphabet;
    s.numbers = s.wanted + alphabet;
    s.best = s.numbers + alphabet;
    s.used = 0;
    s.bits = s.precision = s.order = 0;
    s.lanes = 1;
    return s;
}

/* Find the table that stores the symbols, and itself, in fewest bits. */
static void choose(search *s, uint64_t total) {
    static const uint8_t choices[2][3] = {{12, 14, 16}, {9, 12, 0}};
    const uint64_t chunks = total > RANS_CHUNK ? 2 * ((total - 1) / (2 * RANS_CHUNK) + 1) : 1;
    const int is_short = total < RANS_SHORT;
    uint64_t cost = ~(uint64_t)0;
    unsigned choice;
    for (choice = 0; choice < 3; choice++) {
        const unsigned bits = choices[is_short][choice];
        unsigned precision = total < RANS_LONG ? 0 : RANS_EXACT;
        int from_counts;
        if (bits == 0 || s->used > 1u << bits) {
            continue;
        }
        set_frequencies(s, bits);
        set_numbers(s, 0, RANS_EXACT);
        if (with_penalty(table_length(s, bits, RANS_EXACT), bits) >= cost) {
            continue;
        }
        for (; precision <= RANS_EXACT; precision++) {
            for (from_counts = 0; from_counts <= is_short; from_counts++) {
                uint64_t payload, width, all;
                unsigned order, lanes;
                set_numbers(s, from_counts, precision);
                payload = table_length(s, bits, precision);
                if (payload == ~(uint64_t)0) {
                    continue;
                }
                order = best_order(s, bits, precision, &width);
                lanes = lanes_for(payload / 8 / chunks, total, chunks);
                all = with_penalty(payload + width + bits + 32 * lanes, bits);
                if (all < cost) {
                    uint32_t *const numbers = s->best;
                    cost = all;
                    s->bits = bits;
                    s->precision = precision;
                    s->order = order;
                    s->lanes = lanes;
                    s->best = s->numbers;
                    s->numbers = numbers;
                }
            }
        }
    }
}

size_t fly_rans_table(const uint64_t *counts, uint32_t alphabet, uint8_t *table, uint32_t *used,
                      uint64_t *workspace) {
    search s = search_in(workspace, alphabet);
    uint64_t total = 0;
    unsigned shift = 0;
    uint32_t symbol, index, before;
    bit_writer writer;
    for (symbol = 0; symbol < alphabet; symbol++) {
        if (counts[symbol] != 0) {
            s.counts[s.used] = counts[symbol];
            s.symbols[s.used++] = symbol;
            total += counts[symbol];
        }
    }
    *used = s.used;
    if (s.used < 2) {
        symbol = s.used != 0 ? s.symbols[0] : 0;
        table[0] = (uint8_t)(symbol & 0xFF);
        table[1] = (uint8_t)(symbol >> 8);
        return symbol > 255 ? 2 : symbol != 0;
    }
    while (total >> shift >> 28 != 0) {
        shift++;
    }
    for (index = 0; index < s.used; index++) {
        const uint32_t scaled = (uint32_t)(s.counts[index] >> shift);
        s.scaled[index] = scaled > 1 ? scaled : 1;
    }
    choose(&s, total);
    writer.at = table;
    writer.bits = 0;
    writer.width = 0;
    put(&writer, s.lanes == 1 ? 0 : 8 | fly_log2(s.lanes), s.lanes == 1 ? 1 : 4);
    put(&writer, s.bits - RANS_MIN_BITS, 3);
    put(&writer, s.precision, 3);
    put(&writer, s.order, 3);
    put_used(&s, alphabet, &writer);
    before = fly_rans_first(s.used, s.bits, s.precision);
    for (index = 0; index < s.used; index++) {
        put_golomb(&writer, folded(s.best[index], before), s.order);
        before = s.best[index];
    }
    put(&writer, 0, (8 - writer.width) & 7);
    return (size_t)(writer.at - table);
}

/* ---- chunks ---- */

/* What a step looks up: (state + one) * reciprocal >> 32 + shift is floor(state / frequency) for
 * all states of 32 bits; the reciprocal is rounded up, or down where that is too much. */
typedef struct entry {
    uint32_t reciprocal;
    uint32_t both; /* cumulative frequency | (2**bits - frequency) << 16 */
    uint32_t shift;
    uint32_t one;
} entry;

size_t fly_rans_chunk_workspace(uint32_t alphabet) {
    return sizeof(entry) * (alphabet <= 256 ? 256 : alphabet);
}

size_t fly_rans_chunk_bound(size_t count) { return 16 + 4 * RANS_MAX_LANES + 2 * count; }

static void fill_entries(const fly_rans *rans, uint32_t base, entry *entries) {
    uint32_t index;
    for (index = 0; index < rans->used; index++) {
        const uint32_t place = rans->entries[index] & 0xFFFF;
        const uint32_t share = (rans->entries[index + 1] - place) & 0xFFFF;
        const uint32_t symbol = rans->entries[index] >> 16;
        entry *const found = entries + (rans->alphabet <= 256 ? (symbol + base) & 0xFF : symbol);
        const unsigned shift = fly_log2(share - (share > 1));
        const uint64_t power = (uint64_t)1 << (32 + shift);
        const uint32_t rest = (uint32_t)(power % share); /* share - rest is what rounding up adds */
        found->both = place | ((1u << rans->bits) - share) << 16;
        found->shift = share > 1 ? shift : 0;
        found->one = share == 1 || (rest != 0 && share - rest > 1u << shift);
        found->reciprocal =
            share == 1 ? 0xFFFFFFFFu : (uint32_t)(power / share) + (rest != 0 && !found->one);
    }
}

/* Whether all of `count` symbols of two bytes are in the alphabet. */
static int all_below(const void *symbols, size_t count, uint32_t alphabet) {
    uint16_t highest = 0;
    size_t index;
    for (index = 0; index < count; index++) {
        const uint16_t symbol = ((const uint16_t *)symbols)[index];
        highest = symbol > highest ? symbol : highest;
    }
    return count == 0 || highest < alphabet;
}

/* Encode `lanes` symbols from the `first` on, one a lane; return where the words begin. */
FLY_INLINE uint8_t *encode_step(const entry *entries, unsigned bits, const void *symbols,
                                size_t item, size_t first, unsigned lanes, uint32_t *states,
                                uint8_t *at) {
    unsigned lane;
    for (lane = lanes; lane-- > 0;) {
        const entry *const found = entries + fly_symbol(symbols, item, first + lane);
        uint32_t state = states[lane];
        const uint32_t rest = found->both >> 16;
        const uint32_t full = ((state >> (32 - bits)) + rest) >> bits; /* 1 where a word is given */
        fly_store16(at - 2, (uint16_t)(state & 0xFFFF));
        at -= 2 * full;
        state >>= 16 * full;
        states[lane] = state + (found->both & 0xFFFF) +
                       rest * (uint32_t)(((uint64_t)(state + found->one) * found->reciprocal) >>
                                         (32 + found->shift));
    }
    return at;
}

FLY_INLINE uint8_t *encode_lanes(const entry *entries, unsigned bits, const void *symbols,
                                 size_t item, size_t count, unsigned lanes, uint32_t *states,
                                 uint8_t *at) {
    while (count != 0) { /* a multiple of the lanes */
        count -= lanes;
        at = encode_step(entries, bits, symbols, item, count, lanes, states, at);
    }
    return at;
}

#ifdef FLY_RANS_AVX2
/* The entries of a symbol and of the fourth after it. */
FLY_INLINE FLY_RANS_AVX2 __m256i two_entries(const entry *entries, const void *symbols, size_t item,
                                             size_t index) {
    const void *const low = entries + fly_symbol(symbols, item, index);
    const void *const high = entries + fly_symbol(symbols, item, index + 4);
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
        _mm_loadu_si128((const __m128i *)high), 1);
}

/* As encode_lanes, for 8 lanes or more; writes 16 bytes below each place it returns. */
FLY_INLINE FLY_RANS_AVX2 uint8_t *encode_eights(const entry *entries, unsigned bits,
                                                const void *symbols, size_t item, size_t count,
                                                size_t lanes, uint32_t *states, uint8_t *at) {
    const __m128i room = _mm_cvtsi32_si128(32 - (int)bits);
    const __m256i below = _mm256_set1_epi32((1 << bits) - 1), low16 = _mm256_set1_epi32(0xFFFF);
    const __m256i nibbles = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    uint32_t orders[256]; /* of each set of lanes: the lanes in it, at the upper end */
    unsigned set, high;
    size_t lane;
    orders[0] = 0;
    for (high = 0; high < 8; high++) {
        for (set = 1u << high; set < 2u << high; set++) {
            orders[set] = high << 28 | orders[set - (1u << high)] >> 4;
        }
    }
    while (count != 0) {
        count -= lanes;
        for (lane = lanes; lane != 0;) {
            __m256i state, r0, r1, r2, r3, both, rest, full, given, even, odd;
            unsigned taken;
            __m256i *place;
            lane -= 8;
            place = (__m256i *)(void *)(states + lane);
            r0 = two_entries(entries, symbols, item, count + lane);
            r1 = two_entries(entries, symbols, item, count + lane + 1);
            r2 = two_entries(entries, symbols, item, count + lane + 2);
            r3 = two_entries(entries, symbols, item, count + lane + 3);
            even = _mm256_unpacklo_epi32(r0, r1);
            odd = _mm256_unpacklo_epi32(r2, r3);
            r0 = _mm256_unpackhi_epi32(r0, r1);
            r2 = _mm256_unpackhi_epi32(r2, r3);
            r1 = _mm256_unpacklo_epi64(even, odd);   /* reciprocals */
            both = _mm256_unpackhi_epi64(even, odd);
            r3 = _mm256_unpackhi_epi64(r0, r2);      /* ones */
            r0 = _mm256_unpacklo_epi64(r0, r2);      /* shifts */
            state = _mm256_load_si256(place);
            rest = _mm256_srli_epi32(both, 16);
            full = _mm256_cmpgt_epi32(_mm256_add_epi32(_mm256_srl_epi32(state, room), rest), below);
            taken = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(full));
            given = _mm256_permutevar8x32_epi32(
                _mm256_and_si256(state, low16),
                _mm256_srlv_epi32(_mm256_set1_epi32((int)orders[taken]), nibbles));
            _mm_storeu_si128((__m128i *)(void *)(at - 16),
                             _mm_packus_epi32(_mm256_castsi256_si128(given),
                                              _mm256_extracti128_si256(given, 1)));
            at -= 2 * _mm_popcnt_u32(taken);
            state = _mm256_blendv_epi8(state, _mm256_srli_epi32(state, 16), full);
            r3 = _mm256_add_epi32(state, r3);
            even = _mm256_srli_epi64(_mm256_mul_epu32(r3, r1), 32);
            odd = _mm256_mul_epu32(_mm256_srli_epi64(r3, 32), _mm256_srli_epi64(r1, 32));
            even = _mm256_srlv_epi32(_mm256_blend_epi32(even, odd, 0xAA), r0);
            state = _mm256_add_epi32(state, _mm256_and_si256(both, low16));
            _mm256_store_si256(place, _mm256_add_epi32(state, _mm256_mullo_epi32(even, rest)));
        }
    }
    return at;
}

FLY_RANS_AVX2 static uint8_t *encode_avx2(const entry *entries, unsigned bits, const void *symbols,
                                          size_t item, size_t count, size_t lanes, uint32_t *states,
                                          uint8_t *at) {
    return item == 1 ? encode_eights(entries, bits, symbols, 1, count, lanes, states, at)
                     : encode_eights(entries, bits, symbols, 2, count, lanes, states, at);
}
#endif

fly_status fly_rans_encode_chunk(const fly_rans *rans, const void *symbols, uint32_t base,
                                 size_t count, uint8_t *out, size_t *begin, void *workspace,
                                 fly_simd simd) {
    FLY_RANS_ALIGNED uint32_t states[RANS_MAX_LANES];
    entry *const entries = (entry *)workspace;
    const unsigned lanes = rans->lanes, bits = rans->bits;
    const size_t item = rans->alphabet <= 256 ? 1 : 2;
    const size_t whole = count & ~((size_t)lanes - 1);
    uint8_t *at = out + fly_rans_chunk_bound(count);
    unsigned lane;
    (void)simd;
    memset(workspace, 0, fly_rans_chunk_workspace(rans->alphabet));
    if (item == 2 && !all_below(symbols, count, rans->alphabet)) {
        return FLY_BAD_ARGUMENT;
    }
    fill_entries(rans, base, entries);
    for (lane = 0; lane < lanes; lane++) {
        states[lane] = lanes == 1 ? 0 : RANS_LOW;
    }
    at = encode_step(entries, bits, symbols, item, whole, (unsigned)(count - whole), states, at);
#ifdef FLY_RANS_AVX2
    if (simd == FLY_AVX2 && lanes >= 8) {
        at = encode_avx2(entries, bits, symbols, item, whole, lanes, states, at);
    } else
#endif
    if (item == 1) {
        at = lanes == 1 ? encode_lanes(entries, bits, symbols, 1, whole, 1, states, at)
                        : encode_lanes(entries, bits, symbols, 1, whole, lanes, states, at);
    } else {
        at = encode_lanes(entries, bits, symbols, 2, whole, lanes, states, at);
    }
    for (lane = lanes; lanes > 1 && lane-- > 0;) {
        at -= 4;
        fly_store32(at, states[lane]);
    }
    if (lanes == 1) {
        const unsigned bytes = states[0] == 0 ? 0 : fly_log2(states[0]) / 8 + 1;
        uint8_t state[4];
        fly_store32(state, states[0]);
        at -= bytes;
        memcpy(at, state, bytes);
    }
    *begin = (size_t)(at - out);
    return FLY_OK;
}
