"""Draw figures of sparsity, sensitivity and quantized weights."""

from flyweight.report.figure_style import (
    HATCH,
    INK,
    LINES,
    PALE,
    in_style,
    label_axes,
    label_rows,
    legend_above,
    percent,
    save_figure,
    sheet,
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
    error_figure,
    quantized_figure,
    values_figure,
)

__all__ = [
    "HATCH",
    "INK",
    "LINES",
    "PALE",
    "QuantizedPoint",
    "allocation_figure",
    "error_figure",
    "filters_figure",
    "in_style",
    "label_axes",
    "label_rows",
    "legend_above",
    "percent",
    "quantized_figure",
    "save_figure",
    "sensitivity_figure",
    "sheet",
    "sparsity_figure",
    "values_figure",
]
