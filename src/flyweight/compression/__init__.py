"""Compress any model: prune, train, quantize, encode, and prove what the file does."""

from flyweight.compression.arguments import Evaluate
from flyweight.compression.evaluation import Evaluation, evaluate
from flyweight.compression.result import CompressionReport, course_ratio
from flyweight.compression.run import compress, remove_states

__all__ = [
    "CompressionReport",
    "Evaluate",
    "Evaluation",
    "compress",
    "course_ratio",
    "evaluate",
    "remove_states",
]
