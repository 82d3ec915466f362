/* gptq.c: choose codes column after column, in units of the step. quantization/gptq_rounding.py
 * explains it, and applies what a block of columns changes in the others. */
#include "quantize.h"

#define TILE 8                   /* rows for which a row of the matrix stays in the nearest cache */
#define WHOLE 6755399441055744.0 /* 1.5 * 2**52: a sum with it is rounded to a whole number */

/* Every loop is compiled twice, once for the processors that have AVX2; the source is the same. */
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define TWINS(name)                                                                         \
    __attribute__((target("avx2"))) static void name##_avx2(const fly_columns *c,           \
                                                            double *state, double *codes,   \
                                                            double *changes) {              \
        name##_body(c, state, codes, changes);                                              \
    }                                                                                       \
    static void name##_plain(const fly_columns *c, double *state, double *codes,            \
                             double *changes) {                                             \
        name##_body(c, state, codes, changes);                                              \
    }
#define RUN(name)                                 \
    if (simd == FLY_AVX2) {                       \
        name##_avx2(c, state, codes, changes);    \
    } else {                                      \
        name##_plain(c, state, codes, changes);   \
    }
#else
#define TWINS(name)                                                                         \
    static void name##_plain(const fly_columns *c, double *state, double *codes,            \
                             double *changes) {                                             \
        name##_body(c, state, codes, changes);                                              \
    }
#define RUN(name) \
    (void)simd;   \
    name##_plain(c, state, codes, changes);
#endif

/* The nearest whole number, of two the even one; numbers from 2**51 on are taken as whole. */
FLY_INLINE double whole(double value) {
    return value < 2251799813685248.0 && value > -2251799813685248.0 ? (value + WHOLE) - WHOLE
                                                                      : value;
}

FLY_INLINE double bounded(double value, double largest) {
    return value > -largest ? (value < largest ? value : largest) : -largest; /* also NaN */
}

FLY_INLINE void offer(const fly_columns *c, double target, double cost, double code, double *best,
                      double *least) {
    const double away = target - code;
    const double found = away * away + cost * c->bits[(ptrdiff_t)code + c->largest];
    if (found < *least) {
        *least = found;
        *best = code;
    }
}

/* The best of the nearest code, its neighbors, zero and the present code. */
FLY_INLINE double chosen(const fly_columns *c, double target, double cost, double present) {
    double best, least, largest, nearest, away;
    if (c->bits == NULL) {
        return whole(target);
    }
    largest = (double)c->largest;
    nearest = best = whole(bounded(target, largest));
    away = target - nearest;
    least = away * away + cost * c->bits[(ptrdiff_t)nearest + c->largest];
    offer(c, target, cost, bounded(nearest - 1, largest), &best, &least);
    offer(c, target, cost, bounded(nearest + 1, largest), &best, &least);
    offer(c, target, cost, 0, &best, &least);
    offer(c, target, cost, bounded(present, largest), &best, &least);
    return best;
}

FLY_INLINE void subtract(double *values, const double *row, double factor, size_t count) {
    size_t place;
    for (place = 0; place < count; place++) {
        values[place] -= factor * row[place];
    }
}

FLY_INLINE void first_body(const fly_columns *c, double *state, double *codes, double *changes) {
    const size_t width = c->end - c->start, all = c->groups * c->rows;
    size_t tile, column, row;
    for (tile = 0; tile < all;) {
        const size_t group = tile / c->rows, last = (group + 1) * c->rows;
        const size_t stop = tile + TILE < last ? tile + TILE : last;
        const double *const matrix = c->matrix + group * c->columns * c->columns;
        for (column = c->start; column < c->end; column++) {
            const double *const factors = matrix + column * c->columns;
            const double pivot = factors[column], cost = c->worth * pivot * pivot;
            for (row = tile; row < stop; row++) {
                double *const left = state + row * c->columns;
                const size_t place = row * c->columns + column;
                const double target = left[column];
                const double code = c->kept[place] ? chosen(c, target, cost, 0) : 0;
                const double error = (target - code) / pivot;
                codes[place] = code;
                changes[row * width + column - c->start] = error;
                subtract(left + column + 1, factors + column + 1, error, c->end - column - 1);
            }
        }
        tile = stop;
    }
}

FLY_INLINE void sweep_body(const fly_columns *c, double *state, double *codes, double *changes) {
    const size_t width = c->end - c->start, all = c->groups * c->rows;
    size_t tile, column, row;
    for (tile = 0; tile < all;) {
        const size_t group = tile / c->rows, last = (group + 1) * c->rows;
        const size_t stop = tile + TILE < last ? tile + TILE : last;
        const double *const matrix = c->matrix + group * c->columns * c->columns;
        for (column = c->start; column < c->end; column++) {
            const double *const curvatures = matrix + column * c->columns;
            const double curvature = curvatures[column], cost = c->worth / curvature;
            for (row = tile; row < stop; row++) {
                double *const pull = state + row * c->columns;
                const size_t place = row * c->columns + column;
                const double present = codes[place];
                const double target = present + pull[column] / curvature;
                const double code = c->kept[place] ? chosen(c, target, cost, present) : 0;
                const double change = code - present;
                changes[row * width + column - c->start] = change;
                if (change != 0) {
                    codes[place] = code;
                    subtract(pull + c->start, curvatures + c->start, change, width);
                }
            }
        }
        tile = stop;
    }
}

TWINS(first)
TWINS(sweep)

void fly_gptq_first(const fly_columns *c, double *state, double *codes, double *changes,
                    fly_simd simd) {
    RUN(first)
}

void fly_gptq_sweep(const fly_columns *c, double *state, double *codes, double *changes,
                    fly_simd simd) {
    RUN(sweep)
}

size_t fly_rdoq(const double *ratios, const double *factors, size_t count, const double *bits,
                ptrdiff_t largest, double worth, int32_t *codes) {
    const double most = (double)largest;
    size_t place, changed = 0;
    for (place = 0; place < count; place++) {
        const double ratio = ratios[place], factor = factors == NULL ? 1 : factors[place];
        const double nearest = whole(bounded(ratio, most));
        const double lower = nearest > 0 ? nearest - 1 : nearest < 0 ? nearest + 1 : 0;
        const double away = ratio - nearest, lower_away = ratio - lower;
        double best = nearest;
        double least = factor * (away * away) + worth * bits[(ptrdiff_t)nearest + largest];
        double found = factor * (lower_away * lower_away) + worth * bits[(ptrdiff_t)lower + largest];
        if (found < least) {
            least = found;
            best = lower;
        }
        found = factor * (ratio * ratio) + worth * bits[largest];
        if (found < least) {
            best = 0;
        }
        changed += codes[place] != (int32_t)best;
        codes[place] = (int32_t)best;
    }
    return changed;
}
