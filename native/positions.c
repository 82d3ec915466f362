/* positions.c: decoder of masks: all, none, a bitmap, or Huffman-coded gaps. */
#include "bytes.h"

enum { BITMAP = 1, GAPS = 2, GAPS_OF_ZEROS = 3, ALPHABETS = 57 };

/* The alphabet and number of gaps of a table of gaps, what else stands before the Huffman table. */
typedef struct gap_table {
    fly_bytes rest;
    uint32_t alphabet;
    uint64_t count;
    uint8_t form;
} gap_table;

static fly_status read_gaps(gap_table *gaps, const uint8_t *table, size_t length) {
    unsigned choice;
    gaps->rest = fly_bytes_of(table, length);
    gaps->form = fly_byte(&gaps->rest);
    choice = gaps->form >> 2;
    gaps->form &= 3;
    if (gaps->rest.status != FLY_OK || gaps->form < GAPS || choice >= ALPHABETS) {
        return FLY_POSITIONS_FORM;
    }
    gaps->alphabet = (uint32_t)(4 + choice % 4) << (choice / 4);
    gaps->count = fly_varint(&gaps->rest);
    return gaps->rest.status;
}

static size_t symbol_bytes(const gap_table *gaps) { return gaps->alphabet > 256 ? 2 : 1; }

size_t fly_positions_workspace(const uint8_t *table, size_t length, size_t size, int fast) {
    gap_table gaps;
    if (read_gaps(&gaps, table, length) != FLY_OK || gaps.count > size) {
        return 0; /* no gaps, or more than there can be */
    }
    return ((fly_huffman_workspace(gaps.alphabet, fast ? gaps.count : 0) + 7) & ~(size_t)7) +
           (size_t)gaps.count * symbol_bytes(&gaps);
}

static fly_status decode_bitmap(const uint8_t *payload, size_t length, size_t size, uint8_t *mask) {
    size_t place;
    if (length != size / 8 + (size % 8 != 0)) {
        return FLY_POSITIONS_BITMAP;
    }
    for (place = 0; place < size; place++) {
        mask[place] = payload[place / 8] >> (7 - place % 8) & 1;
    }
    return size % 8 != 0 && (payload[length - 1] & (0xFF >> size % 8)) != 0 ? FLY_POSITIONS_PADDING
                                                                            : FLY_OK;
}

/* Mark the elements that gaps lead to; the last gap is no escape and ends within the mask. */
static fly_status mark(const gap_table *gaps, const uint8_t *symbols, size_t size, uint8_t *mask) {
    const uint8_t value = gaps->form == GAPS;
    uint64_t at = 0, place; /* next element */
    uint32_t gap = 0;
    memset(mask, !value, size);
    for (place = 0; place < gaps->count; place++) {
        if (symbol_bytes(gaps) == 1) {
            gap = symbols[place];
        } else {
            uint16_t two;
            memcpy(&two, symbols + 2 * place, 2);
            gap = two;
        }
        at += gap;
        if (at > size || (gap + 1 < gaps->alphabet && at == size)) {
            return FLY_POSITIONS_END;
        }
        if (gap + 1 < gaps->alphabet) {
            mask[at++] = value;
        }
    }
    return gap + 1 < gaps->alphabet ? FLY_OK : FLY_POSITIONS_END;
}

fly_status fly_positions_decode(const uint8_t *table, size_t table_length, const uint8_t *payload,
                                size_t length, size_t size, uint8_t *mask, fly_simd simd,
                                void *workspace, size_t workspace_size) {
    gap_table gaps;
    fly_status status;
    size_t decoder;
    uint8_t *symbols;
    if (table_length == 0 || (table_length == 1 && table[0] == 0)) {
        memset(mask, table_length == 0, size);
        return length == 0 ? FLY_OK : FLY_POSITIONS_BITMAP;
    }
    if (table_length == 1 && table[0] == BITMAP) {
        return decode_bitmap(payload, length, size, mask);
    }
    status = read_gaps(&gaps, table, table_length);
    if (status != FLY_OK) {
        return status;
    }
    if (size > ((uint64_t)1 << 20) + 4096 * (uint64_t)(table_length + length)) {
        return FLY_TOO_MANY;
    }
    if (gaps.count < 1 || gaps.count > size) {
        return FLY_POSITIONS_COUNT;
    }
    if (workspace_size <= (size_t)gaps.count * symbol_bytes(&gaps)) {
        return FLY_SMALL_WORKSPACE;
    }
    decoder = (workspace_size - (size_t)gaps.count * symbol_bytes(&gaps)) & ~(size_t)7;
    symbols = (uint8_t *)workspace + decoder;
    status = fly_huffman_open(gaps.rest.at, fly_left(&gaps.rest), gaps.alphabet, gaps.count, simd,
                              workspace, decoder);
    if (status == FLY_OK) {
        status = fly_huffman_decode(workspace, payload, length, gaps.count, 0,
                                    (gaps.count + FLY_HUFFMAN_CHUNK - 1) / FLY_HUFFMAN_CHUNK,
                                    symbol_bytes(&gaps), symbols);
    }
    return status != FLY_OK ? status : mark(&gaps, symbols, size, mask);
}
