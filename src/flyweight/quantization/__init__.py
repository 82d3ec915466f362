"""Few values for many weights, by k-means or on a grid, with zeros kept."""

from flyweight.quantization.fixed_point import SCHEMES, FixedPoint, Grid, Scheme, fixed_point
from flyweight.quantization.kept import kept_weights
from flyweight.quantization.kmeans import kmeans_1d
from flyweight.quantization.optimum import optimal_edges
from flyweight.quantization.sharing import share
from flyweight.quantization.starts import INITIALIZATIONS, Initialization

__all__ = [
    "INITIALIZATIONS",
    "SCHEMES",
    "FixedPoint",
    "Grid",
    "Initialization",
    "Scheme",
    "fixed_point",
    "kept_weights",
    "kmeans_1d",
    "optimal_edges",
    "share",
]
