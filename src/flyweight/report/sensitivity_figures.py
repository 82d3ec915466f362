"""Figures of layer sensitivity and of sparsity allocations."""

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
    figure_grid,
    in_style,
    label_rows,
    percent_x_axis,
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
    """Plot a sensitivity scan: score against the sparsity of one layer, one chart per layer.

    The gray band is the range of all layers.

    Args:
        points: result of `flyweight.pruning.sensitivity`.
        allocation: sparsity by weight name, as `flyweight.pruning.allocate` returns it; marked in
            each chart by a dashed line.
        score: axis label of the score, with its unit.

    Raises:
        ModelError: ``points`` is empty.

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
        raise ModelError("there are no points of a sensitivity scan to plot")
    columns = min(COLUMNS, len(curves))
    rows = ceil(len(curves) / columns)
    figure, charts = figure_grid(rows, columns, height=0.9 + 1.3 * rows, sharex=True, sharey=True)
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
        percent_x_axis(axes)
    for axes in charts[len(order) :]:
        axes.set_visible(False)
    marked = "" if allocation is None else "; dashed: allocated sparsity"
    figure.supxlabel(
        f"sparsity of the layer, the others dense, %; gray: range of all layers{marked}",
        fontsize=8,
    )
    figure.supylabel(score, fontsize=8)
    return figure


@in_style
def allocation_figure(allocations: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plot the sparsity of every layer under one or more allocations.

    Args:
        allocations: for each legend label, the sparsity by weight name: the result of
            `flyweight.pruning.allocate`, or the sparsities of a pruned model. Eight at most.

    Raises:
        ModelError: there is no allocation, more than eight, or their layers differ.

    Example:
        >>> ways = {"scan": {"a": 0.5, "b": 0.9}, "one threshold": {"a": 0.4, "b": 0.95}}
        >>> allocation_figure(ways).axes[0].get_xlabel()
        'sparsity, % of the weights'
    """
    names = [*next(iter(allocations.values()), ())]
    if not 1 <= len(allocations) <= len(LINES):
        raise ModelError(f"a figure shows 1 to {len(LINES)} allocations; got {len(allocations)}")
    if not names:
        raise ModelError("there are no layers to plot")
    for label, sparsities in allocations.items():
        if {*sparsities} != {*names}:
            raise ModelError(f"allocation {label!r} has other layers than the first one")
    figure, (axes,) = figure_grid(1, 1, height=1.1 + 0.19 * len(names))
    spans = [[sparsities[name] for sparsities in allocations.values()] for name in names]
    axes.hlines(range(len(names)), [*map(min, spans)], [*map(max, spans)], color="0.7", zorder=1)
    for (label, sparsities), line in zip(allocations.items(), LINES, strict=False):
        marker = {**line, "linestyle": "none", "clip_on": False}
        axes.plot([sparsities[name] for name in names], range(len(names)), label=label, **marker)
    axes.set_xlabel("sparsity, % of the weights")
    percent_x_axis(axes)
    label_rows(axes, names)
    figure.legend(loc="outside upper right", ncols=len(allocations))
    return figure
