"""What the figures of the labs share: lines that differ without colour, SVG and PNG of each."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["LINES", "label", "legend_above", "new_figure", "save_figure", "style"]

# Each differs from the others in dashes, in marker and in how dark it is (Okabe & Ito's colours).
LINES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "-", "marker": "o"},
    {"color": "#0072B2", "linestyle": "--", "marker": "s"},
    {"color": "#D55E00", "linestyle": "-.", "marker": "^"},
    {"color": "#009E73", "linestyle": ":", "marker": "D"},
    {"color": "#CC79A7", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},
)
_STYLE = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": 9,
    "lines.markersize": 4,
    "lines.linewidth": 1.3,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "flyweight",  # the same figure is the same file
}


def style() -> AbstractContextManager[None]:
    """The look of all figures, while they are drawn and saved."""
    found: AbstractContextManager[None] = mpl.rc_context(_STYLE)
    return found


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` × ``height`` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def label(axes: Axes, title: str, x: str, y: str, *, log: bool = False) -> None:
    """Title and axes; with ``log`` the y axis is logarithmic."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")


def legend_above(figure: Figure, axes: Axes) -> None:
    """The lines of ``axes`` named once for the whole figure, above it."""
    lines, names = axes.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), handlelength=4)


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``path`` with the endings .svg and .png; the same figure gives the same files.

    Both are kept small: coordinates have a hundredth of a point, pixels one of 64 colours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    rounded = re.sub(r"(\d\.\d\d)\d+", r"\1", text.getvalue())
    rounded = re.sub(r"[ \t]+$", "", rounded, flags=re.MULTILINE)
    path.with_suffix(".svg").write_text(rounded, encoding="utf-8")
    figure.savefig(pixels, format="png", dpi=110, metadata={"Software": None})
    image = Image.open(pixels).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(path.with_suffix(".png"), optimize=True)
