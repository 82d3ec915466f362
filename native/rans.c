/* rans.c: decoder of rANS streams. See "rANS streams" in docs/format.md.
 *
 * A table becomes a list of the used symbols with their cumulative frequencies, and where there is
 * room a look-up of each slot: then a step is a look-up, a multiplication and an addition, without
 * a branch that depends on the data. Words are read unchecked while there is one for each lane.
 *
 * Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders"; the
 * vector code follows Giesen 2015 and Bonfield's htscodecs: a table gives, for each set of eight
 * lanes that take a word, which of the next eight words each of them takes.
 */
#include "rans.h"

/* How a step finds its symbol: by a slot of 4 bytes (frequency << 20 | symbol << 12 | place within
 * the symbol), one of 8 bytes (symbol << 16 | frequency, then the place), or a search in the list. */
enum { NARROW, WIDE, SEARCH };

/* ---- tables ---- */

typedef struct table_bits {
    const uint8_t *data;
    size_t length; /* bytes */
    size_t at;     /* bits */
} table_bits;

/* The next 32 bits, highest first; zeros after the end. */
static uint32_t peek(const table_bits *bits) {
    const size_t first = bits->at >> 3;
    uint64_t window = 0;
    size_t index;
    for (index = first; index < first + 5; index++) {
        window = window << 8 | (index < bits->length ? bits->data[index] : 0);
    }
    return (uint32_t)(window >> (8 - (bits->at & 7)));
}

/* The next `width` bits, at most 31. */
static uint32_t take(table_bits *bits, unsigned width) {
    const uint32_t number = (peek(bits) >> 1) >> (31 - width);
    bits->at += width;
    return number;
}

/* The next Exp-Golomb number, below 2**27, or -1 if it has 20 zeros or more before its first 1. */
static int32_t take_golomb(table_bits *bits, unsigned order) {
    const uint32_t window = peek(bits);
    const unsigned zeros = 31 - fly_log2(window);
    uint32_t number;
    if (zeros > 19) {
        return -1;
    }
    bits->at += zeros;
    number = (take(bits, zeros + 1) - 1) << order;
    return (int32_t)(number | take(bits, order));
}

static int is_cut(const table_bits *bits) { return bits->at > 8 * bits->length; }

/* Write symbol << 16 of each used symbol to `entries`, at most `most`; set how many there are. */
static fly_status read_used(table_bits *bits, uint32_t alphabet, uint32_t most, uint32_t *entries,
                            uint32_t *used) {
    const int all = take(bits, 1) == 1;
    const int bitmap = !all && take(bits, 1) == 1;
    uint32_t count = 0, symbol = 0;
    int is_used = all;
    if (!all && !bitmap) {
        const int32_t gap = take_golomb(bits, 0);
        if (gap < 0 || is_cut(bits)) {
            return FLY_RANS_TABLE_SHORT;
        }
        symbol = (uint32_t)gap;
        is_used = 1;
    }
    while (symbol < alphabet) {
        uint32_t run = alphabet - symbol;
        if (bitmap) {
            run = 1;
            is_used = take(bits, 1) == 1;
        } else if (!all) {
            const int32_t more = take_golomb(bits, 0);
            if (more < 0) {
                return FLY_RANS_TABLE_SHORT;
            }
            run = (uint32_t)more + 1;
        }
        if (is_cut(bits)) {
            return FLY_RANS_TABLE_SHORT;
        }
        if (run > alphabet - symbol) {
            return FLY_RANS_BEYOND;
        }
        if (is_used && run > most - count) {
            return FLY_RANS_USED;
        }
        for (; run != 0; run--, symbol++) {
            if (is_used) {
                entries[count++] = symbol << 16;
            }
        }
        is_used = !is_used;
    }
    *used = count;
    return symbol > alphabet ? FLY_RANS_BEYOND : count < 2 ? FLY_RANS_USED : FLY_OK;
}

