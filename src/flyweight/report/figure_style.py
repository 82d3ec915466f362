"""Figure style, figure grids, and reproducible SVG, PNG and PDF files."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from flyweight._files import check_output, write_atomic
from flyweight.errors import DataError

__all__ = [
    "HATCH",
    "INK",
    "LINES",
    "PALE",
    "figure_grid",
    "in_style",
    "label_axes",
    "label_rows",
    "legend_above",
    "percent_x_axis",
    "save_figure",
]

#: Gray level of lines and text.
INK = "0.15"
#: Gray level of bands and backgrounds.
PALE = "0.88"
#: Hatch of bars of zero weights.
HATCH = "////"
#: Line styles that differ in dashes, marker and gray level.
LINES: tuple[dict[str, Any], ...] = (
    {"color": INK, "linestyle": "-", "marker": "o"},
    {"color": "0.45", "linestyle": "--", "marker": "s"},
    {"color": INK, "linestyle": "-.", "marker": "^", "markerfacecolor": "white"},
    {"color": "0.55", "linestyle": ":", "marker": "D"},
    {"color": "0.3", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "0.6", "linestyle": "-", "marker": "x"},
    {"color": INK, "linestyle": (0, (1, 2)), "marker": "*"},
    {"color": "0.5", "linestyle": (0, (4, 3)), "marker": "P", "markerfacecolor": "white"},
)
WIDTH = 7.5
_LEGEND_WIDTH, _LINE_SAMPLE = 105, 9  # in characters: of a row, of the line sample of an entry
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # shipped with matplotlib, the same on every machine
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "figure.titlesize": 9.0,
    "grid.color": "0.85",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.markersize": 4.0,
    "savefig.dpi": 150,
    "svg.hashsalt": "flyweight",
}
#: Decorator of functions that draw: apply this style, whatever matplotlib is configured to.
in_style = style.context(["default", STYLE])
METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


def figure_grid(
    rows: int, columns: int, *, height: float, **settings: Any
) -> tuple[Figure, list[Axes]]:
    """Create a figure with a grid of axes; return it and the axes row by row.

    Args:
        rows: number of rows.
        columns: number of columns.
        height: height in inches; the width is 7.5 inches.
        settings: passed to `matplotlib.figure.Figure.subplots`.

    Example:
        >>> figure, (left, right) = figure_grid(1, 2, height=3, sharey=True)
        >>> figure.get_size_inches().tolist()
        [7.5, 3.0]
    """
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, list(axes.flat)


def label_axes(axes: Axes, title: str, x: str, y: str, *, log: bool = False) -> None:
    """Set the title and both axis labels; with ``log``, make the y axis logarithmic."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")


def legend_above(figure: Figure, axes: Axes) -> None:
    """Add one legend for the whole figure above it, with the lines of ``axes``."""
    lines, names = axes.get_legend_handles_labels()
    choices = [math.ceil(len(names) / rows) for rows in range(1, len(names) + 1)]
    columns = next((n for n in choices if _legend_width(names, n) <= _LEGEND_WIDTH), 1)
    figure.legend(lines, names, loc="outside upper center", ncols=columns, handlelength=4)


def _legend_width(names: Sequence[str], columns: int) -> int:
    """Return the width in characters of a legend that is filled column by column."""
    indices = np.array_split(np.arange(len(names)), columns)
    return sum(_LINE_SAMPLE + max(len(names[index]) for index in column) for column in indices)


def percent_x_axis(axes: Axes) -> None:
    """Show an x axis of fractions from 0 to 1 in percent."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of a chart by weight, first at the top, without the suffix ``.weight``."""
    axes.set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


@in_style
def save_figure(figure: Figure, path: str | os.PathLike[str]) -> int:
    """Write a figure atomically as SVG, PNG or PDF; return the file size in bytes.

    The same figure always gives the same bytes, without a date. Files are reduced in size: SVG
    coordinates are rounded to a tenth of a point, PNG pixels to 64 colors.

    Args:
        figure: figure to write.
        path: ends in ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        DataError: the suffix of the path is another.
        CheckpointError: no file can be written there.

    Example:
        >>> save_figure(Figure(), "figure.jpg")
        Traceback (most recent call last):
        flyweight.errors.DataError: 'figure.jpg' is not a figure file; use .pdf, .png or .svg
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in METADATA:
        raise DataError(f"{os.fspath(path)!r} is not a figure file; use .pdf, .png or .svg")
    check_output(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, metadata=METADATA[form])
    data = drawn.getvalue()
    if form == "svg":
        data = _round_coordinates(data)
    elif form == "png":
        data = _reduce_palette(data)
    return write_atomic(path, data)


def _round_coordinates(svg: bytes) -> bytes:
    """Round coordinates to 0.1 point, those below 10 to 0.01; scale factors stay exact."""

    def rounded(attribute: re.Match[bytes]) -> bytes:
        return re.sub(rb"(\d\d\.\d|\.\d\d)\d+", rb"\1", attribute.group())

    svg = re.sub(rb'(?<= )(?:d|x|y)="[^"]*"|translate\([^)]*\)', rounded, svg)
    return re.sub(rb"[ \t]+$", b"", svg, flags=re.MULTILINE)


def _reduce_palette(png: bytes) -> bytes:
    """Reduce an image to 64 colors."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()
