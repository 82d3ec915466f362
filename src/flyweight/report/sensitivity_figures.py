"""What each layer can bear, and what was given to each because of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from matplotlib.figure import Figure

from flyweight.errors import ModelError
from flyweight.pruning import SensitivityPoint
from flyweight.report.figure_style import (
    INK,
    LINES,
    PALE,
    in_style,
    label_rows,
    percent,
    sheet,
)

__all__ = ["allocation_figure", "sensitivity_figure"]

COLUMNS = 5


@in_style
def sensitivity_figure(
    points: Sequence[SensitivityPoint],
    *,
    allocation: Mapping[str, float] | None = None,
    score: str = "score",
) -> Figure:
    """Score against the sparsity of one layer, a small chart for each; the band holds all layers.

    Arguments:
        points: what `sensitivity` returned.
        allocation: sparsity by name, what `allocate` returned, to be marked in each chart.
        score: what the scores are, with their unit, for the axis.

    Raises ModelError where there are no points.

    Example:
        >>> points = [SensitivityPoint("conv1.weight", s, 0.9 - 0.5 * s) for s in (0.0, 0.5, 0.9)]
        >>> figure = sensitivity_figure(points, allocation={"conv1.weight": 0.6})
        >>> figure.axes[0].get_title()
        'conv1'

    Source: Han et al. 2015, "Learning both weights and connections", figure 6.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in sorted(points, key=lambda point: point.sparsity):
        curves.setdefault(point.name, []).append((point.sparsity, point.score))
    if not curves:
        raise ModelError("there are no points of a scan to draw")
    columns = min(COLUMNS, len(curves))
    rows = ceil(len(curves) / columns)
    figure, charts = sheet(rows, columns, height=0.9 + 1.3 * rows, sharex=True, sharey=True)
    order = {point.name: None for point in points}
    grid = sorted({point.sparsity for point in points})
    scores = [
        np.interp(grid, [x for x, _ in curve], [y for _, y in curve]) for curve in curves.values()
    ]
    band = np.min(scores, axis=0), np.max(scores, axis=0)
    for axes, name in zip(charts, order, strict=False):
        axes.fill_between(grid, *band, color=PALE, linewidth=0, zorder=1)
        axes.plot(
            *zip(*curves[name], strict=True), "o-", color=INK, markersize=3, clip_on=False, zorder=3
        )
        if allocation is not None and name in allocation:
            axes.axvline(allocation[name], color=INK, linestyle="--", linewidth=0.9, zorder=2)
        axes.set_title(name.removesuffix(".weight"), fontsize=7)
        percent(axes)
    for axes in charts[len(order) :]:
        axes.set_visible(False)
    marked = "" if allocation is None else "; dashed: what the layer is allocated"
    figure.supxlabel(
        f"sparsity of the one layer that is pruned, %; grey: range of all layers{marked}",
        fontsize=8,
    )
    figure.supylabel(score, fontsize=8)
    return figure


@in_style
def allocation_figure(allocations: Mapping[str, Mapping[str, float]]) -> Figure:
    """Sparsity that each layer gets, one way beside another.

    ``allocations`` has by the name of a way, for the legend, the sparsity by name of each weight:
    what `allocate` returned, or what a threshold common to all made of a network. Six ways at most.

    Raises ModelError where there are none, or the ways are of different layers.

    Example:
        >>> ways = {"scan": {"a": 0.5, "b": 0.9}, "one threshold": {"a": 0.4, "b": 0.95}}
        >>> allocation_figure(ways).axes[0].get_xlabel()
        'sparsity, % of the weights'
    """
    names = [*next(iter(allocations.values()), ())]
    if not 1 <= len(allocations) <= len(LINES):
        raise ModelError(f"1 to {len(LINES)} allocations are drawn; found {len(allocations)}")
    if not names:
        raise ModelError("there are no layers to draw")
    for way, found in allocations.items():
        if {*found} != {*names}:
            raise ModelError(f"the allocation {way!r} is of other layers than the first")
    figure, (axes,) = sheet(1, 1, height=1.1 + 0.19 * len(names))
    spans = [[found[name] for found in allocations.values()] for name in names]
    axes.hlines(range(len(names)), [*map(min, spans)], [*map(max, spans)], color="0.7", zorder=1)
    for (way, found), line in zip(allocations.items(), LINES, strict=False):
        places = [found[name] for name in names]
        marks = {**line, "linestyle": "none", "clip_on": False}
        axes.plot(places, range(len(names)), label=way, **marks)
    axes.set_xlabel("sparsity, % of the weights")
    percent(axes)
    label_rows(axes, names)
    figure.legend(loc="outside upper right", ncols=len(allocations))
    return figure
