"""Empty figures in one style, and files of them: the same figure gives the same bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from flyweight.container import check_target, replacing
from flyweight.errors import DataError

__all__ = ["HATCH", "INK", "PALE", "in_style", "label_rows", "percent", "save_figure", "sheet"]

INK = "0.15"
PALE = "0.88"
HATCH = "////"
WIDTH = 7.5
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine has it
    "font.size": 8.0,
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
    """A figure ``height`` inches high, and its axes row by row."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    return figure, list(axes.flat)


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

    The same figure gives the same bytes; no date is in them.

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
    with replacing(path) as file:
        figure.savefig(file, format=form, metadata=METADATA[form])
    return Path(path).stat().st_size
