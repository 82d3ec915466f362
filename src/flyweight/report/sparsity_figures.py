"""Figures of the sparsity of layers and filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.pruning import Summary
from flyweight.report.figure_style import (
    HATCH,
    INK,
    PALE,
    figure_grid,
    in_style,
    label_rows,
    percent_x_axis,
)

__all__ = ["filters_figure", "sparsity_figure"]


@in_style
def sparsity_figure(summary: Summary) -> Figure:
    """Plot the zero and non-zero weights and the sparsity of every layer.

    Args:
        summary: result of `flyweight.pruning.summarize_sparsity`.

    Raises:
        ModelError: the summary has no layers.

    Example:
        >>> from torch import nn
        >>> from flyweight.pruning import summarize_sparsity
        >>> figure = sparsity_figure(summarize_sparsity(nn.Linear(8, 4)))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['weights, thousands', 'sparsity, % of the weights']
    """
    layers = summary.layers
    if not layers:
        raise ModelError("there are no layers to plot")
    rows = range(len(layers))
    figure, (counts, shares) = figure_grid(1, 2, height=1.1 + 0.19 * len(layers), sharey=True)
    nonzeros = [layer.nonzeros / 1000 for layer in layers]
    zeros = [(layer.parameters - layer.nonzeros) / 1000 for layer in layers]
    frame: dict[str, Any] = {"height": 0.7, "edgecolor": INK, "linewidth": 0.6}
    counts.barh(rows, nonzeros, color=INK, label="non-zero", **frame)
    counts.barh(rows, zeros, left=nonzeros, color="white", hatch=HATCH, label="zero", **frame)
    counts.set_xlabel("weights, thousands")
    label_rows(counts, [layer.name for layer in layers])

    shares.hlines(rows, 0, [layer.sparsity for layer in layers], color="0.6", linewidth=0.8)
    shares.plot(
        [layer.sparsity for layer in layers], rows, "o", color=INK, clip_on=False, label="layer"
    )
    shares.axvline(summary.sparsity, color=INK, linestyle="--", label="all layers")
    shares.set_xlabel("sparsity, % of the weights")
    percent_x_axis(shares)
    label_rows(shares, [layer.name for layer in layers])
    figure.legend(loc="outside upper right", ncols=4)
    figure.suptitle(
        f"{summary.nonzeros:,} of {summary.parameters:,} weights are non-zero", x=0.01, ha="left"
    )
    return figure


@in_style
def filters_figure(sums: Mapping[str, Tensor]) -> Figure:
    """Plot the L1 norm of every filter, layer by layer, and count the zero filters.

    Structured sparsity puts whole filters at 0; unstructured sparsity leaves few or none there.

    Args:
        sums: L1 norms of the filters by weight name, as `flyweight.pruning.filter_sums` returns
            them.

    Raises:
        ModelError: ``sums`` is empty.

    Example:
        >>> import torch
        >>> figure = filters_figure({"conv1.weight": torch.tensor([3.0, 0.0, 1.0])})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['1 / 3', 'zero / all']

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets", figure 2 (filters
    ranked by L1 norm).
    """
    if not sums:
        raise ModelError("there are no filters to plot")
    figure, (axes,) = figure_grid(1, 1, height=1.1 + 0.19 * len(sums))
    place: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "annotation_clip": False,
        "va": "center",
    }
    total = dead = 0
    for row, values in enumerate(sums.values()):
        alive = values[values != 0].tolist()
        empty = int((values == 0).sum())
        axes.plot(alive, [row] * len(alive), "|", color=INK, markersize=7, markeredgewidth=0.7)
        if empty:
            axes.plot(0, row, "s", color="white", markeredgecolor=INK, clip_on=False, zorder=3)
        axes.annotate(f"{empty} / {values.numel()}", (1.01, row), **place)
        total += values.numel()
        dead += empty
    axes.annotate("zero / all", (1.01, -1), **place)
    largest = max(float(values.max()) for values in sums.values() if values.numel())
    axes.set_xlim(0, 1.03 * largest or 1.0)
    axes.set_xlabel("L1 norm of a filter")
    label_rows(axes, [*sums])
    for row in range(len(sums)):
        axes.axhline(row, color=PALE, linewidth=0.6, zorder=0)
    figure.suptitle(f"{dead:,} of {total:,} filters are zero", x=0.01, ha="left")
    return figure
