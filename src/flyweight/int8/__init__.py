"""Weights and activations of 8 bits: measured, trained if need be, and exported to run fast."""

from flyweight.int8.export import export_onnx
from flyweight.int8.folding import fold_into_convolutions
from flyweight.int8.layers import Int8Layer, prepare_int8
from flyweight.int8.observer import Observer

__all__ = [
    "Int8Layer",
    "Observer",
    "export_onnx",
    "fold_into_convolutions",
    "prepare_int8",
]
