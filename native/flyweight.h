/* flyweight.h: decoders of .fly files and of their streams, for any C99 program.
 *
 * No function allocates, prints, or keeps state. The caller gives all memory: an output of a stated
 * size, and a workspace whose size a `..._workspace` function tells. Every function returns FLY_OK
 * or the reason for which the bytes were refused; what it has written by then is unspecified but lies
 * within what it was given. Of libc only memcpy, memmove and memset are used.
 *
 * docs/format.md is the specification, docs/device.md explains how to use this in firmware.
 */
#ifndef FLYWEIGHT_H
#define FLYWEIGHT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fly_status {
    FLY_OK = 0,
    /* any stream */
    FLY_CUT_SHORT = 1,        /* bytes are missing at the end */
    FLY_BYTES_LEFT = 2,       /* bytes follow the end */
    FLY_BAD_VARINT = 3,       /* an integer of more than 63 bits, or padded with zeros */
    FLY_BAD_ARGUMENT = 4,     /* the caller's: an alphabet, item size or count out of range */
    FLY_SMALL_WORKSPACE = 5,  /* the caller's: the workspace is too small */
    FLY_TOO_MANY = 6,         /* more elements than so few bytes may stand for */
    /* Huffman: 100 to 119; rANS: 120 to 139; context: 140 to 159; planes: 160 to 179;
     * positions: 180 to 199; file, header, tensors: 200 to 259 */
    FLY_LAST_STATUS = 259
} fly_status;

/* Data types of tensors, by their number in a file. */
typedef enum fly_dtype {
    FLY_BOOL = 0,
    FLY_UINT8 = 1,
    FLY_INT8 = 2,
    FLY_UINT16 = 3,
    FLY_INT16 = 4,
    FLY_UINT32 = 5,
    FLY_INT32 = 6,
    FLY_UINT64 = 7,
    FLY_INT64 = 8,
    FLY_FLOAT16 = 9,
    FLY_BFLOAT16 = 10,
    FLY_FLOAT32 = 11,
    FLY_FLOAT64 = 12,
    FLY_FLOAT8_E4M3FN = 13,
    FLY_FLOAT8_E5M2 = 14,
    FLY_COMPLEX64 = 15,
    FLY_COMPLEX128 = 16
} fly_dtype;

/* Bytes of a value: 1, 2, 4, 8 or 16; 0 where the number means no type. */
size_t fly_item_bytes(fly_dtype dtype);

/* Which instructions the hot loops may use. All give the same bytes and symbols. */
typedef enum fly_simd { FLY_SCALAR = 0, FLY_AVX2 = 1, FLY_AVX512 = 2, FLY_NEON = 3 } fly_simd;

/* The best of them that this processor has; call it once and keep the answer. */
fly_simd fly_best_simd(void);

/* From symbols (one byte each, or two of this machine's order) to little-endian values: 0 is zero,
 * k is the k-th level, times the scale and plus the offset of its row where these are not NULL, for
 * float16, bfloat16, float32 and, without FLY_NO_DOUBLE, float64. FLY_BAD_ARGUMENT for a symbol
 * above level_count. See dequantize.c. */
size_t fly_dequantize_workspace(fly_dtype dtype, size_t level_count);
fly_status fly_dequantize(fly_dtype dtype, const void *symbols, size_t symbol_bytes, size_t rows,
                          size_t columns, const uint8_t *levels, size_t level_count,
                          const uint8_t *scales, const uint8_t *offsets, uint8_t *workspace,
                          uint8_t *out);

/* Put value_count values where the mask of `count` bytes is not 0, zeros elsewhere. */
fly_status fly_scatter(const uint8_t *mask, size_t count, const uint8_t *values, size_t value_count,
                       size_t item, uint8_t *out);

#ifdef __cplusplus
}
#endif
#endif
