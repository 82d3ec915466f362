/* planes.c: decode values whose bytes were sorted into planes, some of them Huffman-coded.
 *
 * Cost: a copy for each plane that is stored as it is, what huffman.c says for any other. With the
 * least workspace each plane is decoded straight to its places in the output.
 *
 * Source: Hershcovitch et al. 2024, "ZipNN: Lossless compression for AI models".
 */
#include "bytes.h"
#include "encoders.h"

#define MOST_PLANES 8

enum { RAW, CONSTANT, HUFFMAN, AGAIN, BITS = AGAIN };

size_t fly_planes_word(fly_dtype dtype, int *is_rotated) {
    const size_t item = fly_item_bytes(dtype);
    const int is_complex = dtype == FLY_COMPLEX64 || dtype == FLY_COMPLEX128;
    *is_rotated = is_complex || (dtype >= FLY_FLOAT16 && dtype <= FLY_FLOAT64);
    return is_complex ? item / 2 : item;
}

/* A plane of a block, as it is stored. */
typedef struct plane {
    const uint8_t *table, *data;
    size_t table_size, size;
    unsigned form;
} plane;

/* Find the planes of a block of `number` words without decoding any. */
static fly_status read_block(fly_bytes *bytes, size_t number, size_t width, int is_bool,
                             plane *planes) {
    const uint8_t *forms = fly_take(bytes, (width + 3) / 4);
    size_t k;
    if (forms == NULL) {
        return bytes->status;
    }
    if (width < 4 && forms[0] >> 2 * width) {
        return FLY_PLANES_FORMS;
    }
    for (k = 0; k < width; k++) {
        plane *p = planes + k;
        uint64_t table_size = 0, size = number;
        p->form = forms[k / 4] >> 2 * (k % 4) & 3;
        if (p->form == CONSTANT) {
            size = 1;
        } else if (is_bool) {
            if (p->form != BITS) {
                return FLY_PLANES_UNKNOWN;
            }
            size = (number + 7) / 8;
        } else if (p->form != RAW) {
            table_size = p->form == HUFFMAN ? fly_varint(bytes) : 0;
            size = fly_varint(bytes);
        }
        if (bytes->status != FLY_OK || table_size > fly_left(bytes) ||
            size > fly_left(bytes) - table_size) {
            return bytes->status != FLY_OK ? bytes->status : FLY_CUT_SHORT;
        }
        p->table = fly_take(bytes, (size_t)table_size);
        p->data = fly_take(bytes, (size_t)size);
        p->table_size = (size_t)table_size;
        p->size = (size_t)size;
    }
    return FLY_OK;
}

/* Make words of their bytes, `number` in each plane; rotate them right by one bit if `rotated`. */
FLY_INLINE void join_words(const uint8_t *const *planes, size_t number, const size_t width,
                           int rotated, uint8_t *__restrict out) {
    const size_t mask = width - 1;
    const uint8_t *__restrict a = planes[0], *__restrict b = planes[1];
    const uint8_t *__restrict c = planes[2 & mask], *__restrict d = planes[3 & mask];
    const uint8_t *__restrict e = planes[4 & mask], *__restrict f = planes[5 & mask];
    const uint8_t *__restrict g = planes[6 & mask], *__restrict h = planes[7 & mask];
    size_t at;
#define JOIN(k, low, high) \
    out[width * at + k] = (uint8_t)(rotated ? low[at] >> 1 | high[at] << 7 : low[at])
    for (at = 0; at < number; at++) {
        JOIN(0, a, b);
        if (width == 2) {
            JOIN(1, b, a);
        } else {
            JOIN(1, b, c);
            JOIN(2, c, d);
            JOIN(3, d, (width == 4 ? a : e));
        }
        if (width == 8) {
            JOIN(4, e, f);
            JOIN(5, f, g);
            JOIN(6, g, h);
            JOIN(7, h, a);
        }
    }
}

/* Compiled for each width, so that the compiler finds vector instructions. */
static void join(const uint8_t *const *planes, size_t number, size_t width, int rotated,
                 uint8_t *out) {
    if (width == 2) {
        join_words(planes, number, 2, rotated, out);
    } else if (width == 4) {
        join_words(planes, number, 4, rotated, out);
    } else {
        join_words(planes, number, 8, rotated, out);
    }
}

/* Rotate words in place, right by one bit. */
static void rotate(uint8_t *out, size_t number, size_t width) {
    for (; number > 0; number--, out += width) {
        const uint8_t lowest = out[0];
        size_t k;
        for (k = 0; k < width; k++) {
            out[k] = (uint8_t)(out[k] >> 1 | (k + 1 < width ? out[k + 1] : lowest) << 7);
        }
    }
}

/* ---- Blocks ---- */

static fly_status decode_bits(const plane *p, size_t number, uint8_t *out) {
    size_t at;
    if (p->form == CONSTANT) {
        memset(out, p->data[0], number);
        return p->data[0] > 1 ? FLY_PLANES_BOOL : FLY_OK;
    }
    for (at = 0; at < number; at++) {
        out[at] = p->data[at / 8] >> at % 8 & 1;
    }
    return number % 8 && p->data[number / 8] >> number % 8 ? FLY_PLANES_PADDING : FLY_OK;
}

