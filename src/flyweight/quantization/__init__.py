"""Few values for many weights: k-means weight sharing with zeros kept."""

from flyweight.quantization.kept import kept_weights
from flyweight.quantization.kmeans import kmeans_1d
from flyweight.quantization.optimum import optimal_edges
from flyweight.quantization.sharing import share
from flyweight.quantization.starts import INITIALIZATIONS, Initialization

__all__ = [
    "INITIALIZATIONS",
    "Initialization",
    "kept_weights",
    "kmeans_1d",
    "optimal_edges",
    "share",
]
