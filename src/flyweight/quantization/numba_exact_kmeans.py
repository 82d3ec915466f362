"""Compiled loop of exact k-means: the best clusters of sorted points at a penalty for each."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from flyweight.coding.numba_compiler import kernel

__all__ = ["cheapest_clusters"]


@kernel
def cheapest_clusters(
    sums: NDArray[Any],
    totals: NDArray[Any],
    penalty: float,
    gains: NDArray[Any],
    before: NDArray[Any],
    waiting: NDArray[Any],
    since: NDArray[Any],
) -> None:
    """Fill ``before`` with the start of the last cluster in the best clustering of each prefix.

    ``sums`` and ``totals`` (float64, n + 1) are those of weighted values and of weights up to each
    point. A cluster gains its squared sum over its total, less ``penalty``. ``gains`` (float64) and
    ``before``, ``waiting``, ``since`` (int32), all n + 1, are filled and used.
    """
    # Of two starts the later one, once it is ahead, stays ahead: the gain is inverse Monge. So
    # those that become best later wait in a queue, each with the position from which it is.
    n = sums.size - 1
    first, last = 0, 0
    waiting[0], since[0], gains[0] = 0, 1, 0.0
    for j in range(1, n + 1):
        while first < last and since[first + 1] <= j:
            first += 1
        i = waiting[first]
        gains[j] = gains[i] + (sums[j] - sums[i]) ** 2 / (totals[j] - totals[i]) - penalty
        before[j] = i
        if j == n:
            break
        while True:
            i = waiting[last]
            known = max(since[last], j)  # the old one is ahead, or the new one impossible
            if known == j:
                break
            old = gains[i] + (sums[known] - sums[i]) ** 2 / (totals[known] - totals[i])
            new = gains[j] + (sums[known] - sums[j]) ** 2 / (totals[known] - totals[j])
            if new <= old or last == first:
                break
            last -= 1
        ahead = n
        old = gains[i] + (sums[n] - sums[i]) ** 2 / (totals[n] - totals[i])
        new = gains[j] + (sums[n] - sums[j]) ** 2 / (totals[n] - totals[j])
        if new <= old:
            continue
        while ahead - known > 1:
            middle = (known + ahead) >> 1
            old = gains[i] + (sums[middle] - sums[i]) ** 2 / (totals[middle] - totals[i])
            new = gains[j] + (sums[middle] - sums[j]) ** 2 / (totals[middle] - totals[j])
            if new > old:
                ahead = middle
            else:
                known = middle
        last += 1
        waiting[last], since[last] = j, ahead
