"""Allocate sparsity to layers from a sensitivity scan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise

from flyweight.errors import ModelError
from flyweight.pruning.analysis import SensitivityPoint
from flyweight.pruning.ranking import check_fraction

__all__ = ["allocate"]


def allocate(
    points: Sequence[SensitivityPoint], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """Allocate a total sparsity to layers so that the sum of their losses is least.

    The loss of a layer is the fall of its score in the scan, on the largest convex curve below its
    points; losses of layers are taken to add up. Stretches of the curves are taken in order of
    their loss per weight, whatever their layer, and stretches of equal loss in equal parts. The
    result can be the ``overrides`` of a `PruningConfig`.

    A score that resolves small losses, such as minus the cross-entropy, serves better than
    accuracy.

    Args:
        points: from `sensitivity`, with a sparsity of 0 for each layer.
        sizes: number of weights of each layer, by name.
        sparsity: fraction of all weights to prune, from 0 to the largest in the scan.

    Returns:
        Sparsity by name of the layer's weight.

    Raises:
        ModelError: the scan does not reach the sparsity, lacks 0, has a sparsity twice or a score
            that is not finite, or a layer has no size.

    Example:
        >>> points = [SensitivityPoint("a", s, 0.9 - 0.2 * s) for s in (0.0, 0.8)]
        >>> points += [SensitivityPoint("b", s, 0.9 - 0.6 * s**2) for s in (0.0, 0.2, 0.8)]
        >>> allocate(points, {"a": 100, "b": 100}, 0.5)
        {'a': 0.8, 'b': 0.2}

    Source: for separable convex losses the greedy choice is the best one (Fox 1966, "Discrete
    optimization via marginal analysis").
    """
    check_fraction(sparsity)
    _check_scan(points, sizes)
    stretches = sorted(_stretches(points, sizes))
    found = {point.name: 0.0 for point in points}
    total = sum(sizes[name] for name in found)
    left = sparsity * total
    for _, group in groupby(stretches, key=lambda stretch: stretch[0]):
        equal = [(name, width) for _, name, width in group]
        room = sum(width * sizes[name] for name, width in equal)
        part = min(1.0, left / room) if room else 0.0
        for name, width in equal:
            found[name] += part * width
        left -= part * room
    if left > 1e-9 * total:
        reached = sum(found[name] * sizes[name] for name in found) / total
        raise ModelError(
            f"the scan goes to a sparsity of {reached:.3f} only, below {sparsity}; scan larger "
            "sparsities"
        )
    return found


def _check_scan(points: Sequence[SensitivityPoint], sizes: Mapping[str, int]) -> None:
    scanned: dict[str, list[float]] = {}
    for point in points:
        check_fraction(point.sparsity)
        scanned.setdefault(point.name, []).append(point.sparsity)
        if not math.isfinite(point.score):
            raise ModelError(
                f"the score of {point.name!r} at a sparsity of {point.sparsity} is {point.score}; "
                "leave out that point, or use a metric that is finite"
            )
    for name, found in scanned.items():
        if name not in sizes:
            raise ModelError(f"{name!r} is in the scan without a size; give its number of weights")
        if len(set(found)) < len(found):
            twice = next(s for s in found if found.count(s) > 1)
            raise ModelError(f"the scan has a sparsity of {twice} twice for {name!r}; remove one")
        if min(found) != 0:
            raise ModelError(
                f"the scan of {name!r} begins at a sparsity of {min(found)}; score it at 0 too"
            )


def _stretches(
    points: Sequence[SensitivityPoint], sizes: Mapping[str, int]
) -> Iterator[tuple[float, str, float]]:
    """Yield loss per weight, name and width in sparsity of the edges of each layer's hull."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(points, key=lambda point: point.sparsity):
        hull = curves.setdefault(point.name, [])
        # Where a sparser layer scores better, the better score counts as no loss.
        loss = max(-point.score, hull[-1][1]) if hull else -point.score
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(
            hull[-1], (point.sparsity, loss)
        ):
            hull.pop()
        hull.append((point.sparsity, loss))
    for name, hull in curves.items():
        for start, end in pairwise(hull):
            yield _slope(start, end) / max(1, sizes[name]), name, end[0] - start[0]


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])
