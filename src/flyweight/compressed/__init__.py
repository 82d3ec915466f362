"""Compressed tensors and models: between the lossy rooms, which make them, and the file format."""

from flyweight.compressed.conversion import dtype_name, gradual_underflow, to_numpy, to_torch
from flyweight.compressed.lossless import compress_lossless
from flyweight.compressed.model import CompressedModel, give_shapes_
from flyweight.compressed.module import compress_module, rounded, to_mantissa_bits
from flyweight.compressed.tensor import CompressedTensor, by_channel

__all__ = [
    "CompressedModel",
    "CompressedTensor",
    "by_channel",
    "compress_lossless",
    "compress_module",
    "dtype_name",
    "give_shapes_",
    "gradual_underflow",
    "rounded",
    "to_mantissa_bits",
    "to_numpy",
    "to_torch",
]
