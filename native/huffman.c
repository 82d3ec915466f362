/* huffman.c: decode canonical Huffman codes, four streams side by side.
 *
 * Cost: one to two cycles a symbol on a 64-bit machine with the workspace it asks for. With the
 * least workspace, three bytes a symbol of the alphabet, codewords are read bit by bit.
 *
 * A look-up of the next `width` bits gives all whole codewords in them: an entry holds how many
 * bits these take, their symbols (up to three bytes, or six in a wide entry) and how many bytes
 * these are. Where not even one codeword fits, the entry is 0: it makes no progress, so a round of
 * several look-ups needs one test, at its end.
 *
 * Sources: Schwartz & Kallick 1964 (canonical codes); Collet 2013, Huff0 (four streams, several
 * symbols a look-up); Giesen 2018, "Reading bits in far too many ways".
 */
#include "bytes.h"

#define LONGEST 16 /* bits of a codeword */
#define CHUNK FLY_HUFFMAN_CHUNK
#define FOUR_FROM (1u << 12)
#define TAKEN 63u /* bits of an entry: how many bits it takes */
#define SYMBOLS 6 /* place of its first symbol */
#define FAST (UINTPTR_MAX > 0xFFFFFFFFu) /* four streams need registers of 64 bits */

typedef struct decoder {
    uint32_t alphabet, used;
    uint32_t first[LONGEST + 1];  /* of each length: the first codeword, */
    uint32_t number[LONGEST + 1]; /* how many there are, */
    uint32_t place[LONGEST + 1];  /* and where their symbols begin in `order` */
    uint8_t item;                 /* bytes of a symbol */
    uint8_t longest;              /* bits of the longest codeword */
    uint8_t width;                /* bits of a look-up, 0 if there is no table */
    uint8_t wide;                 /* whether an entry has 8 bytes, not 4 */
    uint8_t simd;                 /* whether to use BMI2 */
} decoder;

/* A decoder lies in its workspace, before its arrays. */
static uint8_t *aligned(const void *at, size_t bytes) {
    return (uint8_t *)(((uintptr_t)at + bytes - 1) / bytes * bytes);
}
static decoder *decoder_in(const void *workspace) { return (void *)aligned(workspace, 8); }
static uint16_t *order_of(const decoder *d) { return (uint16_t *)(uintptr_t)(d + 1); }
static uint8_t *lengths_of(const decoder *d) { return (uint8_t *)(order_of(d) + d->alphabet); }
static void *table_of(const decoder *d) { return aligned(lengths_of(d) + d->alphabet, 64); }

size_t fly_huffman_workspace(uint32_t alphabet, uint64_t count) {
    const size_t least = sizeof(decoder) + 7 + 3 * (size_t)alphabet;
    if (count == 0) {
        return least;
    }
    return least + 63 + ((size_t)4 << (alphabet <= 256 || count < 1u << 14 ? 12 : LONGEST));
}

/* A symbol's bytes as they lie in memory, read as a little-endian number; and back. */
static uint32_t in_memory(const decoder *d, uint32_t symbol) {
    return FLY_LITTLE_ENDIAN || d->item == 1 ? symbol : (symbol << 8 | symbol >> 8) & 0xFFFF;
}

/* ---- Table of lengths ---- */

typedef struct bit_reader {
    const uint8_t *data;
    size_t at, end; /* in bits */
} bit_reader;

/* The next bit, from the highest of a byte; after the end zeros. */
static unsigned next_bit(bit_reader *bits) {
    const size_t at = bits->at++;
    return at < bits->end ? bits->data[at >> 3] >> (7 - (at & 7)) & 1u : 0;
}

/* An Elias gamma number of at most 17 bits; 0 if it is longer or passes the end. */
static uint32_t next_gamma(bit_reader *bits) {
    uint32_t number = 1;
    unsigned zeros = 0;
    while (!next_bit(bits)) {
        if (++zeros > 16) {
            return 0;
        }
    }
    for (; zeros > 0; zeros--) {
        number = number << 1 | next_bit(bits);
    }
    return bits->at <= bits->end ? number : 0;
}