fly_status fly_rans_read_table(fly_rans *rans, const uint8_t *table, size_t length,
                               uint32_t alphabet, uint32_t *workspace, size_t words) {
    table_bits bits;
    unsigned precision, order;
    uint32_t index, size, number, largest, place = 0;
    uint64_t total = 0, sum = 0;
    fly_status status;
    bits.data = table;
    bits.length = length;
    bits.at = 0;
    if (length > RANS_MAX_TABLE) {
        return FLY_RANS_TABLE_LONG;
    }
    rans->lanes = take(&bits, 1) == 1 ? 1u << take(&bits, 3) : 1;
    if (rans->lanes == 1 && bits.at > 1) {
        return is_cut(&bits) ? FLY_RANS_TABLE_SHORT : FLY_RANS_ONE_LANE;
    }
    rans->bits = RANS_MIN_BITS + take(&bits, 3);
    precision = take(&bits, 3);
    order = take(&bits, 3);
    size = 1u << rans->bits;
    if (alphabet < 1 || alphabet > 65536) {
        return FLY_BAD_ARGUMENT;
    }
    if (words < (alphabet < size ? alphabet : size) + 1) {
        return FLY_SMALL_WORKSPACE;
    }
    status = read_used(&bits, alphabet, size, workspace, &rans->used);
    if (status != FLY_OK) {
        return status;
    }
    number = fly_rans_first(rans->used, rans->bits, precision);
    largest = fly_rans_number(65535, precision);
    for (index = 0; index < rans->used; index++) {
        const int32_t folded = take_golomb(&bits, order);
        if (folded < 0 || is_cut(&bits)) {
            return FLY_RANS_TABLE_SHORT;
        }
        number += (uint32_t)((folded & 1) != 0 ? -((folded + 1) / 2) : folded / 2);
        if (number > largest) { /* below 0 wraps around */
            return FLY_RANS_WEIGHT;
        }
        workspace[index] |= number;
        total += fly_rans_weight(number, precision);
    }
    if (bits.at + 7 < 8 * length || (bits.at < 8 * length && peek(&bits) != 0)) {
        return FLY_RANS_TABLE_END;
    }
    if (total == 0) {
        return FLY_RANS_NO_WEIGHT;
    }
    for (index = 0; index < rans->used; index++) {
        number = workspace[index] & 0xFFFF;
        workspace[index] = (workspace[index] & 0xFFFF0000u) | place;
        sum += fly_rans_weight(number, precision);
        place = index + 1 + (uint32_t)(sum * (size - rans->used) / total);
    }
    workspace[rans->used] = size & 0xFFFF;
    rans->alphabet = alphabet;
    rans->entries = workspace;
    rans->slots = NULL;
    return FLY_OK;
}

static int is_narrow(uint32_t bits, uint32_t alphabet) { return bits <= 12 && alphabet <= 256; }

size_t fly_rans_workspace(const uint8_t *table, size_t length, uint32_t alphabet, int fast) {
    uint32_t bits = RANS_MIN_BITS, size;
    if (length > 0) {
        bits += (table[0] & 0x80) != 0 ? (table[0] >> 1) & 7u : (table[0] >> 4) & 7u;
    }
    size = 1u << bits;
    return (alphabet < size ? alphabet : size) + 1 +
           (fast ? size << !is_narrow(bits, alphabet) : 0);
}

/* Fill a slot table, which has room for all slots of the frequencies. */
static void fill_slots(fly_rans *rans, uint32_t *slots) {
    const int narrow = is_narrow(rans->bits, rans->alphabet);
    uint32_t index, within;
    rans->slots = slots;
    for (index = 0; index < rans->used; index++) {
        const uint32_t entry = rans->entries[index];
        const uint32_t share = (rans->entries[index + 1] - entry) & 0xFFFF;
        for (within = 0; within < share; within++) {
            if (narrow) {
                *slots++ = share << 20 | (entry >> 16) << 12 | within;
            } else {
                *slots++ = (entry & 0xFFFF0000u) | share;
                *slots++ = within;
            }
        }
    }
}

