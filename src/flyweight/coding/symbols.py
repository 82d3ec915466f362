"""Encode the symbols of a tensor by the coder that gives fewest bytes, and decode them.

The plain coder is Huffman with the positions of the symbols that are not 0 coded apart, or zeros
in the alphabet where that is smaller; in the other coders zeros are in the alphabet.

Source: Han et al. 2016, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.coders import (
    Effort,
    SymbolCoder,
    coders_to_try,
    decode_stream,
    encode_stream,
)
from flyweight.coding.huffman import decode_huffman, encode_huffman
from flyweight.coding.positions import decode_positions, encode_positions
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["Coder", "PartKind", "pack_symbols", "unpack_symbols"]

#: Kind of a part of an encoded tensor.
PartKind = Literal["symbols", "positions", "codebook", "scales", "offsets", "tables", "dense"]
Coder = Literal["plain", "interleaved", "rans", "context", "planes"]

_PLAIN_SIZE = 1 << 20  # the plain coder is slow: larger tensors are left to the others


def pack_symbols(
    symbols: NDArray[Any],
    levels: int,
    *,
    negatives: int = 0,
    effort: Effort = "smallest",
    only: Coder | None = None,
) -> tuple[Coder, dict[PartKind, bytes]]:
    """Return the coder that gives fewest bytes, the first on a draw, and its parts.

    Symbols lie in 0..levels, of which 1 to ``negatives`` stand for values below zero. ``only``
    takes that coder regardless of its bytes.

    >>> coder, parts = pack_symbols(np.array([0, 2, 0, 1]), 2)
    >>> unpack_symbols(coder, parts, (4,), 2).tolist()
    [0, 2, 0, 1]
    """
    choices: list[tuple[Coder, dict[PartKind, bytes]]] = []
    slow = symbols.size > _PLAIN_SIZE and symbols.any()
    if only == "plain" or (only is None and not slow):
        choices.append(("plain", _code_plainly(symbols.ravel().astype(np.int64), levels)))
    others: tuple[SymbolCoder, ...] = ("interleaved", "rans", "context")
    if only is None:
        others = coders_to_try(symbols, effort) if symbols.any() else ()
    for coder in others:
        if only in (None, coder):
            table, payload = encode_stream(coder, symbols, levels + 1, negatives=negatives)
            choices.append((coder, {"tables": table, "positions": b"", "symbols": payload}))
    return min(choices, key=lambda choice: sum(map(len, choice[1].values())))


def unpack_symbols(
    coder: Coder, parts: Mapping[PartKind, bytes], shape: tuple[int, ...], levels: int
) -> NDArray[np.uint16]:
    """Return the symbols that `pack_symbols` stored, as an array of ``shape``.

    Raises `FormatError` where a part is damaged.
    """
    table, payload, size = parts["tables"], parts["symbols"], prod(shape)
    if coder in ("interleaved", "rans", "context"):
        if parts["positions"]:
            raise FormatError("zeros are in the alphabet and yet there are positions.")
        return decode_stream(coder, table, payload, shape, levels + 1)
    reader = ByteReader(table, "its table")
    form = reader.varint()
    if form == 0:
        if parts["positions"]:
            raise FormatError("zeros are in the alphabet and yet there are positions.")
        return decode_huffman(reader.rest(), payload, size, levels + 1).reshape(shape)
    kept = decode_positions(reader.take(form - 1), parts["positions"], size)
    count = int(np.count_nonzero(kept))
    indices = decode_huffman(reader.rest(), payload, count, levels)
    symbols = np.zeros(size, dtype=np.uint16)
    symbols[kept] = indices + np.uint16(1)
    return symbols.reshape(shape)


def _code_plainly(flat: NDArray[np.int64], levels: int) -> dict[PartKind, bytes]:
    """Return Huffman codes of the symbols, positions apart or zeros in the alphabet."""
    kept = flat != 0
    where, positions = encode_positions(kept)
    what, indices = encode_huffman(flat[kept] - 1, levels)
    apart = varint(1 + len(where)) + where + what
    if not kept.all() and kept.any():
        table, payload = encode_huffman(flat, levels + 1)
        if 1 + len(table) + len(payload) < len(apart) + len(positions) + len(indices):
            return {"tables": b"\0" + table, "positions": b"", "symbols": payload}
    return {"tables": apart, "positions": positions, "symbols": indices}
