"""Integers and numbers to bytes and back, without loss and without floats in any decision.

Everything here is a pure function of its arguments: the same input gives the same bytes on
every machine. Whatever is wrong with bytes that are read is a `flyweight.errors.FormatError`.
"""

from __future__ import annotations

from flyweight.coding.arrays import decode, encode
from flyweight.coding.coders import Effort
from flyweight.coding.entropy import entropy
from flyweight.coding.forms import MAX_LEVELS, CodedTensor, Encoding
from flyweight.coding.huffman import (
    canonical_codewords,
    code_lengths,
    decode_symbols,
    encode_symbols,
)
from flyweight.coding.groups import join
from flyweight.coding.positions import decode_positions, encode_positions
from flyweight.coding.scalars import (
    DTYPES,
    carrier,
    pack_scalars,
    unpack_scalars,
)
from flyweight.coding.symbols import PartKind
from flyweight.coding.tensors import (
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
    decode_channels,
    decode_dense,
    decode_shared,
    decode_tensor,
)

__all__ = [
    "DTYPES",
    "MAX_LEVELS",
    "CodedTensor",
    "Effort",
    "Encoding",
    "PartKind",
    "canonical_codewords",
    "carrier",
    "encode_alias",
    "encode_constant",
    "encode_dense",
    "code_lengths",
    "encode_lossless",
    "encode_shared",
    "decode",
    "decode_channels",
    "decode_dense",
    "decode_positions",
    "decode_shared",
    "decode_symbols",
    "decode_tensor",
    "encode",
    "encode_positions",
    "encode_symbols",
    "entropy",
    "join",
    "pack_scalars",
    "unpack_scalars",
]
