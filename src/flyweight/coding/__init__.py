"""Encode integers and floating-point values as bytes, and decode them, without loss.

Everything here is a pure function of its arguments, and no decision depends on a float: the same
input gives the same bytes on every machine. Unsound bytes raise `flyweight.errors.FormatError`.
"""

from __future__ import annotations

from flyweight.coding.arrays import decode, encode
from flyweight.coding.forms import MAX_LEVELS, CodedTensor, Encoding, TensorFields
from flyweight.coding.groups import encode_tensors, group_small_tensors
from flyweight.coding.huffman import (
    canonical_codewords,
    code_lengths,
    decode_huffman,
    encode_huffman,
)
from flyweight.coding.order_zero import entropy
from flyweight.coding.positions import decode_positions, encode_positions
from flyweight.coding.scalars import (
    DTYPES,
    carrier,
    pack_scalars,
    unpack_scalars,
)
from flyweight.coding.symbols import Effort, PartKind
from flyweight.coding.tensors import (
    decode_channels,
    decode_dense,
    decode_shared,
    decode_tensor,
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
)
from flyweight.coding.uncoded import UncodedTensor, prepare_lossless, prepare_shared

__all__ = [
    "DTYPES",
    "MAX_LEVELS",
    "CodedTensor",
    "Effort",
    "Encoding",
    "PartKind",
    "TensorFields",
    "UncodedTensor",
    "canonical_codewords",
    "carrier",
    "code_lengths",
    "decode",
    "decode_channels",
    "decode_dense",
    "decode_huffman",
    "decode_positions",
    "decode_shared",
    "decode_tensor",
    "encode",
    "encode_alias",
    "encode_constant",
    "encode_dense",
    "encode_huffman",
    "encode_lossless",
    "encode_positions",
    "encode_shared",
    "encode_tensors",
    "entropy",
    "group_small_tensors",
    "pack_scalars",
    "prepare_lossless",
    "prepare_shared",
    "unpack_scalars",
]