/* ---- streams ---- */

/* The symbol at which a chunk begins. */
static uint64_t chunk_start(const fly_rans *rans, uint64_t chunk) {
    return chunk * (rans->count / rans->chunks) +
           chunk * (rans->count % rans->chunks) / rans->chunks;
}

fly_status fly_rans_open(fly_rans *rans, const uint8_t *table, size_t table_length,
                         const uint8_t *payload, size_t length, uint64_t count, uint32_t alphabet,
                         uint32_t *workspace, size_t words) {
    fly_status status;
    size_t head;
    rans->payload = payload;
    rans->length = length;
    rans->count = count;
    rans->chunks = count > RANS_CHUNK ? 2 * ((count - 1) / (2 * RANS_CHUNK) + 1) : count != 0;
    if (length == 0) {
        rans->entries = rans->slots = NULL;
        rans->alphabet = alphabet;
        rans->used = table_length > 0 ? table[0] : 0; /* the one symbol */
        if (count == 0) {
            return table_length == 0 ? FLY_OK : FLY_RANS_NOT_EMPTY;
        }
        if (table_length == 2) {
            rans->used |= (uint32_t)table[1] << 8;
        }
        if (table_length > 2 || (table_length > 0 && table[table_length - 1] == 0) ||
            rans->used >= alphabet || alphabet > 65536) {
            return FLY_RANS_NO_SYMBOL;
        }
        return FLY_OK;
    }
    if (count == 0 || count >> 62 != 0 ||
        (count > 1u << 20 && (count - (1u << 20) - 1) / 4096 >= length)) {
        return FLY_TOO_MANY;
    }
    status = fly_rans_read_table(rans, table, table_length, alphabet, workspace, words);
    if (status != FLY_OK) {
        return status;
    }
    if (rans->chunks > 1 && rans->lanes == 1) {
        return FLY_RANS_LONE_LANE;
    }
    head = rans->used + 1;
    if ((words - head) >> !is_narrow(rans->bits, alphabet) >= (size_t)1 << rans->bits) {
        fill_slots(rans, workspace + head);
    }
    return FLY_OK;
}

/* One step of a state: give its symbol, and return the state before it takes a word. */
FLY_INLINE uint32_t step(const uint32_t *entries, uint32_t used, const uint32_t *slots, int kind,
                         unsigned bits, uint32_t state, uint32_t *symbol) {
    const uint32_t slot = state & ((1u << bits) - 1);
    uint32_t low = 0;
    if (kind == NARROW) {
        const uint32_t entry = slots[slot];
        *symbol = entry >> 12;
        return (entry >> 20) * (state >> bits) + (entry & 0xFFF);
    }
    if (kind == WIDE) {
        const uint32_t entry = slots[2 * slot];
        *symbol = entry >> 16;
        return (entry & 0xFFFF) * (state >> bits) + slots[2 * slot + 1];
    }
    while (used > 1) { /* entries[low] has a place of at most `slot` */
        const uint32_t half = used / 2;
        low += (entries[low + half] & 0xFFFF) <= slot ? half : 0;
        used -= half;
    }
    *symbol = entries[low] >> 16;
    return ((entries[low + 1] - entries[low]) & 0xFFFF) * (state >> bits) + slot -
           (entries[low] & 0xFFFF);
}

FLY_INLINE void put_symbol(void *out, size_t index, int bytes, uint32_t symbol) {
    if (bytes) {
        ((uint8_t *)out)[index] = (uint8_t)symbol;
    } else {
        ((uint16_t *)out)[index] = (uint16_t)symbol;
    }
}

/* Decode `count` symbols from the `done`-th on; return where the words end. `states` has one of
 * each lane; `lanes` is theirs, a constant where the states shall stay in registers. */
