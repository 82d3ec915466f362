"""Empty figures in one style, and files of them: the same figure gives the same bytes."""

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

from flyweight.format import check_target, replacing
from flyweight.errors import DataError

__all__ = [
    "HATCH",
    "INK",
    "LINES",
    "PALE",
    "in_style",
    "label_axes",
    "label_rows",
    "legend_above",
    "percent",
    "save_figure",
    "sheet",
]

INK = "0.15"
PALE = "0.88"
HATCH = "////"
#: Each differs from the others in dashes, in marker and in how dark it is.
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
_LETTERS, _LINE = 105, 9  # that the width has room for, and that a line in the legend takes
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine has it
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
#: Whatever else a program or a user set for matplotlib; a decorator of what draws.
in_style = style.context(["default", STYLE])
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def sheet(rows: int, columns: int, *, height: float, **settings: Any) -> tuple[Figure, list[Axes]]:
    """A figure 7.5 inches wide and ``height`` high, and its axes row by row.

    ``settings`` go to `matplotlib.figure.Figure.subplots`.

    Example:
        >>> figure, (left, right) = sheet(1, 2, height=3, sharey=True)
        >>> figure.get_size_inches().tolist()
        [7.5, 3.0]
    """
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, list(axes.flat)


def label_axes(axes: Axes, title: str, x: str, y: str, *, log: bool = False) -> None:
    """Title and both axes, with their units; with ``log`` the y axis is logarithmic."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")


def legend_above(figure: Figure, axes: Axes) -> None:
    """The lines of ``axes`` named once for the whole figure, above it."""
    lines, names = axes.get_legend_handles_labels()
    wide = [math.ceil(len(names) / rows) for rows in range(1, len(names) + 1)]
    columns = next((some for some in wide if _letters(names, some) <= _LETTERS), 1)
    figure.legend(lines, names, loc="outside upper center", ncols=columns, handlelength=4)


def _letters(names: Sequence[str], columns: int) -> int:
    """How wide a legend is, filled column after column; a line takes the room of some letters."""
    places = np.array_split(np.arange(len(names)), columns)
    return sum(_LINE + max(len(names[place]) for place in some) for some in places)


def percent(axes: Axes) -> None:
    """Show fractions from 0 to 1 along x as per cent."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """One row a weight, the first at the top; ``.weight`` goes without saying."""
    axes.set_yticks(range(len(names)), [name.removesuffix(".weight") for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


@in_style
def save_figure(figure: Figure, path: str | os.PathLike[str]) -> int:
    """Write a figure as ``.svg`` or ``.png``, whole or not at all; return the size in bytes.

    The same figure gives the same bytes; no date is in them. Both are kept small: coordinates have
    a tenth of a point, pixels one of 64 colours.

    Raises DataError for a path that ends otherwise, CheckpointError where no file can be.

    Example:
        >>> save_figure(Figure(), "figure.pdf")
        Traceback (most recent call last):
        flyweight.errors.DataError: a figure is written as .svg or .png; found 'figure.pdf'
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in METADATA:
        raise DataError(f"a figure is written as .svg or .png; found {os.fspath(path)!r}")
    check_target(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, metadata=METADATA[form])
    small = _few_digits(drawn.getvalue()) if form == "svg" else _few_colours(drawn)
    with replacing(path) as file:
        file.write(small)
    return len(small)


def _few_digits(svg: bytes) -> bytes:
    """Coordinates to a tenth of a point, those below 10 to a hundredth; scales as they are."""

    def rounded(attribute: re.Match[bytes]) -> bytes:
        return re.sub(rb"(\d\d\.\d|\.\d\d)\d+", rb"\1", attribute.group())

    svg = re.sub(rb'(?<= )(?:d|x|y)="[^"]*"|translate\([^)]*\)', rounded, svg)
    return re.sub(rb"[ \t]+$", b"", svg, flags=re.MULTILINE)


def _few_colours(png: io.BytesIO) -> bytes:
    """Each pixel one of 64 colours."""
    small = io.BytesIO()
    image = Image.open(png).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue()
