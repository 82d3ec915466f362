/* rows.c: measure the rows of a matrix, and round them to a uniform grid. */
#include "quantize.h"

#define PIECE 256 /* values in work at a time */
#define LANES 8   /* sums side by side, added in order at the end */
#define ZERO (FLY_SLOTS / 2)
#define TALLIED (1u << 19) /* values whose counts and sums fit in the halves of a word */
#define ONE ((uint64_t)1 << 44)
#define NEAREST 12582912.0f /* 1.5 * 2**23: a sum with it is rounded to a whole number */

/* Every loop is compiled twice, once for the processors that have AVX2; the source is the same. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define TWINS(name, parameters, arguments)                                                   \
    __attribute__((target("avx2"))) static void name##_avx2 parameters { name##_body arguments; } \
    static void name##_plain parameters { name##_body arguments; }
#define RUN(name, arguments) \
    if (simd == FLY_AVX2) {  \
        name##_avx2 arguments; \
    } else {                 \
        name##_plain arguments; \
    }
#else
#define TWINS(name, parameters, arguments) \
    static void name##_plain parameters { name##_body arguments; }
#define RUN(name, arguments) \
    (void)simd;              \
    name##_plain arguments;
#endif

static size_t item_of(const fly_matrix *matrix) { return matrix->dtype == FLY_FLOAT32 ? 4 : 2; }

/* Widen `count` values, at most PIECE. */
FLY_INLINE void widen(const uint8_t *at, fly_dtype dtype, size_t count, float *out) {
    size_t place;
    if (dtype == FLY_FLOAT32) {
        for (place = 0; place < count; place++) {
            out[place] = fly_float_of_bits(fly_load32(at + 4 * place));
        }
    } else if (dtype == FLY_FLOAT16) {
        for (place = 0; place < count; place++) {
            out[place] = fly_float_of_half(fly_load16(at + 2 * place));
        }
    } else {
        for (place = 0; place < count; place++) {
            out[place] = fly_float_of_bfloat(fly_load16(at + 2 * place));
        }
    }
}

/* Add the squares of `count` values to the lanes. Writes up to LANES - 1 zeros after the values. */
FLY_INLINE void add_squares(float *values, size_t count, double *lanes) {
    double sums[LANES];
    size_t place, lane;
    for (place = count; place % LANES != 0; place++) {
        values[place] = 0;
    }
    memcpy(sums, lanes, sizeof sums);
    for (place = 0; place < count; place += LANES) {
        for (lane = 0; lane < LANES; lane++) {
            sums[lane] += (double)values[place + lane] * (double)values[place + lane];
        }
    }
    memcpy(lanes, sums, sizeof sums);
}

