"""Coders of symbols behind one interface, and the choice among them.

All of them turn symbols from an alphabet, zeros included, into a table and a payload and back
without loss. They differ in size and speed: interleaved Huffman is the fastest and never goes
below a bit a symbol; rANS comes within a thousandth of the order-0 entropy; the context coder
goes below that where a weight depends on its neighbors, and is the slowest.

Example:

>>> import numpy as np
>>> table, payload = encode_stream("rans", np.array([0, 2, 0, 1]), 3)
>>> decode_stream("rans", table, payload, (4,), 3).tolist()
[0, 2, 0, 1]
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.context.signed import signed_values, symbols_of
from flyweight.coding.context.stream import decode_context, encode_context
from flyweight.coding.huffman import decode_huffman, encode_huffman
from flyweight.coding.rans import decode_rans, encode_rans
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["Effort", "SymbolCoder", "coders_to_try", "decode_stream", "encode_stream"]

SymbolCoder = Literal["interleaved", "rans", "context"]
Effort = Literal["fast", "balanced", "smallest"]
"""Effort of the search for the smallest coding; ``smallest`` also decodes slowly."""


def coders_to_try(symbols: NDArray[Any], effort: Effort) -> tuple[SymbolCoder, ...]:
    """The coders among which an effort takes the one that gives fewest bytes."""
    if effort == "smallest":
        return ("interleaved", "rans", "context")
    if effort == "balanced" or not symbols.size:
        return ("rans",)
    sample = symbols.ravel()[:: max(1, symbols.size >> 16)]
    most = int(np.bincount(sample.astype(np.int64)).max())
    # Where one symbol is more than half of all, a bit a symbol is too much.
    return ("rans",) if 2 * most > sample.size else ("interleaved",)


def encode_stream(
    coder: SymbolCoder, symbols: NDArray[Any], alphabet: int, *, negatives: int = 0
) -> tuple[bytes, bytes]:
    """Return (table, payload) of symbols in 0..alphabet-1, of any shape.

    ``negatives`` helps the context coder: symbols 1 to ``negatives`` stand for values below
    zero, ascending, and the others for values above it.
    """
    if coder == "context":
        if not symbols.size:
            return b"", b""
        return varint(negatives), encode_context(signed_values(symbols, negatives))
    if coder == "rans":
        return encode_rans(symbols, alphabet)
    return encode_huffman(symbols, alphabet)


def decode_stream(
    coder: SymbolCoder, table: bytes, payload: bytes, shape: tuple[int, ...], alphabet: int
) -> NDArray[np.uint16]:
    """Return the symbols that `encode_stream` stored, as an array of ``shape``.

    Raises `FormatError` where the bytes are not what the coder writes.
    """
    count = prod(shape)
    if coder == "context":
        return _decode_context(table, payload, shape, alphabet)
    if coder == "rans":
        return decode_rans(table, payload, count, alphabet).reshape(shape)
    return decode_huffman(table, payload, count, alphabet).reshape(shape)


def _decode_context(
    table: bytes, payload: bytes, shape: tuple[int, ...], alphabet: int
) -> NDArray[np.uint16]:
    if not prod(shape):
        if table or payload:
            raise FormatError("a context-coded stream of no symbols is not empty.")
        return np.zeros(shape, dtype=np.uint16)
    reader = ByteReader(table, "the table of a context-coded stream")
    negatives = reader.varint()
    if reader.rest() or negatives >= alphabet:
        raise FormatError(f"a context-coded stream has {negatives} levels below zero.")
    values = decode_context(payload, shape)
    if int(values.min()) < -negatives or int(values.max()) >= alphabet - negatives:
        raise FormatError(f"a context-coded stream leaves its alphabet of {alphabet}.")
    return symbols_of(values, negatives).astype(np.uint16)
