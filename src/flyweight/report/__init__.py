"""Figures of what pruning and quantisation do to a network, legible in black and white.

Drawn by matplotlib, which nothing else in flyweight loads.
"""

from flyweight.report.layers import filters_figure, sparsity_figure
from flyweight.report.scans import allocation_figure, sensitivity_figure
from flyweight.report.sheets import (
    LINES,
    in_style,
    label_axes,
    legend_above,
    save_figure,
    sheet,
)
from flyweight.report.weights import (
    QuantizedPoint,
    error_figure,
    quantized_figure,
    values_figure,
)

__all__ = [
    "LINES",
    "QuantizedPoint",
    "allocation_figure",
    "error_figure",
    "filters_figure",
    "in_style",
    "label_axes",
    "legend_above",
    "quantized_figure",
    "save_figure",
    "sensitivity_figure",
    "sheet",
    "sparsity_figure",
    "values_figure",
]
