"""Figures of quantized weights: histograms, quantization error, accuracy and file size."""

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
    figure_grid,
    in_style,
    label_axes,
    legend_above,
)

__all__ = ["QuantizedPoint", "accuracy_figure", "error_figure", "histogram_figure"]

Point = TypeVar("Point", SchemeError, "QuantizedPoint")

COLUMNS = 5
BINS = 40


@dataclass(frozen=True)
class QuantizedPoint:
    """Accuracy and file size of a model quantized by one scheme.

    Attributes:
        scheme: legend label of the scheme.
        bits: bits per weight before entropy coding.
        accuracy: from 0 to 1.
        file_bytes: size of the file in bytes.
    """

    scheme: str
    bits: int
    accuracy: float
    file_bytes: int


@in_style
def histogram_figure(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Figure:
    """Plot histograms of the weights of each layer before and after quantization.

    Gray: share of the weights before, in 40 bins. Lines: share of the weights after, at each
    level. The scale is logarithmic, since in a pruned layer most weights are zero.

    Args:
        before: weights by name, of any shape.
        after: weights of the quantized model, with the same names.

    Raises:
        ModelError: ``before`` is empty, or one of its weights is not in ``after``.

    Example:
        >>> from flyweight.quantization import quantize_kmeans
        >>> weight = torch.linspace(-1, 1, 100)
        >>> shared = quantize_kmeans(weight, bits=2).dequantize()
        >>> figure = histogram_figure({"a.weight": weight}, {"a.weight": shared})
        >>> figure.axes[0].get_title()
        'a: 4 levels'

    Source: Han et al. 2016, "Deep compression", figure 6.
    """
    if not before:
        raise ModelError("there are no weights to plot")
    if missing := [name for name in before if name not in after]:
        raise ModelError(f"weight {missing[0]!r} is missing after quantization")
    columns = min(COLUMNS, len(before))
    rows = ceil(len(before) / columns)
    figure, charts = figure_grid(rows, columns, height=0.8 + 1.4 * rows, sharey=True)
    for axes, (name, weight) in zip(charts, before.items(), strict=False):
        old = weight.detach().flatten().double().cpu()
        levels, counts = torch.unique(after[name].detach().double().cpu(), return_counts=True)
        heights, edges = np.histogram(old.numpy(), BINS)
        label = f"before, in {BINS} bins"
        axes.stairs(100 * heights / old.numel(), edges, fill=True, color="0.8", label=label)
        axes.vlines(
            levels.numpy(),
            1e-3,
            (100 * counts / counts.sum()).numpy(),
            color=INK,
            linewidth=0.8 if levels.numel() <= 64 else 0.3,
            label="after, at each level",
        )
        axes.set_yscale("log")
        axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axes.minorticks_off()
        axes.set_ylim(0.01, 150)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(f"{name.removesuffix('.weight')}: {levels.numel()} levels", fontsize=6.5)
        axes.tick_params(labelsize=6.5)
    for axes in charts[len(before) :]:
        axes.set_visible(False)
    legend_above(figure, charts[0])
    figure.supxlabel("weight", fontsize=8)
    figure.supylabel("weights of the layer, %, log scale", fontsize=8)
    return figure


@in_style
def error_figure(points: Sequence[SchemeError]) -> Figure:
    """Plot quantization error against entropy in bits per weight, one line per scheme.

    The right chart shows the error × 4^(bits per weight): the distance to the rate-distortion
    bound, which is 1 for normally distributed weights.

    Args:
        points: result of `flyweight.quantization.compare_schemes`; at most eight schemes.

    Raises:
        ModelError: there are no points, or more than eight schemes.

    Example:
        >>> points = [SchemeError("k-means", b, b - 0.1, 4.0**-b) for b in (2, 3, 4)]
        >>> error_figure(points).axes[0].get_xlabel()
        'entropy, bits per weight'
    """
    curves = _by_scheme(points)
    figure, (left, right) = figure_grid(1, 2, height=3.4)
    for (scheme, found), line in zip(curves.items(), LINES, strict=False):
        rates, errors = [p.bits_per_weight for p in found], [p.error for p in found]
        left.plot(rates, errors, label=scheme, **line)
        right.plot(rates, [p.error * 4**p.bits_per_weight for p in found], label=scheme, **line)
    rate = "entropy, bits per weight"
    label_axes(left, "", rate, "squared error over squared weights, log scale", log=True)
    label_axes(right, "", rate, "error × 4^(bits per weight), log scale", log=True)
    for axis in (right.yaxis.set_major_formatter, right.yaxis.set_minor_formatter):
        axis(LogFormatter(minor_thresholds=(1.5, 0.5)))
    legend_above(figure, left)
    return figure


@in_style
def accuracy_figure(
    points: Sequence[QuantizedPoint],
    *,
    dense_accuracy: float | None = None,
    minimum_accuracy: float | None = None,
) -> Figure:
    """Plot accuracy and file size against bits per weight, one line per scheme.

    Args:
        points: at most eight schemes.
        dense_accuracy: accuracy of the model before quantization, from 0 to 1; marked by a line.
        minimum_accuracy: lower end of the accuracy axis, from 0 to 1. Points below it are left
            out, so that one outlier does not flatten the other lines.

    Raises:
        ModelError: there are no points, or more than eight schemes.

    Example:
        >>> points = [QuantizedPoint("k-means", b, 1 - 0.1 / b, 1000 * b) for b in (2, 3, 4)]
        >>> [axes.get_ylabel() for axes in accuracy_figure(points).axes]
        ['accuracy, %', 'file, kB']
    """
    curves = _by_scheme(points)
    figure, (left, right) = figure_grid(1, 2, height=3.4)
    if dense_accuracy is not None:
        dense = 100 * dense_accuracy
        left.axhline(dense, color="0.6", linewidth=0.9, zorder=1)
        left.annotate("dense", (0.01, dense), xycoords=("axes fraction", "data"), va="bottom")
    for (scheme, found), line in zip(curves.items(), LINES, strict=False):
        bits = [p.bits for p in found]
        left.plot(bits, [100 * p.accuracy for p in found], label=scheme, **line)
        right.plot(bits, [p.file_bytes / 1000 for p in found], label=scheme, **line)
    if minimum_accuracy is not None:
        left.set_ylim(bottom=100 * minimum_accuracy)
    for axes, label in ((left, "accuracy, %"), (right, "file, kB")):
        label_axes(axes, "", "bits per weight before coding", label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylim(bottom=0)
    legend_above(figure, left)
    return figure


def _by_scheme(points: Sequence[Point]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.bits):
        curves.setdefault(point.scheme, []).append(point)
    if not 1 <= len(curves) <= len(LINES):
        raise ModelError(f"a figure shows 1 to {len(LINES)} schemes; got {len(curves)}")
    return {point.scheme: curves[point.scheme] for point in points}