fly_status fly_huffman_lengths(const uint8_t *table, size_t size, uint32_t alphabet,
                               uint8_t *lengths) {
    uint32_t symbol = 0, room = 1u << LONGEST; /* of which a codeword of l bits takes 2^-l */
    bit_reader bits;
    int length;
    if (alphabet < 1 || alphabet > FLY_HUFFMAN_ALPHABET || size > 16 * (size_t)alphabet + 16) {
        return alphabet < 1 || alphabet > FLY_HUFFMAN_ALPHABET ? FLY_BAD_ARGUMENT
                                                               : FLY_HUFFMAN_LONG_TABLE;
    }
    memset(lengths, 0, alphabet);
    if (alphabet == 1) {
        lengths[0] = 1;
        return size == 0 ? FLY_OK : FLY_HUFFMAN_NO_TABLE;
    }
    bits.data = table;
    bits.at = 0;
    bits.end = 8 * size;
    length = (int)fly_width(alphabet - 1);
    length = length < 15 ? length : 15;
    while (room > 0) {
        unsigned mark;
        uint32_t run = 0;
        for (;;) {
            mark = next_bit(&bits) ? 4 : 0;
            if (mark != 0) {
                mark |= next_bit(&bits) << 1;
                mark |= next_bit(&bits);
            }
            if (mark != 6 || run > 0) {
                break;
            }
            run = next_gamma(&bits);
            if (run == 0) {
                return FLY_HUFFMAN_NUMBER;
            }
            symbol += run;
        }
        if (symbol >= alphabet) {
            return FLY_HUFFMAN_INCOMPLETE;
        }
        if (mark == 6 || bits.at > bits.end) {
            return FLY_HUFFMAN_TABLE_CUT;
        }
        if (mark == 7) {
            const int down = (int)next_bit(&bits);
            const int step = (int)next_gamma(&bits);
            if (step == 0) {
                return FLY_HUFFMAN_NUMBER;
            }
            length += down ? -1 - step : 1 + step;
        } else if (mark != 0) {
            length += mark == 4 ? 1 : -1;
        }
        /* Only a symbol that has no other has length 0. */
        if (length < 0 || length > LONGEST || (length == 0 && room < 1u << LONGEST)) {
            return FLY_HUFFMAN_LENGTH;
        }
        if (room < 1u << (LONGEST - length)) {
            return FLY_HUFFMAN_OVERFULL;
        }
        room -= 1u << (LONGEST - length);
        lengths[symbol++] = (uint8_t)(length > 0 ? length : 1);
    }
    if ((bits.at + 7) / 8 != size || (bits.at % 8 && (uint8_t)(table[size - 1] << bits.at % 8))) {
        return FLY_HUFFMAN_TABLE_END;
    }
    return FLY_OK;
}

/* ---- Table of look-ups ---- */

FLY_INLINE uint64_t entry_at(const void *table, uint32_t index, int wide) {
    return wide ? ((const uint64_t *)table)[index] : ((const uint32_t *)table)[index];
}

FLY_INLINE void put_entry(void *table, uint32_t index, int wide, unsigned bits, unsigned bytes,
                          uint64_t symbols) {
    if (wide) {
        ((uint64_t *)table)[index] = (uint64_t)bytes << 56 | symbols << SYMBOLS | bits;
    } else {
        ((uint32_t *)table)[index] = (uint32_t)((uint64_t)bytes << 30 | symbols << SYMBOLS | bits);
    }
}

/* Choose the size of the entries and their number, to fit `room` bytes. */
static void choose_table(decoder *d, uint64_t count, size_t room) {
    unsigned length, least, most;
    uint32_t mean = 0; /* bits of a codeword, times 2^16, if it is as frequent as it is short */
    for (length = 1; length <= LONGEST; length++) {
        mean += d->number[length] * length << (LONGEST - length);
    }
    d->wide = FAST && 3 * (uint64_t)mean <= (uint64_t)d->item * 12 << 16;
    most = d->wide && d->item == 1 ? 11 : d->longest > 12 ? d->longest : 12;
    most = most < 14 || !d->wide ? most : 14;
    least = (mean >> 16) + 3; /* longer codewords are rare enough to be read bit by bit */
    while (most > least && count >> (most + 4) == 0) {
        most--; /* a smaller table is filled sooner than it is missed */
    }
    while (most > 0 && (size_t)(d->wide ? 8 : 4) << most > room) {
        most--;
    }
    d->width = (uint8_t)(most < 3 ? 0 : most);
}