FLY_INLINE const uint8_t *decode_lanes(const fly_rans *rans, int kind, unsigned lanes,
                                       uint32_t *states, const uint8_t *at, const uint8_t *end,
                                       void *out, size_t done, size_t count) {
    const uint32_t *const entries = rans->entries, *const slots = rans->slots;
    const uint32_t used = rans->used;
    const unsigned bits = rans->bits;
    const int bytes = kind == NARROW || rans->alphabet <= 256;
    unsigned lane;
    uint32_t symbol, state;
    while (count - done >= lanes && (size_t)(end - at) >= 2 * lanes) {
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC unroll 4
#endif
        for (lane = 0; lane < lanes; lane++) {
            uint32_t low;
            state = step(entries, used, slots, kind, bits, states[lane], &symbol);
            put_symbol(out, done + lane, bytes, symbol);
            low = 0u - (state < RANS_LOW); /* all ones where a word is taken */
            states[lane] = state << (low & 16) | (fly_load16(at) & low);
            at += low & 2;
        }
        done += lanes;
    }
    for (; done < count; done++) {
        lane = (unsigned)done & (lanes - 1);
        state = step(entries, used, slots, kind, bits, states[lane], &symbol);
        put_symbol(out, done, bytes, symbol);
        if (state < RANS_LOW && at != end) {
            state = state << 16 | fly_load16(at);
            at += 2;
        }
        states[lane] = state;
    }
    return at;
}

#ifdef FLY_RANS_AVX2
/* Word `part` of the slots of eight states. Plain loads are faster than a gather on many
 * processors; volatile keeps compilers from taking the indices out of a vector, which is slower. */