FLY_INLINE double sum_of(const double *lanes) {
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

FLY_INLINE void measure_body(const uint8_t *at, fly_dtype dtype, size_t columns, float limit,
                             int64_t *nonzero, double *squares, double *peak) {
    const size_t item = dtype == FLY_FLOAT32 ? 4 : 2;
    double lanes[LANES] = {0};
    float values[PIECE];
    const int32_t most_kept = (int32_t)fly_bits_of_float(limit); /* sizes ascend as their bits do */
    int32_t most = 0;
    int64_t all = 0;
    size_t done, place;
    for (done = 0; done < columns; done += PIECE) {
        const size_t count = columns - done < PIECE ? columns - done : PIECE;
        int32_t zeros = 0;
        widen(at + item * done, dtype, count, values);
        for (place = 0; place < count; place++) {
            const int32_t size = (int32_t)(fly_bits_of_float(values[place]) & 0x7FFFFFFFu);
            const int32_t dropped = -((size > most_kept) & (size <= (255 << 23))); /* NaN is not */
            const int32_t kept = size & ~dropped;
            most = kept > most ? kept : most;
            zeros += kept == 0;
            values[place] = fly_float_of_bits((uint32_t)kept);
        }
        add_squares(values, count, lanes);
        all += (int64_t)count - zeros;
    }
    *nonzero = all;
    *squares = sum_of(lanes);
    *peak = (double)fly_float_of_bits((uint32_t)most);
}

TWINS(measure,
      (const uint8_t *at, fly_dtype dtype, size_t columns, float limit, int64_t *nonzero,
       double *squares, double *peak),
      (at, dtype, columns, limit, nonzero, squares, peak))

void fly_measure_rows(const fly_matrix *matrix, const float *limits, int64_t *counts,
                      double *squares, double *peaks, fly_simd simd) {
    const size_t bytes = item_of(matrix) * matrix->columns;
    size_t row;
    for (row = 0; row < matrix->rows; row++) {
        if (!(limits[row] < 0)) {
            RUN(measure, (matrix->values + bytes * row, matrix->dtype, matrix->columns,
                          limits[row], counts + row, squares + row, peaks + row))
        }
    }
}

/* The slots of `count` values, and what is left of them: in steps, 0 beyond the slots. */
FLY_INLINE void round_piece(const float *values, size_t count, float step, uint32_t *slots,
                            float *rest) {
    size_t place;
    for (place = 0; place < count; place++) {
        const float units = values[place] / step;
        const float moved = units + NEAREST;
        const float left = units - (moved - NEAREST);
        const uint32_t slot = fly_bits_of_float(moved) - fly_bits_of_float(NEAREST) + ZERO;
        const uint32_t inside =
            (fly_bits_of_float(units) & 0x7FFFFFFFu) < fly_bits_of_float(ZERO - 0.5f) ? ~0u : 0;
        slots[place] = slot & inside;
        rest[place] = fly_float_of_bits(fly_bits_of_float(left) & inside);
    }
}

FLY_INLINE void tally_body(const uint8_t *at, fly_dtype dtype, size_t columns, float step,
                           uint64_t *slots, double *squares) {
    const size_t item = dtype == FLY_FLOAT32 ? 4 : 2;
    double lanes[LANES] = {0};
    float values[PIECE], rest[PIECE];
    uint32_t found[PIECE], above[PIECE];
    size_t done, place;
    for (done = 0; done < columns; done += PIECE) {
        const size_t count = columns - done < PIECE ? columns - done : PIECE;
        widen(at + item * done, dtype, count, values);
        round_piece(values, count, step, found, rest);
        for (place = 0; place < count; place++) {
            above[place] = (uint32_t)((int32_t)(rest[place] * 16777216.0f) + (1 << 23));
        }
        add_squares(rest, count, lanes);
        for (place = 0; place < count; place++) {
            slots[found[place]] += ONE + above[place];
        }
    }
    *squares += sum_of(lanes);
}

TWINS(tally,
      (const uint8_t *at, fly_dtype dtype, size_t columns, float step, uint64_t *slots,
       double *squares),
      (at, dtype, columns, step, slots, squares))

static void empty_slots(uint64_t *slots, int64_t *counts, int64_t *sums) {
    size_t slot;
    for (slot = 0; slot < FLY_SLOTS; slot++) {
        const int64_t count = (int64_t)(slots[slot] >> 44);
        counts[slot] += count;
        sums[slot] += (int64_t)(slots[slot] & (ONE - 1)) - count * (1 << 23);
        slots[slot] = 0;
    }
}

void fly_tally(const fly_matrix *matrix, const float *steps, int64_t *counts, int64_t *sums,
               double *squares, fly_simd simd) {
    const size_t item = item_of(matrix);
    const uint8_t *at = matrix->values;
    uint64_t slots[FLY_SLOTS] = {0};
    size_t row, done, tallied = 0;
    for (row = 0; row < matrix->rows; row++) {
        for (done = 0; done < matrix->columns;) {
            const size_t left = matrix->columns - done, room = TALLIED - tallied;
            const size_t count = left < room ? left : room;
            RUN(tally, (at, matrix->dtype, count, steps[row], slots, squares + row))
            at += item * count;
            done += count;
            tallied += count;
            if (tallied == TALLIED) {
                empty_slots(slots, counts, sums);
                tallied = 0;
            }
        }
    }
    empty_slots(slots, counts, sums);
}

/* A multiple beyond the slots, rounded to 11 bits. */
static float large_multiple(float value, float step) {
    const float units = value / step;
    const uint32_t size = fly_bits_of_float(units) & 0x7FFFFFFFu;
    const float moved = units + NEAREST, nearest = moved - NEAREST;
    const uint32_t bits = fly_bits_of_float(size < 0x4A800000u ? nearest : units); /* 2**22 */
    return fly_float_of_bits((bits + (1u << 12)) >> 13 << 13);
}

size_t fly_large_multiples(const fly_matrix *matrix, const float *steps, float *out, size_t room) {
    const size_t item = item_of(matrix);
    const uint8_t *at = matrix->values;
    float values[PIECE], rest[PIECE];
    uint32_t slots[PIECE];
    size_t row, done, place, used = 0;
    for (row = 0; row < matrix->rows; row++) {
        for (done = 0; done < matrix->columns; done += PIECE) {
            const size_t left = matrix->columns - done, count = left < PIECE ? left : PIECE;
            widen(at, matrix->dtype, count, values);
            round_piece(values, count, steps[row], slots, rest);
            for (place = 0; place < count; place++) {
                if (slots[place] == 0 && used < room) {
                    out[used++] = large_multiple(values[place], steps[row]);
                }
            }
            at += item * count;
        }
    }
    return used;
}

static uint16_t large_symbol(float multiple, const float *large, const uint16_t *symbols,
                             size_t count) {
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (large[middle] < multiple) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && !(large[low] > multiple) ? symbols[low] : 0;
}

FLY_INLINE void slots_body(const uint8_t *at, fly_dtype dtype, size_t count, float step,
                           uint32_t *slots, float *values) {
    float rest[PIECE];
    widen(at, dtype, count, values);
    round_piece(values, count, step, slots, rest);
}

TWINS(slots,
      (const uint8_t *at, fly_dtype dtype, size_t count, float step, uint32_t *slots,
       float *values),
      (at, dtype, count, step, slots, values))

void fly_grid_symbols(const fly_matrix *matrix, const float *steps, const uint16_t *table,
                      const float *large, const uint16_t *symbols, size_t large_count, void *out,
                      size_t symbol_bytes, fly_simd simd) {
    const size_t item = item_of(matrix);
    const uint8_t *at = matrix->values;
    uint8_t narrow[FLY_SLOTS], *bytes = out;
    uint16_t *halves = out;
    float values[PIECE];
    uint32_t slots[PIECE];
    size_t row, done, place;
    for (place = 0; place < FLY_SLOTS; place++) {
        narrow[place] = (uint8_t)(table[place] & 0xFF);
    }
    for (row = 0; row < matrix->rows; row++) {
        for (done = 0; done < matrix->columns; done += PIECE) {
            const size_t left = matrix->columns - done, count = left < PIECE ? left : PIECE;
            RUN(slots, (at, matrix->dtype, count, steps[row], slots, values))
            for (place = 0; place < count; place++) {
                if (symbol_bytes == 1) {
                    bytes[place] = narrow[slots[place]];
                } else {
                    halves[place] = table[slots[place]];
                }
            }
            for (place = 0; large_count != 0 && place < count; place++) {
                if (slots[place] == 0) {
                    const float multiple = large_multiple(values[place], steps[row]);
                    const uint16_t symbol = large_symbol(multiple, large, symbols, large_count);
                    if (symbol_bytes == 1) {
                        bytes[place] = (uint8_t)(symbol & 0xFF);
                    } else {
                        halves[place] = symbol;
                    }
                }
            }
            at += item * count;
            bytes += count;
            halves += symbol_bytes == 1 ? 0 : count;
        }
    }
}

FLY_INLINE void errors_body(const uint8_t *at, fly_dtype dtype, size_t count, const float *levels,
                            double *lanes) {
    const size_t item = dtype == FLY_FLOAT32 ? 4 : 2;
    float values[PIECE];
    size_t place;
    widen(at, dtype, count, values);
    for (place = 0; place < count; place++) {
        values[place] -= levels[fly_load16(at + item * place + item - 2)];
    }
    add_squares(values, count, lanes);
}

void fly_bin_errors(const fly_matrix *matrix, const float *levels, double *squares) {
    const size_t item = item_of(matrix);
    const uint8_t *at = matrix->values;
    size_t row, done;
    for (row = 0; row < matrix->rows; row++) {
        double lanes[LANES] = {0};
        for (done = 0; done < matrix->columns; done += PIECE) {
            const size_t left = matrix->columns - done, count = left < PIECE ? left : PIECE;
            errors_body(at, matrix->dtype, count, levels, lanes);
            at += item * count;
        }
        squares[row] = sum_of(lanes);
    }
}
