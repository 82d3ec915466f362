"""Quantize weights and activations to 8 bits, and export to ONNX."""

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