FLY_INLINE void fill_table(const decoder *d, const int wide) {
    void *table = table_of(d);
    const uint32_t size = 1u << d->width, mask = d->item == 1 ? 0xFF : 0xFFFF;
    const uint16_t *order = order_of(d);
    const unsigned item = d->item, bytes_at = wide ? 56 : 30;
    uint32_t index = 0, code = 0; /* the codeword, its first bit lowest */
    unsigned length;
    memset(table, 0, (size_t)(wide ? 8 : 4) << d->width);
    for (length = 1; length <= d->longest && length <= d->width; length++) {
        const uint32_t end = d->place[length] + d->number[length];
        for (; index < end; index++) {
            const uint32_t symbol = in_memory(d, order[index]);
            uint32_t bit = 1u << (length - 1), at;
            for (at = code; at < size; at += 1u << length) {
                put_entry(table, at, wide, length, item, symbol);
            }
            for (; code & bit; bit >>= 1) { /* the next codeword */
                code ^= bit;
            }
            code |= bit;
        }
    }
    /* From the last entry on, as those of what is left of a window come before it. What does not
     * fit once does not fit again, so there is no need to stop; branches would be mispredicted. */
    for (index = size; FAST && index-- > 0;) {
        const uint64_t entry = entry_at(table, index, wide);
        uint64_t symbols = entry >> SYMBOLS & mask;
        unsigned taken = (unsigned)(entry & TAKEN), held = (unsigned)(entry >> bytes_at), shift;
        for (shift = 8 * item; shift + 8 * item <= (wide ? 48 : 24); shift += 8 * item) {
            const uint64_t next = entry_at(table, index >> taken, wide);
            const unsigned more = (unsigned)(next & TAKEN);
            const uint64_t fits = 0 - (uint64_t)((taken + more - d->width - 1) >> 31);
            symbols |= (next >> SYMBOLS & mask & fits) << shift;
            held += (unsigned)(next >> bytes_at & fits);
            taken += more & (unsigned)fits;
        }
        put_entry(table, index, wide, taken, held, symbols);
    }
}

fly_status fly_huffman_open(const uint8_t *table, size_t size, uint32_t alphabet, uint64_t count,
                            fly_simd simd, void *workspace, size_t workspace_size) {
    decoder *d = decoder_in(workspace);
    uint32_t symbol, code = 0, next[LONGEST + 1];
    unsigned length;
    fly_status status;
    uint8_t *lengths, *end = (uint8_t *)workspace + workspace_size;
    if (alphabet < 1 || alphabet > FLY_HUFFMAN_ALPHABET) {
        return FLY_BAD_ARGUMENT;
    }
    if (workspace_size < fly_huffman_workspace(alphabet, 0)) {
        return FLY_SMALL_WORKSPACE;
    }
    memset(d, 0, sizeof *d);
    d->alphabet = alphabet;
    d->item = alphabet <= 256 ? 1 : 2;
    lengths = lengths_of(d);
    status = fly_huffman_lengths(table, size, alphabet, lengths);
    if (status != FLY_OK) {
        return status;
    }
    for (symbol = 0; symbol < alphabet; symbol++) {
        d->number[lengths[symbol]]++;
    }
    d->number[0] = 0;
    for (length = 1; length <= LONGEST; length++) {
        d->first[length] = code;
        d->place[length] = next[length] = d->used;
        d->used += d->number[length];
        code = (code + d->number[length]) << 1;
        d->longest = (uint8_t)(d->number[length] ? length : d->longest);
    }
    for (symbol = 0; symbol < alphabet; symbol++) {
        if (lengths[symbol] > 0) {
            order_of(d)[next[lengths[symbol]]++] = (uint16_t)symbol;
        }
    }
    if ((uint8_t *)table_of(d) < end && d->used > 1) {
        choose_table(d, count, (size_t)(end - (uint8_t *)table_of(d)));
    }
    d->simd = simd != FLY_SCALAR;
    if (d->wide && d->width > 0) {
        fill_table(d, 1);
    } else if (d->width > 0) {
        fill_table(d, 0);
    }
    return FLY_OK;
}

