"""What quantisation made of weights: their values, and what error, accuracy and bytes it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.quantization import SchemeError
from flyweight.report.figure_style import (
    INK,
    LINES,
    in_style,
    label_axes,
    legend_above,
    sheet,
)

__all__ = ["QuantizedPoint", "error_figure", "quantized_figure", "values_figure"]

Point = TypeVar("Point", SchemeError, "QuantizedPoint")

COLUMNS = 5
BINS = 40


@dataclass(frozen=True)
class QuantizedPoint:
    """A network quantised by a scheme: bits of a value, accuracy (0 to 1) and bytes of the file."""

    scheme: str
    bits: int
    accuracy: float
    file_bytes: int


@in_style
def values_figure(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Figure:
    """Histograms of the weights of each layer before and after, a small chart for each.

    Grey: how many of the weights there were in each of 40 bins. Lines: how many are at each value
    there is now, the values being few. The share is on a logarithmic scale, since after pruning
    most weights are at one value, zero.

    Arguments:
        before: weights by name, of any shape.
        after: those of the quantised network, of the same names.

    Raises ModelError where there are none, or a weight of ``before`` is not in ``after``.

    Example:
        >>> from flyweight.quantization import quantize_kmeans
        >>> weight = torch.linspace(-1, 1, 100)
        >>> shared = quantize_kmeans(weight, bits=2).dequantize()
        >>> figure = values_figure({"a.weight": weight}, {"a.weight": shared})
        >>> figure.axes[0].get_title()
        'a: 4 values'

    Source: Han et al. 2016, "Deep compression", §3.2, draw a layer so.
    """
    if not before:
        raise ModelError("there are no weights to draw")
    if missing := [name for name in before if name not in after]:
        raise ModelError(f"of the weight {missing[0]!r} there are no values after quantisation")
    columns = min(COLUMNS, len(before))
    rows = ceil(len(before) / columns)
    figure, charts = sheet(rows, columns, height=0.8 + 1.4 * rows, sharey=True)
    for axes, (name, weight) in zip(charts, before.items(), strict=False):
        old = weight.detach().flatten().double().cpu()
        levels, counts = torch.unique(after[name].detach().double().cpu(), return_counts=True)
        heights, edges = np.histogram(old.numpy(), BINS)
        told = f"before, in each of {BINS} bins"
        axes.stairs(100 * heights / old.numel(), edges, fill=True, color="0.8", label=told)
        axes.vlines(
            levels.numpy(),
            1e-3,
            (100 * counts / counts.sum()).numpy(),
            color=INK,
            linewidth=0.8 if levels.numel() <= 64 else 0.3,
            label="after, at each value",
        )
        axes.set_yscale("log")
        axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axes.minorticks_off()
        axes.set_ylim(0.01, 150)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(f"{name.removesuffix('.weight')}: {levels.numel()} values", fontsize=6.5)
        axes.tick_params(labelsize=6.5)
    for axes in charts[len(before) :]:
        axes.set_visible(False)
    legend_above(figure, charts[0])
    figure.supxlabel("weight", fontsize=8)
    figure.supylabel("weights of the layer, %, log scale", fontsize=8)
    return figure


@in_style
def error_figure(points: Sequence[SchemeError]) -> Figure:
    """Squared error against bits per weight, a line for each scheme.

    On the right the error is multiplied by four to the bits per weight, which tells schemes apart:
    of normally distributed weights none gets below 1 there.

    ``points`` are what `flyweight.quantization.compare_schemes` returned, eight schemes at most.

    Raises ModelError where there are none, or more schemes.

    Example:
        >>> points = [SchemeError("k-means", b, b - 0.1, 4.0**-b) for b in (2, 3, 4)]
        >>> error_figure(points).axes[0].get_xlabel()
        'entropy of the values, bits per weight'
    """
    curves = _by_scheme(points)
    figure, (left, right) = sheet(1, 2, height=3.4)
    for (scheme, found), line in zip(curves.items(), LINES, strict=False):
        rates, errors = [p.bits_per_weight for p in found], [p.error for p in found]
        left.plot(rates, errors, label=scheme, **line)
        right.plot(rates, [p.error * 4**p.bits_per_weight for p in found], label=scheme, **line)
    rate = "entropy of the values, bits per weight"
    label_axes(left, "", rate, "squared error over squared weights, log scale", log=True)
    label_axes(right, "", rate, "that × 4^(bits per weight), log scale", log=True)
    for axis in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
        axis(LogFormatter(minor_thresholds=(1.5, 0.5)))
    legend_above(figure, left)
    return figure


@in_style
def quantized_figure(
    points: Sequence[QuantizedPoint], *, dense_accuracy: float | None = None
) -> Figure:
    """Accuracy, and bytes of the file, against the bits of a value; a line for each scheme.

    Arguments:
        points: of eight schemes at most.
        dense_accuracy: of the network before, 0 to 1, to be marked.

    Raises ModelError where there are none, or more schemes.

    Example:
        >>> points = [QuantizedPoint("k-means", b, 1 - 0.1 / b, 1000 * b) for b in (2, 3, 4)]
        >>> [axes.get_ylabel() for axes in quantized_figure(points).axes]
        ['accuracy, %', 'file, kB']
    """
    curves = _by_scheme(points)
    figure, (left, right) = sheet(1, 2, height=3.4)
    if dense_accuracy is not None:
        dense = 100 * dense_accuracy
        left.axhline(dense, color="0.6", linewidth=0.9, zorder=1)
        left.annotate("dense", (0.01, dense), xycoords=("axes fraction", "data"), va="bottom")
    for (scheme, found), line in zip(curves.items(), LINES, strict=False):
        bits = [p.bits for p in found]
        left.plot(bits, [100 * p.accuracy for p in found], label=scheme, **line)
        right.plot(bits, [p.file_bytes / 1000 for p in found], label=scheme, **line)
    for axes, told in ((left, "accuracy, %"), (right, "file, kB")):
        label_axes(axes, "", "bits of a value", told)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(bottom=0)
    legend_above(figure, left)
    return figure


def _by_scheme(points: Sequence[Point]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.bits):
        curves.setdefault(point.scheme, []).append(point)
    if not 1 <= len(curves) <= len(LINES):
        raise ModelError(f"1 to {len(LINES)} schemes are drawn; found {len(curves)}")
    return {point.scheme: curves[point.scheme] for point in points}
