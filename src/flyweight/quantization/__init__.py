"""Few values for many weights: k-means weight sharing with zeros kept."""

from flyweight.quantization.kmeans import Initialization, kmeans_1d, share

__all__ = ["Initialization", "kmeans_1d", "share"]