uint32_t fly_huffman_used(const void *workspace) { return decoder_in(workspace)->used; }

/* ---- Streams ---- */

uint64_t fly_huffman_streams(uint64_t count) {
    const uint64_t rest = count % CHUNK;
    return count / CHUNK * 4 + (rest >= FOUR_FROM ? 4 : rest > 0);
}

uint64_t fly_huffman_begin(uint64_t count, uint64_t stream) {
    const uint64_t chunk = stream / 4 * CHUNK, first = chunk < count ? chunk : count;
    const uint64_t size = count - first < CHUNK ? count - first : CHUNK;
    const uint64_t run = size < FOUR_FROM ? size : (size + 3) / 4, place = stream % 4 * run;
    return first + (place < size ? place : size);
}

typedef struct stream {
    const uint8_t *data; /* of the payload */
    uint64_t bit;        /* of the payload, the next one */
    size_t end;          /* byte of the payload after the stream */
    uint8_t *out, *out_end;
} stream;

FLY_INLINE void put_symbol(const decoder *d, uint8_t *out, uint32_t symbol) {
    if (d->item == 1) {
        *out = (uint8_t)symbol;
    } else {
        const uint16_t word = (uint16_t)symbol;
        memcpy(out, &word, 2);
    }
}

/* The symbol of the first codeword of a window of at least 16 bits, and its length. */
static uint32_t find_codeword(const decoder *d, uint32_t window, unsigned *length) {
    uint32_t code = 0;
    unsigned bits = 0;
    do {
        code = code << 1 | (window & 1);
        window >>= 1;
        bits++;
    } while (code - d->first[bits] >= d->number[bits] && bits < d->longest);
    *length = bits;
    return order_of(d)[d->place[bits] + code - d->first[bits]];
}

/* Decode one by one what is left of a stream, or `most` symbols of it, `stride` bytes apart. */
static fly_status decode_singly(const decoder *d, stream *s, size_t most, size_t stride) {
    const uint32_t mask = (1u << d->width) - 1;
    for (; s->out < s->out_end && most > 0; most--, s->out += stride) {
        const size_t byte = (size_t)(s->bit >> 3);
        uint32_t window, symbol;
        uint64_t entry = 0;
        unsigned length;
        if (byte >= s->end) {
            return FLY_HUFFMAN_END;
        }
        window = s->data[byte];
        window |= s->end - byte > 1 ? (uint32_t)s->data[byte + 1] << 8 : 0;
        window |= s->end - byte > 2 ? (uint32_t)s->data[byte + 2] << 16 : 0;
        window >>= s->bit & 7;
        if (d->width > 0) {
            entry = entry_at(table_of(d), window & mask, d->wide) >> SYMBOLS;
        }
        if (entry != 0) {
            symbol = in_memory(d, (uint32_t)entry & (d->item == 1 ? 0xFF : 0xFFFF));
            length = lengths_of(d)[symbol];
        } else {
            symbol = find_codeword(d, window, &length);
        }
        s->bit += length;
        put_symbol(d, s->out, symbol);
    }
    return FLY_OK;
}

/* Decode what is left of a stream and see that it ends as it should. */
static fly_status decode_rest(const decoder *d, stream *s, size_t stride) {
    const fly_status status = decode_singly(d, s, (size_t)-1, stride);
    const unsigned bits = (unsigned)(s->bit & 7);
    if (status != FLY_OK || (s->bit + 7) >> 3 != s->end) {
        return FLY_HUFFMAN_END;
    }
    return bits > 0 && s->data[s->end - 1] >> bits ? FLY_HUFFMAN_PADDING : FLY_OK;
}

