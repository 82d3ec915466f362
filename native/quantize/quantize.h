/* quantize.h: loops over the values of large tensors, for the encoder's side only.
 *
 * `values` are little-endian, as in a file. Sums are of integers or in a fixed order, and products
 * that are added are exact, so that results are the same on every machine and for any `simd`.
 */
#ifndef FLY_QUANTIZE_H
#define FLY_QUANTIZE_H

#include "../floats.h"

#define FLY_SLOTS 4096          /* multiples of a grid: slot 2048 is zero, slot 0 all others */
#define FLY_BINS 65536          /* of a histogram by the first 16 bits of a value */
#define FLY_BIN_VALUES (1 << 23) /* most values in a histogram */

#define FLY_MOST_KNOWN 65536

/* A matrix of float16, bfloat16 or float32. */
typedef struct fly_matrix {
    const uint8_t *values;
    fly_dtype dtype;
    size_t rows, columns;
} fly_matrix;

/* Of each row, the values up to its limit in size: how many are not zero, the sum of their squares
 * (NaN if one is NaN), and the largest size. All arrays have an item for each row; those of a row
 * with a limit below 0 stay as they are. */
void fly_measure_rows(const fly_matrix *matrix, const float *limits, int64_t *counts,
                      double *squares, double *peaks, fly_simd simd);

/* Adds to `counts` of each slot the values that round to its multiple of the step of their row, to
 * `sums` how far they lie above it, in 2**-24 of a step, to `squares` of each row the squares of
 * that. At most 2**40 values. Zero is inexact in `sums`. */
void fly_tally(const fly_matrix *matrix, const float *steps, int64_t *counts, int64_t *sums,
               double *squares, fly_simd simd);

/* Writes the multiples beyond the slots, rounded to 11 bits, in order, at most `room`; returns how
 * many. */
size_t fly_large_multiples(const fly_matrix *matrix, const float *steps, float *out, size_t room);

/* Writes for each value the entry of its slot in `table`, or, beyond the slots, the entry of
 * `symbols` at the place of its multiple in `large`, ascending; 0 if it is not there. */
void fly_grid_symbols(const fly_matrix *matrix, const float *steps, const uint16_t *table,
                      const float *large, const uint16_t *symbols, size_t large_count, void *out,
                      size_t symbol_bytes, fly_simd simd);

/* Sets each of FLY_BINS to 2**40 for each of at most FLY_BIN_VALUES values plus the sum of their
 * low halves (0 for items of 2 bytes). */
void fly_histogram(const uint8_t *values, size_t count, size_t item, uint64_t *bins);

/* Writes the entry of `table` for the bin of each value. */
void fly_bin_symbols(const uint8_t *values, size_t count, size_t item, const uint16_t *table,
                     void *out, size_t symbol_bytes);

/* Of each row, the sum of the squared differences between values and `levels` of their bins. */
void fly_bin_errors(const fly_matrix *matrix, const float *levels, double *squares);

/* The best clusters of `points` sorted values at a penalty for each: their edges, 0 first, at the
 * end of `edges`; returns how many. `sums` and `totals`, of weighted values and of weights up to
 * each point, and `edges` have points + 1 items, `workspace` 20 bytes for each. */
size_t fly_cheapest_clusters(const double *sums, const double *totals, size_t points,
                             double penalty, double *workspace, int64_t *edges);

/* The columns from `start` to before `end` of groups of rows, and the matrix that each group has.
 * Codes are from -largest to largest where they have `bits`, 2 * largest + 1 of them, of which each
 * is `worth` so much squared error of an output; NULL leaves the codes free. */
typedef struct fly_columns {
    const double *matrix; /* groups * columns * columns */
    const uint8_t *kept;  /* 0 for weights that stay 0 */
    const double *bits;
    size_t groups, rows, columns, start, end;
    ptrdiff_t largest;
    double worth;
} fly_columns;

/* GPTQ: sets the codes of a block of columns of `state`, which are the weights in steps with what
 * they make up for, and in `changes`, groups * rows * (end - start), the errors that the columns
 * after the block still have to make up for. `matrix` is upper triangular, a factor of the inverse
 * of the curvature. Changes `state` in the block only. */
void fly_gptq_first(const fly_columns *columns, double *state, double *codes, double *changes,
                    fly_simd simd);

/* Chooses codes of a block again, one after the other, and sets `changes` to by how much. `matrix`
 * is the curvature, and `state` the errors of all codes times it, kept so in the block only. */
void fly_gptq_sweep(const fly_columns *columns, double *state, double *codes, double *changes,
                    fly_simd simd);

/* Sets each code to the best of the nearest of its ratio, the one below in size, and zero, by
 * squared error times its factor (NULL: 1) and `worth` times bits; returns how many changed.
 * `bits` are 2 * largest + 1. */
size_t fly_rdoq(const double *ratios, const double *factors, size_t count, const double *bits,
                ptrdiff_t largest, double worth, int32_t *codes);

/* Whether all of `count` items, of 1, 2, 4, 8 or 16 bytes, are the same. */
int fly_all_equal(const uint8_t *words, size_t count, size_t item);

/* The distinct items of 1, 2, 4 or 8 bytes, in the order of the table, and how often they occur.
 * Returns their number, or limit + 1 as soon as there are more than `limit`, at most
 * FLY_MOST_KNOWN. `table` has fly_distinct_workspace() bytes, the others `limit` items. */
size_t fly_distinct_workspace(void);
size_t fly_distinct(const uint8_t *words, size_t count, size_t item, size_t limit, void *table,
                    uint64_t *found, int64_t *counts);

/* Writes the place of each item among `known` distinct ones, at most FLY_MOST_KNOWN; returns 0 if
 * an item is not among them. */
int fly_places(const uint8_t *words, size_t count, size_t item, const uint64_t *known,
               size_t known_count, void *table, void *out, size_t symbol_bytes);

/* Writes `count` floats of `from`, float32 or float64, as the narrower type `to`; returns 0 at the
 * first of which a bit would be lost, and for NaN that changes its form. */
int fly_narrow(const uint8_t *values, size_t count, fly_dtype from, fly_dtype to, uint8_t *out);

#endif