/* Decode a plane to bytes that are `stride` apart, with its decoder. */
static fly_status decode_plane(const plane *p, size_t number, size_t stride, fly_simd simd,
                               uint8_t *decoder, size_t decoder_size, int *has_table,
                               uint8_t *out) {
    size_t at;
    if (p->form == RAW || p->form == CONSTANT) {
        const size_t step = p->form == RAW;
        if (stride == 1 && step == 0) {
            memset(out, p->data[0], number);
        } else if (stride == 1) {
            memcpy(out, p->data, number);
        }
        for (at = 0; stride > 1 && at < number; at++) {
            out[at * stride] = p->data[at * step];
        }
        return FLY_OK;
    }
    if (number / 8 + (number % 8 > 0) > p->size) {
        return FLY_HUFFMAN_COUNT;
    }
    if (p->form == HUFFMAN) {
        const fly_status status = fly_huffman_open(p->table, p->table_size, 256, number, simd,
                                                   decoder, decoder_size);
        if (status != FLY_OK || fly_huffman_used(decoder) == 1) {
            return status != FLY_OK ? status : FLY_PLANES_REPEATED;
        }
        *has_table = 1;
    }
    if (!*has_table) {
        return FLY_PLANES_NO_TABLE;
    }
    return fly_huffman_decode(decoder, p->data, p->size, number, 0, 1, stride, out);
}

size_t fly_planes_workspace(fly_dtype dtype, uint64_t count) {
    int rotated;
    const size_t width = fly_planes_word(dtype, &rotated);
    if (dtype == FLY_BOOL || count == 0) {
        return dtype == FLY_BOOL ? 0 : width * fly_huffman_workspace(256, 0);
    }
    return width * (fly_huffman_workspace(256, count) +
                    (count < FLY_PLANES_BLOCK ? (size_t)count * 2 : FLY_PLANES_BLOCK));
}

fly_status fly_planes_decode(fly_dtype dtype, fly_simd simd, const uint8_t *data, size_t size,
                             uint64_t count, uint64_t first, uint64_t last, uint8_t *out,
                             void *workspace, size_t workspace_size) {
    int rotated, has_table[MOST_PLANES];
    const size_t width = fly_planes_word(dtype, &rotated);
    const uint64_t words = width == 0 ? 0 : count * (fly_item_bytes(dtype) / width);
    const size_t large = fly_planes_workspace(dtype, count);
    /* With room for the planes of a block they are decoded there and joined. */
    const int apart = workspace_size >= large && width > 1;
    const size_t room = apart ? (size_t)(words < FLY_PLANES_BLOCK ? words : FLY_PLANES_BLOCK) : 0;
    const size_t decoder_size = width == 0 ? 0 : workspace_size / width - room;
    fly_bytes bytes = fly_bytes_of(data, size);
    uint64_t begin;
    if (width == 0 || first > last || words / FLY_PLANES_CHUNK + 1 < last) {
        return FLY_BAD_ARGUMENT;
    }
    if (workspace_size < fly_planes_workspace(dtype, 0)) {
        return FLY_SMALL_WORKSPACE;
    }
    if (count > ((uint64_t)1 << 20) + 4096 * (uint64_t)size) {
        return FLY_TOO_MANY;
    }
    for (begin = 0; begin < words; begin += FLY_PLANES_BLOCK) {
        const uint64_t left = words - begin;
        const size_t number = (size_t)(left < FLY_PLANES_BLOCK ? left : FLY_PLANES_BLOCK);
        const uint64_t chunk = begin / FLY_PLANES_CHUNK;
        uint8_t *to = out + (size_t)begin * width;
        const uint8_t *sources[MOST_PLANES];
        plane planes[MOST_PLANES];
        fly_status status;
        size_t k;
        if (chunk >= last && last * FLY_PLANES_CHUNK < words) {
            return FLY_OK; /* who decodes the last chunk sees whether bytes follow */
        }
        status = read_block(&bytes, number, width, dtype == FLY_BOOL, planes);
        if (begin % FLY_PLANES_CHUNK == 0) {
            memset(has_table, 0, sizeof has_table);
        }
        if (chunk >= first && status == FLY_OK && dtype == FLY_BOOL) {
            status = decode_bits(planes, number, to);
        } else if (chunk >= first) {
            for (k = 0; k < width && status == FLY_OK; k++) {
                uint8_t *own = (uint8_t *)workspace + k * (room + decoder_size);
                sources[k] = own;
                if (apart && planes[k].form == RAW) {
                    sources[k] = planes[k].data;
                } else {
                    status = decode_plane(planes + k, number, apart ? 1 : width, simd, own + room,
                                          decoder_size, has_table + k, apart ? own : to + k);
                }
            }
            if (apart && status == FLY_OK) {
                join(sources, number, width, rotated, to);
            } else if (rotated && status == FLY_OK) {
                rotate(to, number, width);
            }
        }
        if (status != FLY_OK) {
            return status;
        }
    }
    return fly_left(&bytes) > 0 ? FLY_PLANES_LEFT : FLY_OK;
}
