"""Draw figures of sparsity, sensitivity and quantized weights."""

from flyweight.report.figure_style import (
    HATCH,
    INK,
    LINES,
    PALE,
    figure_grid,
    in_style,
    label_axes,
    label_rows,
    legend_above,
    percent_x_axis,
    save_figure,
)
from flyweight.report.sensitivity_figures import (
    allocation_figure,
    sensitivity_figure,
)
from flyweight.report.sparsity_figures import (
    filters_figure,
    sparsity_figure,
)
from flyweight.report.weight_figures import (
    QuantizedPoint,
    accuracy_figure,
    error_figure,
    histogram_figure,
)

__all__ = [
    "HATCH",
    "INK",
    "LINES",
    "PALE",
    "QuantizedPoint",
    "accuracy_figure",
    "allocation_figure",
    "error_figure",
    "figure_grid",
    "filters_figure",
    "histogram_figure",
    "in_style",
    "label_axes",
    "label_rows",
    "legend_above",
    "percent_x_axis",
    "save_figure",
    "sensitivity_figure",
    "sparsity_figure",
]
