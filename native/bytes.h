/* bytes.h: little-endian loads and stores, and the one checked reader of bytes. */
#ifndef FLY_BYTES_H
#define FLY_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "flyweight.h"

#if defined(_MSC_VER)
#define FLY_INLINE static __forceinline
#else
#define FLY_INLINE static inline __attribute__((always_inline, unused))
#endif

/* For twins of hot loops that run where fly_best_simd() gives FLY_AVX2. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define FLY_BMI2 __attribute__((target("avx2,bmi2,lzcnt")))
#else
#define FLY_BMI2
#endif

/* 1 where memory is little-endian, so that a word can be loaded by memcpy. */
#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__) && \
    __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define FLY_LITTLE_ENDIAN 0
#else
#define FLY_LITTLE_ENDIAN 1
#endif

/* Each load and store touches exactly as many bytes as its width; alignment does not matter. */
FLY_INLINE uint16_t fly_load16(const uint8_t *at) {
    return (uint16_t)(at[0] | (uint16_t)(at[1] << 8));
}

FLY_INLINE uint32_t fly_load32(const uint8_t *at) {
#if FLY_LITTLE_ENDIAN
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
#else
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
#endif
}

FLY_INLINE uint64_t fly_load64(const uint8_t *at) {
#if FLY_LITTLE_ENDIAN
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
#else
    return (uint64_t)fly_load32(at) | (uint64_t)fly_load32(at + 4) << 32;
#endif
}

FLY_INLINE void fly_store16(uint8_t *at, uint16_t word) {
    at[0] = (uint8_t)(word & 0xFF);
    at[1] = (uint8_t)(word >> 8);
}

FLY_INLINE void fly_store32(uint8_t *at, uint32_t word) {
    fly_store16(at, (uint16_t)(word & 0xFFFF));
    fly_store16(at + 2, (uint16_t)(word >> 16));
}

FLY_INLINE void fly_store64(uint8_t *at, uint64_t word) {
#if FLY_LITTLE_ENDIAN
    memcpy(at, &word, 8);
#else
    fly_store32(at, (uint32_t)(word & 0xFFFFFFFFu));
    fly_store32(at + 4, (uint32_t)(word >> 32));
#endif
}

/* A symbol in the memory of this machine, of one byte or two. */
FLY_INLINE uint32_t fly_symbol(const void *symbols, size_t bytes, size_t place) {
    uint16_t word;
    if (bytes == 1) {
        return ((const uint8_t *)symbols)[place];
    }
    memcpy(&word, (const uint8_t *)symbols + 2 * place, 2);
    return word;
}

/* log2 of a number, rounded down; 0 of 0. */
FLY_INLINE unsigned fly_log2(uint32_t number) {
#if defined(__GNUC__) || defined(__clang__)
    return 31u ^ (unsigned)__builtin_clz(number | 1);
#else
    unsigned log = 0;
    while (number >>= 1) {
        log++;
    }
    return log;
#endif
}

/* How many bits a number has up to its highest 1. */
FLY_INLINE unsigned fly_width(uint32_t number) { return fly_log2(number) + (number > 0); }

/* Bytes from `at` to before `end`; `status` keeps the first error, after which reads give 0. */
typedef struct fly_bytes {
    const uint8_t *at;
    const uint8_t *end;
    fly_status status;
} fly_bytes;

FLY_INLINE fly_bytes fly_bytes_of(const uint8_t *data, size_t length) {
    fly_bytes bytes;
    bytes.at = data;
    bytes.end = data + length;
    bytes.status = FLY_OK;
    return bytes;
}

FLY_INLINE size_t fly_left(const fly_bytes *bytes) { return (size_t)(bytes->end - bytes->at); }

/* The next `length` bytes, or NULL and FLY_CUT_SHORT if there are fewer. */
FLY_INLINE const uint8_t *fly_take(fly_bytes *bytes, size_t length) {
    const uint8_t *piece = bytes->at;
    if (bytes->status != FLY_OK || fly_left(bytes) < length) {
        if (bytes->status == FLY_OK) {
            bytes->status = FLY_CUT_SHORT;
        }
        return NULL;
    }
    bytes->at += length;
    return piece;
}

FLY_INLINE uint8_t fly_byte(fly_bytes *bytes) {
    const uint8_t *at = fly_take(bytes, 1);
    return at == NULL ? 0 : *at;
}

/* The next varint: at most nine bytes, in the shortest form; 0 and an error otherwise. */
FLY_INLINE uint64_t fly_varint(fly_bytes *bytes) {
    uint64_t number = 0;
    unsigned shift;
    for (shift = 0; shift < 63; shift += 7) {
        const uint8_t byte = fly_byte(bytes);
        if (bytes->status != FLY_OK) {
            return 0;
        }
        number |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            if (byte == 0 && shift != 0) {
                break;
            }
            return number;
        }
    }
    bytes->status = FLY_BAD_VARINT;
    return 0;
}

/* Write a varint of less than 2**63 to at most 9 bytes; return how many. */
FLY_INLINE size_t fly_put_varint(uint8_t *at, uint64_t number) {
    size_t length = 0;
    while (number > 0x7F) {
        at[length++] = (uint8_t)((number & 0x7F) | 0x80);
        number >>= 7;
    }
    at[length++] = (uint8_t)number;
    return length;
}

#endif