FLY_INLINE FLY_RANS_AVX2 __m256i look_up(const uint32_t *slots, const volatile uint32_t *states,
                                         uint32_t mask, unsigned wide, unsigned part) {
#define SLOT(lane) (int)slots[((states[lane] & mask) << wide) + part]
    __m128i low = _mm_cvtsi32_si128(SLOT(0)), high = _mm_cvtsi32_si128(SLOT(4));
    low = _mm_insert_epi32(low, SLOT(1), 1);
    high = _mm_insert_epi32(high, SLOT(5), 1);
    low = _mm_insert_epi32(low, SLOT(2), 2);
    high = _mm_insert_epi32(high, SLOT(6), 2);
    low = _mm_insert_epi32(low, SLOT(3), 3);
    high = _mm_insert_epi32(high, SLOT(7), 3);
#undef SLOT
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* As the first loop of decode_lanes: decode whole steps of 8 lanes or more while there is a word
 * for each; move `words`, and return how many symbols were decoded. */
FLY_INLINE FLY_RANS_AVX2 size_t decode_eights(const fly_rans *rans, int kind, int bytes,
                                              uint32_t *states, const uint8_t **words,
                                              const uint8_t *end, void *out, size_t count) {
    const size_t lanes = rans->lanes;
    const uint32_t *const slots = rans->slots;
    const uint32_t mask = (1u << rans->bits) - 1;
    const __m128i bits = _mm_cvtsi32_si128((int)rans->bits);
    const __m256i low8 = _mm256_set1_epi32(0xFF), low12 = _mm256_set1_epi32(0xFFF);
    const __m256i low16 = _mm256_set1_epi32(0xFFFF);
    const __m256i nibbles = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const uint8_t *at = *words;
    __m256i symbols[RANS_MAX_LANES / 8];
    uint32_t ranks[256]; /* of a set of lanes: four bits a lane, how many of the set precede it */
    size_t done = 0, lane;
    unsigned set, high;
    ranks[0] = 0;
    for (high = 0; high < 8; high++) {
        for (set = 1u << high; set < 2u << high; set++) {
            ranks[set] = ranks[set - (1u << high)] + (uint32_t)(0x111111110ull << 4 * high);
        }
    }
    for (lane = 0; lane < RANS_MAX_LANES / 8; lane++) {
        symbols[lane] = _mm256_setzero_si256();
    }
    for (; count - done >= lanes && (size_t)(end - at) >= 2 * lanes; done += lanes) {
        for (lane = 0; lane < lanes; lane += 8) {
            __m256i *const place = (__m256i *)(void *)(states + lane);
            const __m256i entry = look_up(slots, states + lane, mask, kind == WIDE, 0);
            __m256i state = _mm256_srl_epi32(_mm256_load_si256(place), bits);
            __m256i next, is_low;
            unsigned taken;
            if (kind == NARROW) {
                symbols[lane / 8] = _mm256_and_si256(_mm256_srli_epi32(entry, 12), low8);
                state = _mm256_mullo_epi32(state, _mm256_srli_epi32(entry, 20));
                state = _mm256_add_epi32(state, _mm256_and_si256(entry, low12));
            } else {
                symbols[lane / 8] = _mm256_srli_epi32(entry, 16);
                state = _mm256_mullo_epi32(state, _mm256_and_si256(entry, low16));
                state = _mm256_add_epi32(state, look_up(slots, states + lane, mask, 1, 1));
            }
            is_low = _mm256_cmpeq_epi32(_mm256_srli_epi32(state, 16), _mm256_setzero_si256());
            taken = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(is_low));
            next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
            next = _mm256_permutevar8x32_epi32(
                next, _mm256_srlv_epi32(_mm256_set1_epi32((int)ranks[taken]), nibbles));
            next = _mm256_or_si256(next, _mm256_slli_epi32(state, 16));
            _mm256_store_si256(place, _mm256_blendv_epi8(state, next, is_low));
            at += 2 * _mm_popcnt_u32(taken);
        }
        for (lane = 0; lane < lanes; lane += bytes ? 32 : 8) {
            const __m256i *const four = symbols + lane / 8;
            if (bytes) {
                uint8_t *const to = (uint8_t *)out + done + lane;
                const __m256i all = _mm256_permutevar8x32_epi32(
                    _mm256_packus_epi16(_mm256_packus_epi32(four[0], four[1]),
                                        _mm256_packus_epi32(four[2], four[3])),
                    order);
                if (lanes >= 32) {
                    _mm256_storeu_si256((__m256i *)(void *)to, all);
                } else if (lanes == 16) {
                    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(all));
                } else {
                    _mm_storel_epi64((__m128i *)(void *)to, _mm256_castsi256_si128(all));
                }
            } else {
                _mm_storeu_si128((__m128i *)(void *)((uint16_t *)out + done + lane),
                                 _mm_packus_epi32(_mm256_castsi256_si128(four[0]),
                                                  _mm256_extracti128_si256(four[0], 1)));
            }
        }
    }
    *words = at;
    return done;
}

FLY_RANS_AVX2 static size_t decode_avx2(const fly_rans *rans, uint32_t *states,
                                        const uint8_t **words, const uint8_t *end, void *out,
                                        size_t count) {
    if (is_narrow(rans->bits, rans->alphabet)) {
        return decode_eights(rans, NARROW, 1, states, words, end, out, count);
    }
    return rans->alphabet <= 256 ? decode_eights(rans, WIDE, 1, states, words, end, out, count)
                                 : decode_eights(rans, WIDE, 0, states, words, end, out, count);
}
#endif

