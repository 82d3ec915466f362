"""Few values for many weights, by k-means or on a grid, with zeros kept."""

from flyweight.quantization.comparison import SchemeError, compare_schemes
from flyweight.quantization.fixed_point import SCHEMES, FixedPoint, Grid, Scheme, fixed_point
from flyweight.quantization.kept import kept_weights
from flyweight.quantization.kmeans import kmeans_1d
from flyweight.quantization.optimum import optimal_edges
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    check_price,
    code_bits,
    rate_distortion,
    steps_at_price,
)
from flyweight.quantization.second_order import input_correlations, round_second_order
from flyweight.quantization.sharing import share
from flyweight.quantization.starts import INITIALIZATIONS, Initialization

__all__ = [
    "INITIALIZATIONS",
    "LARGEST_CODE",
    "SCHEMES",
    "FixedPoint",
    "Grid",
    "Initialization",
    "Scheme",
    "SchemeError",
    "check_price",
    "code_bits",
    "compare_schemes",
    "fixed_point",
    "input_correlations",
    "kept_weights",
    "kmeans_1d",
    "optimal_edges",
    "rate_distortion",
    "round_second_order",
    "share",
    "steps_at_price",
]
