/* kmeans.c: the loop of exact one-dimensional k-means. quantization/exact_kmeans.py explains it. */
#include "quantize.h"

/* What a cluster of the points from `begin` to before `end` gains. */
FLY_INLINE double gain(const double *sums, const double *totals, size_t begin, size_t end) {
    const double sum = sums[end] - sums[begin];
    return sum * sum / (totals[end] - totals[begin]);
}

/* Of two beginnings the later one, once it is ahead, stays ahead: the gain is inverse Monge. So
 * those that become best later wait in a queue, each with the position from which it is. */
size_t fly_cheapest_clusters(const double *sums, const double *totals, size_t points,
                             double penalty, double *workspace, int64_t *edges) {
    double *const gains = workspace;
    uint32_t *const before = (uint32_t *)(workspace + points + 1);
    uint32_t *const waiting = before + points + 1;
    uint32_t *const since = waiting + points + 1;
    size_t first = 0, last = 0, end, used = 0, guess = 0;
    waiting[0] = 0;
    since[0] = 1;
    gains[0] = 0;
    for (end = 1; end <= points; end++) {
        size_t known, ahead, begin, middle, step;
        while (first < last && since[first + 1] <= end) {
            first++;
        }
        begin = waiting[first];
        gains[end] = gains[begin] + gain(sums, totals, begin, end) - penalty;
        before[end] = (uint32_t)begin;
        if (end == points) {
            break;
        }
        for (;;) {
            begin = waiting[last];
            known = since[last] > end ? since[last] : end;
            /* The new beginning is impossible here, or the old one is ahead. */
            if (known == end || last == first ||
                gains[end] + gain(sums, totals, end, known) <=
                    gains[begin] + gain(sums, totals, begin, known)) {
                break;
            }
            last--;
        }
        ahead = points;
        if (gains[end] + gain(sums, totals, end, points) <=
            gains[begin] + gain(sums, totals, begin, points)) {
            continue;
        }
        /* From the position found last, which is near, by growing steps; then by halves. */
        middle = guess > known && guess < ahead ? guess : known + (ahead - known) / 2;
        for (step = 1; ahead - known > 1; step += step < points ? step : 0) {
            if (gains[end] + gain(sums, totals, end, middle) >
                gains[begin] + gain(sums, totals, begin, middle)) {
                ahead = middle;
                middle = ahead - known > 2 * step ? ahead - step : known + (ahead - known) / 2;
            } else {
                known = middle;
                middle = ahead - known > 2 * step ? known + step : known + (ahead - known) / 2;
            }
        }
        guess = ahead;
        last++;
        waiting[last] = (uint32_t)end;
        since[last] = (uint32_t)ahead;
    }
    for (end = points; end != 0; end = before[end]) {
        edges[points - used++] = (int64_t)end;
    }
    edges[points - used++] = 0;
    return used;
}