/* Decode one chunk of `length` bytes into `count` symbols. */
static fly_status decode_chunk(const fly_rans *rans, const uint8_t *chunk, size_t length,
                               void *out, size_t count, fly_simd simd) {
    FLY_RANS_ALIGNED uint32_t states[RANS_MAX_LANES];
    const uint8_t *const end = chunk + length;
    const uint32_t lanes = rans->lanes, start = lanes == 1 ? 0 : RANS_LOW;
    size_t done = 0;
    uint32_t lane;
    (void)simd;
    if (lanes == 1) {
        /* before a word the state is at least 65,536: three bytes or four, so parity decides */
        const size_t head = length < 5 ? length : 4 - length % 2;
        if (length == 0 || chunk[head - 1] == 0) {
            return FLY_RANS_PADDED;
        }
        for (states[0] = 0; done < head; done++) {
            states[0] |= (uint32_t)chunk[done] << 8 * done;
        }
        chunk += head;
        done = 0;
    } else {
        if (length < 4 * lanes || length % 2 != 0) {
            return FLY_RANS_STATES;
        }
        for (lane = 0; lane < lanes; lane++, chunk += 4) {
            states[lane] = fly_load32(chunk);
            if (states[lane] < RANS_LOW) {
                return FLY_RANS_LOW_STATE;
            }
        }
    }
#ifdef FLY_RANS_AVX2
    if (simd == FLY_AVX2 && lanes >= 8 && rans->slots != NULL) {
        done = decode_avx2(rans, states, &chunk, end, out, count);
    }
#endif
#define DECODE(kind, lanes) decode_lanes(rans, kind, lanes, states, chunk, end, out, done, count)
    if (rans->slots == NULL) {
        chunk = DECODE(SEARCH, lanes);
    } else if (!is_narrow(rans->bits, rans->alphabet)) {
        chunk = DECODE(WIDE, lanes);
    } else {
        chunk = lanes == 1   ? DECODE(NARROW, 1)
                : lanes == 4 ? DECODE(NARROW, 4)
                             : DECODE(NARROW, lanes);
    }
#undef DECODE
    for (lane = 0; lane < lanes && states[lane] == start; lane++) {
    }
    return chunk == end && lane == lanes ? FLY_OK : FLY_RANS_END;
}

fly_status fly_rans_decode(const fly_rans *rans, uint64_t first, uint64_t last, void *out,
                           size_t room, fly_simd simd) {
    fly_bytes lengths = fly_bytes_of(rans->payload, rans->length);
    fly_bytes pieces = lengths;
    uint64_t chunk, begin;
    if (first > last || last > rans->chunks) {
        return FLY_BAD_ARGUMENT;
    }
    if (rans->count == 0) {
        return FLY_OK;
    }
    begin = chunk_start(rans, first);
    if (chunk_start(rans, last) - begin > room) {
        return FLY_BAD_ARGUMENT;
    }
    if (rans->length == 0) {
        const size_t count = (size_t)(chunk_start(rans, last) - begin);
        size_t index;
        if (rans->alphabet <= 256) {
            memset(out, (int)rans->used, count);
            return FLY_OK;
        }
        for (index = 0; index < count; index++) {
            ((uint16_t *)out)[index] = (uint16_t)rans->used;
        }
        return FLY_OK;
    }
    for (chunk = 1; chunk < rans->chunks && pieces.status == FLY_OK; chunk++) {
        fly_varint(&pieces); /* to find where the chunks begin */
    }
    for (chunk = 0; chunk < last && pieces.status == FLY_OK; chunk++) {
        const size_t left = fly_left(&pieces);
        const uint64_t length = chunk + 1 == rans->chunks ? left : fly_varint(&lengths);
        const uint8_t *const piece = length > left ? NULL : fly_take(&pieces, (size_t)length);
        if (piece == NULL) {
            return FLY_CUT_SHORT;
        }
        if (chunk >= first) {
            const uint64_t start = chunk_start(rans, chunk), stop = chunk_start(rans, chunk + 1);
            uint8_t *const place = (uint8_t *)out + ((start - begin) << (rans->alphabet > 256));
            const fly_status status =
                decode_chunk(rans, piece, (size_t)length, place, (size_t)(stop - start), simd);
            if (status != FLY_OK) {
                return status;
            }
        }
    }
    return pieces.status;
}
