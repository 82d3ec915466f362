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

/* Which instructions the hot loops may use. All give the same bytes and symbols. */
typedef enum fly_simd { FLY_SCALAR = 0, FLY_AVX2 = 1, FLY_AVX512 = 2, FLY_NEON = 3 } fly_simd;

/* The best of them that this processor has; call it once and keep the answer. */
fly_simd fly_best_simd(void);

#ifdef __cplusplus
}
#endif
#endif
