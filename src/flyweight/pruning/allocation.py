"""How many weights each layer gives, after a scan of what each can bear."""

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
    """Sparsity for each layer, such that the total is right and the layers lose least in sum.

    What a layer loses is how far its score falls in the scan, as the largest convex curve below
    its points has it; the losses of layers are taken to add up. So the stretch of a curve that
    costs least a weight is taken first, whatever its layer, and stretches that cost the same are
    taken to the same part. The result can be the ``overrides`` of a recipe.

    A score that tells small losses, minus the cross-entropy say, serves better than accuracy.

    Arguments:
        points: what `sensitivity` returned, from a sparsity of 0 on.
        sizes: number of weights of each layer.
        sparsity: fraction of all weights to prune, from 0 to the largest in the scan.

    Raises ModelError where the scan does not go so far, does not begin at 0, has a sparsity twice
    or a score that is not finite, or a layer has no size.

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
        alike = [(name, width) for _, name, width in group]
        room = sum(width * sizes[name] for name, width in alike)
        part = min(1.0, left / room) if room else 0.0
        for name, width in alike:
            found[name] += part * width
        left -= part * room
    if left > 1e-9 * total:
        reached = sum(found[name] * sizes[name] for name in found) / total
        raise ModelError(f"the scan goes to a sparsity of {reached:.3f}; {sparsity} was asked for")
    return found


def _check_scan(points: Sequence[SensitivityPoint], sizes: Mapping[str, int]) -> None:
    scanned: dict[str, list[float]] = {}
    for point in points:
        check_fraction(point.sparsity)
        scanned.setdefault(point.name, []).append(point.sparsity)
        if not math.isfinite(point.score):
            raise ModelError(
                f"the score of {point.name!r} at a sparsity of {point.sparsity} is {point.score}; "
                "leave that point out, or score with a number that is finite"
            )
    for name, found in scanned.items():
        if name not in sizes:
            raise ModelError(f"{name!r} is in the scan and has no size; give its number of weights")
        if len(set(found)) < len(found):
            twice = next(s for s in found if found.count(s) > 1)
            raise ModelError(f"the scan has a sparsity of {twice} twice for {name!r}; keep one")
        if min(found) != 0:
            raise ModelError(
                f"the scan of {name!r} begins at a sparsity of {min(found)}; score it at 0 too"
            )


def _stretches(
    points: Sequence[SensitivityPoint], sizes: Mapping[str, int]
) -> Iterator[tuple[float, str, float]]:
    """What a weight costs, whose, and over how much sparsity: the edges of each layer's hull."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(points, key=lambda point: point.sparsity):
        hull = curves.setdefault(point.name, [])
        # A layer that scores better when it is sparser has no reason to be less so.
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
