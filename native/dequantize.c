/* dequantize.c: from symbols and levels, scales and offsets, to values. docs/format.md, "Scales and
 * offsets", states the arithmetic.
 */
#include "floats.h"

#define PIECE 4096 /* symbols that are checked before they are looked up */

/* The value of a level in a channel, from and to bytes; `offset` may be NULL. The product goes
 * through memory, so that no compiler keeps more of its bits than the type has. */
static void scale_level(fly_dtype dtype, const uint8_t *level, const uint8_t *scale,
                        const uint8_t *offset, uint8_t *out) {
    if (dtype == FLY_FLOAT64) {
#ifndef FLY_NO_DOUBLE
        uint64_t words[3];
        double parts[3];
        volatile double value;
        words[0] = fly_load64(level);
        words[1] = fly_load64(scale);
        words[2] = offset == NULL ? 0 : fly_load64(offset);
        memcpy(parts, words, sizeof parts);
        value = parts[0] * parts[1];
        if (offset != NULL) {
            value = value + parts[2];
        }
        parts[0] = value;
        memcpy(words, parts, 8);
        fly_store64(out, words[0]);
#endif
    } else {
        const uint8_t *const from[3] = {level, scale, offset};
        float parts[3] = {0, 0, 0};
        volatile float value;
        int part;
        for (part = 0; part < (offset == NULL ? 2 : 3); part++) {
            parts[part] = dtype == FLY_FLOAT32   ? fly_float_of_bits(fly_load32(from[part]))
                          : dtype == FLY_FLOAT16 ? fly_float_of_half(fly_load16(from[part]))
                                                 : fly_float_of_bfloat(fly_load16(from[part]));
        }
        value = parts[0] * parts[1];
        if (offset != NULL) {
            value = value + parts[2];
        }
        if (dtype == FLY_FLOAT32) {
            fly_store32(out, fly_bits_of_float(value));
        } else {
            fly_store16(out, dtype == FLY_FLOAT16 ? fly_half_of_float(value)
                                                  : fly_bfloat_of_float(value));
        }
    }
}

FLY_INLINE int in_alphabet(const uint8_t *symbols, size_t width, size_t count, size_t levels) {
    uint32_t most = 0;
    size_t place;
    for (place = 0; place < count; place++) {
        const uint32_t symbol = fly_symbol(symbols, width, place);
        most = symbol > most ? symbol : most;
    }
    return most <= levels;
}

/* `table` has an entry of `item` bytes for each symbol that occurs, `out` room for `count`. */
FLY_INLINE void look_up(const uint8_t *symbols, size_t width, size_t count, const uint8_t *table,
                        size_t item, uint8_t *out) {
    size_t place;
    for (place = 0; place < count; place++) {
        memcpy(out + item * place, table + item * fly_symbol(symbols, width, place), item);
    }
}

#define LOOK_UP(width, item) look_up(symbols, width, count, table, item, out)

static fly_status look_up_any(const uint8_t *symbols, size_t width, size_t length,
                              const uint8_t *table, size_t levels, size_t item, uint8_t *out) {
    size_t done;
    for (done = 0; done < length; done += PIECE) {
        const size_t count = length - done < PIECE ? length - done : PIECE;
        if (width == 1 ? !in_alphabet(symbols, 1, count, levels)
                       : !in_alphabet(symbols, 2, count, levels)) {
            return FLY_BAD_ARGUMENT;
        }
        switch (item) {
        case 1: width == 1 ? LOOK_UP(1, 1) : LOOK_UP(2, 1); break;
        case 2: width == 1 ? LOOK_UP(1, 2) : LOOK_UP(2, 2); break;
        case 4: width == 1 ? LOOK_UP(1, 4) : LOOK_UP(2, 4); break;
        case 8: width == 1 ? LOOK_UP(1, 8) : LOOK_UP(2, 8); break;
        default: width == 1 ? LOOK_UP(1, 16) : LOOK_UP(2, 16); break;
        }
        symbols += width * count;
        out += item * count;
    }
    return FLY_OK;
}

size_t fly_item_bytes(fly_dtype dtype) {
    static const uint8_t bytes[] = {1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 1, 8, 16};
    return (unsigned)dtype < sizeof bytes ? bytes[dtype] : 0;
}

size_t fly_dequantize_workspace(fly_dtype dtype, size_t level_count) {
    return (level_count + 1) * fly_item_bytes(dtype);
}

/* Reads rows * columns symbols, level_count levels and, if they are not NULL, `rows` scales and
 * offsets; writes rows * columns items and fly_dequantize_workspace() bytes. */
fly_status fly_dequantize(fly_dtype dtype, const void *symbols, size_t symbol_bytes, size_t rows,
                          size_t columns, const uint8_t *levels, size_t level_count,
                          const uint8_t *scales, const uint8_t *offsets, uint8_t *workspace,
                          uint8_t *out) {
    const size_t item = fly_item_bytes(dtype);
    const uint8_t *at = symbols;
    size_t row, place;
    if (item == 0 || symbol_bytes < 1 || symbol_bytes > 2) {
        return FLY_BAD_ARGUMENT;
    }
    memset(workspace, 0, item);
    if (scales == NULL) {
        memcpy(workspace + item, levels, item * level_count);
        return look_up_any(at, symbol_bytes, rows * columns, workspace, level_count, item, out);
    }
    if (dtype < FLY_FLOAT16 || dtype > FLY_FLOAT64) {
        return FLY_BAD_ARGUMENT;
    }
#ifdef FLY_NO_DOUBLE
    if (dtype == FLY_FLOAT64) {
        return FLY_BAD_ARGUMENT;
    }
#endif
    for (row = 0; row < rows; row++) {
        const uint8_t *const scale = scales + item * row;
        const uint8_t *const offset = offsets == NULL ? NULL : offsets + item * row;
        if (level_count < columns) { /* a table for the row costs less than each element */
            fly_status status;
            for (place = 0; place < level_count; place++) {
                scale_level(dtype, levels + item * place, scale, offset,
                            workspace + item * (place + 1));
            }
            status = look_up_any(at, symbol_bytes, columns, workspace, level_count, item, out);
            if (status != FLY_OK) {
                return status;
            }
        }
        for (place = 0; level_count >= columns && place < columns; place++) {
            const uint32_t symbol = fly_symbol(at, symbol_bytes, place);
            if (symbol > level_count) {
                return FLY_BAD_ARGUMENT;
            }
            if (symbol == 0) {
                memset(out + item * place, 0, item);
            } else {
                scale_level(dtype, levels + item * (symbol - 1), scale, offset, out + item * place);
            }
        }
        at += symbol_bytes * columns;
        out += item * columns;
    }
    return FLY_OK;
}
