"""Figures of what pruning did and of what a network can bear, legible in black and white.

Drawn by matplotlib, which nothing else in flyweight loads.
"""

from flyweight.report.layers import filters_figure, sparsity_figure
from flyweight.report.scans import allocation_figure, sensitivity_figure
from flyweight.report.sheets import save_figure

__all__ = [
    "allocation_figure",
    "filters_figure",
    "save_figure",
    "sensitivity_figure",
    "sparsity_figure",
]