/* Fill a stream with the only symbol. */
static fly_status repeat(const decoder *d, stream *s, size_t stride) {
    for (; s->out < s->out_end; s->out += stride) {
        put_symbol(d, s->out, order_of(d)[0]);
    }
    return FLY_OK;
}

#if FAST

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
FLY_INLINE unsigned leading_zeros(uint64_t word) { /* of a word that is not 0 */
    unsigned long place;
    _BitScanReverse64(&place, word);
    return 63 - (unsigned)place;
}
#else
FLY_INLINE unsigned leading_zeros(uint64_t word) { return (unsigned)__builtin_clzll(word); }
#endif

/* How often `each` bytes, and `margin` more, fit into `room`. */
FLY_INLINE size_t fitting(size_t room, size_t each, size_t margin) {
    return room < margin ? 0 : (room - margin) / each;
}

/* A round takes at least 57 bits of each stream into a word, below a highest bit that tells in the
 * end how far the word was shifted, and does some look-ups. */
#define BEGIN(k) w##k = fly_load64(data + (p##k >> 3)) >> (p##k & 7) | (uint64_t)1 << 63
#define LOOK_UP(k)                                       \
    e##k = entry_at(table, (uint32_t)w##k & mask, wide); \
    fly_store64(q##k, e##k >> SYMBOLS);                  \
    q##k += e##k >> (wide ? 56 : 30);                    \
    w##k >>= e##k & TAKEN
#define FINISH(k) p##k += leading_zeros(w##k)
#define ALL(does) \
    does(0);      \
    does(1);      \
    does(2);      \
    does(3)
#define SAVE(k) s[k].bit = p##k, s[k].out = q##k
#define RESTORE(k) p##k = s[k].bit, q##k = s[k].out

/* Decode four streams as long as no check can fail: none reads or writes near its end. An entry
 * holds at most `most` bytes, and `look_ups` of d->width bits take at most 57. */
FLY_INLINE fly_status decode_four(const decoder *d, stream *s, size_t size, const int wide,
                                  const int look_ups) {
    const void *table = table_of(d);
    const uint8_t *data = s[0].data;
    const uint32_t mask = (1u << d->width) - 1;
    const size_t each = (size_t)look_ups * (wide ? 6 : 3);
    uint64_t p0, p1, p2, p3, w0, w1, w2, w3, e0, e1, e2, e3;
    uint8_t *q0, *q1, *q2, *q3;
    for (;;) {
        size_t rounds = (size_t)-1, k;
        for (k = 0; k < 4; k++) {
            const size_t byte = (size_t)(s[k].bit >> 3);
            const size_t reads = fitting(byte < size ? size - byte : 0, 8, 8);
            const size_t writes = fitting((size_t)(s[k].out_end - s[k].out), each, 8);
            rounds = rounds < reads ? rounds : reads;
            rounds = rounds < writes ? rounds : writes;
        }
        if (rounds == 0) {
            return FLY_OK;
        }
        ALL(RESTORE);
        do {
            ALL(BEGIN);
            ALL(LOOK_UP);
            ALL(LOOK_UP);
            ALL(LOOK_UP);
            if (look_ups > 3) {
                ALL(LOOK_UP);
            }
            if (look_ups > 4) {
                ALL(LOOK_UP);
            }
            ALL(FINISH);
        } while (e0 && e1 && e2 && e3 && --rounds > 0);
        ALL(SAVE);
        for (k = 0; rounds > 0 && k < 4; k++) { /* a long codeword: the streams step over it */
            const fly_status status = decode_singly(d, s + k, 1, d->item);
            if (status != FLY_OK) {
                return status;
            }
        }
    }
}

/* The same for one stream, as three look-ups take at most 48 bits whatever the width. */
FLY_INLINE fly_status decode_one(const decoder *d, stream *s, size_t size, const int wide) {
    const void *table = table_of(d);
    const uint8_t *data = s->data;
    const uint32_t mask = (1u << d->width) - 1;
    uint64_t p0 = s->bit, w0, e0;
    uint8_t *q0 = s->out;
    while ((size_t)(s->out_end - q0) >= 3 * 6 + 8 && (p0 >> 3) + 8 <= size) {
        BEGIN(0);
        LOOK_UP(0);
        LOOK_UP(0);
        LOOK_UP(0);
        FINISH(0);
        SAVE(0);
        if (!e0) {
            const fly_status status = decode_singly(d, s, 1, d->item);
            if (status != FLY_OK) {
                return status;
            }
            RESTORE(0);
        }
    }
    return FLY_OK;
}

/* Decode most of four streams, or of one. */
FLY_INLINE fly_status decode_most(const decoder *d, stream *s, size_t number, size_t size) {
    size_t k;
    fly_status status = FLY_OK;
    if (number == 4) {
        status = d->wide ? d->width <= 11 ? decode_four(d, s, size, 1, 5)
                                          : decode_four(d, s, size, 1, 4)
                         : d->width <= 14 ? decode_four(d, s, size, 0, 4)
                                          : decode_four(d, s, size, 0, 3);
    }
    for (k = 0; k < number && status == FLY_OK; k++) {
        status = d->wide ? decode_one(d, s + k, size, 1) : decode_one(d, s + k, size, 0);
    }
    return status;
}

static fly_status decode_plainly(const decoder *d, stream *s, size_t number, size_t size) {
    return decode_most(d, s, number, size);
}

/* The same with BMI2, which shifts by any register without waiting for the flags before. */
FLY_BMI2 static fly_status decode_quickly(const decoder *d, stream *s, size_t number,
                                          size_t size) {
    return decode_most(d, s, number, size);
}
#endif

fly_status fly_huffman_decode(const void *workspace, const uint8_t *payload, size_t size,
                              uint64_t count, uint64_t first, uint64_t last, size_t stride,
                              void *out) {
    const decoder *d = decoder_in(workspace);
    const uint64_t streams = fly_huffman_streams(count);
    fly_bytes bytes = fly_bytes_of(payload, size), sizes = bytes;
    size_t begin = 0, total = 0;
    fly_status status = FLY_OK;
    uint64_t index;
    if (first > last || last > count / CHUNK + (count % CHUNK > 0) || stride < d->item) {
        return FLY_BAD_ARGUMENT;
    }
    if (size > 0 && (count == 0 || d->used == 1)) {
        return count == 0 ? FLY_HUFFMAN_NOT_EMPTY : FLY_HUFFMAN_REPEATED;
    }
    if (d->used > 1 && count / 8 + (count % 8 > 0) > size) {
        return FLY_HUFFMAN_COUNT;
    }
    for (index = 0; d->used > 1 && index + 1 < streams; index++) {
        const uint64_t length = fly_varint(&bytes);
        if (bytes.status != FLY_OK || length > size - total) {
            return bytes.status != FLY_OK ? bytes.status : FLY_HUFFMAN_STREAMS;
        }
        total += (size_t)length;
        if (index + 1 == 4 * first) {
            sizes = bytes;
            begin = total;
        }
    }
    if (total > fly_left(&bytes)) {
        return FLY_HUFFMAN_STREAMS;
    }
    begin += (size_t)(bytes.at - payload);
    for (; first < last && status == FLY_OK; first++) {
        const size_t number = count - first * CHUNK < FOUR_FROM ? 1 : 4;
        stream s[4];
        size_t k;
        for (k = 0; k < number; k++) {
            index = 4 * first + k;
            s[k].data = payload;
            s[k].bit = (uint64_t)begin << 3;
            begin = index + 1 < streams ? begin + (size_t)fly_varint(&sizes) : size;
            s[k].end = begin;
            s[k].out = (uint8_t *)out + (size_t)fly_huffman_begin(count, index) * stride;
            s[k].out_end = (uint8_t *)out + (size_t)fly_huffman_begin(count, index + 1) * stride;
        }
#if FAST
        if (d->width > 0 && stride == d->item) {
            status = (d->simd ? decode_quickly : decode_plainly)(d, s, number, size);
        }
#endif
        for (k = 0; k < number && status == FLY_OK; k++) {
            status = d->used == 1 ? repeat(d, s + k, stride) : decode_rest(d, s + k, stride);
        }
    }
    return status;
}
