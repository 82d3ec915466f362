"""Encode the symbols of a quantized tensor by the coder that gives fewest bytes; decode them.

All coders turn symbols from an alphabet, zeros included, into a table and a payload and back
without loss. Huffman is the fastest and never goes below a bit a symbol; rANS comes within a
thousandth of the order-0 entropy; the context coder goes below that where a weight depends on its
neighbors, and is the slowest.

Example:

>>> coder, parts = pack_symbols(np.array([0, 2, 0, 1]), 2)
>>> unpack_symbols(coder, parts, (4,), 2).tolist()
[0, 2, 0, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.context import context_limit, decode_context, encode_context
from flyweight.coding.huffman import decode_huffman, encode_huffman
from flyweight.coding.rans import decode_rans, encode_rans
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = [
    "SYMBOL_CODERS",
    "Coder",
    "Effort",
    "PartKind",
    "SymbolCoder",
    "coders_to_try",
    "pack_symbols",
    "realigned",
    "unpack_symbols",
]

#: Kind of a part of an encoded tensor.
PartKind = Literal["symbols", "positions", "codebook", "scales", "offsets", "tables", "dense"]
SymbolCoder = Literal["huffman", "rans", "context"]
#: How symbols (the first three) or dense values became bytes.
Coder = Literal["huffman", "rans", "context", "raw", "planes", "sparse", "matches"]
Effort = Literal["fast", "balanced", "smallest"]
"""Effort of the search for the smallest coding; ``smallest`` also decodes slowly."""
SYMBOL_CODERS: tuple[SymbolCoder, ...] = get_args(SymbolCoder)


def coders_to_try(symbols: NDArray[Any], effort: Effort) -> tuple[SymbolCoder, ...]:
    """The coders among which an effort takes the one that gives fewest bytes."""
    if effort == "smallest":
        return SYMBOL_CODERS
    if effort == "balanced" or not symbols.size:
        return ("rans",)
    sample = symbols.reshape(-1)[:: max(1, symbols.size >> 16)]
    most = int(np.bincount(sample).max())
    # Where one symbol is more than half of all, a bit a symbol is too much.
    return ("rans",) if 2 * most > sample.size else ("huffman",)


def pack_symbols(
    symbols: NDArray[Any],
    levels: int,
    *,
    negatives: int = 0,
    effort: Effort = "smallest",
    only: SymbolCoder | None = None,
) -> tuple[SymbolCoder, dict[PartKind, bytes]]:
    """Return the coder that gives fewest bytes, the first on a draw, and its parts.

    Symbols lie in 0..levels, of which 1 to ``negatives`` stand for values below zero, ascending.
    ``only`` takes that coder regardless of its bytes.
    """
    best: tuple[SymbolCoder, dict[PartKind, bytes]] | None = None
    for coder in coders_to_try(symbols, effort) if only is None else (only,):
        parts = _encode(coder, symbols, levels + 1, negatives)
        if coder == "context" and symbols.size > context_limit(len(parts["symbols"])):
            continue  # fewer bytes than a reader takes for so many symbols
        if best is None or _size(parts) < _size(best[1]):
            best = coder, parts
    return best or ("rans", _encode("rans", symbols, levels + 1, negatives))


def _size(parts: Mapping[PartKind, bytes]) -> int:
    return sum(map(len, parts.values()))


def _encode(
    coder: SymbolCoder, symbols: NDArray[Any], alphabet: int, negatives: int
) -> dict[PartKind, bytes]:
    if coder == "context":
        table, payload = varint(negatives), encode_context(symbols, negatives)
        return {"tables": table if symbols.size else b"", "symbols": payload}
    encode = encode_rans if coder == "rans" else encode_huffman
    table, payload = encode(symbols, alphabet)
    return {"tables": table, "symbols": payload}


def unpack_symbols(
    coder: Coder, parts: Mapping[PartKind, bytes], shape: tuple[int, ...], levels: int
) -> NDArray[Any]:
    """Return the symbols that `pack_symbols` stored, as an array of ``shape``.

    They are uint8 where they fit, else uint16. Raises `FormatError` where a part is damaged.
    """
    table, payload, count = parts["tables"], parts["symbols"], prod(shape)
    if coder != "context":
        decode = decode_rans if coder == "rans" else decode_huffman
        return decode(table, payload, count, levels + 1).reshape(shape)
    if not count:
        if table or payload:
            raise FormatError("a context-coded stream of no symbols is not empty.")
        return np.zeros(shape, dtype=np.uint8 if levels < 256 else np.uint16)
    reader = ByteReader(table, "the table of a context-coded stream")
    negatives = reader.varint()
    if reader.rest() or negatives > levels:
        raise FormatError(f"a context-coded stream has {negatives} levels below zero.")
    return decode_context(payload, shape, negatives, levels + 1)


def realigned(symbols: NDArray[Any], shift: int, levels: int) -> NDArray[Any]:
    """Add ``shift`` to all symbols but 0, which stays; the others then lie in 1..levels.

    So the symbols of tensors with different numbers of levels below zero get the zero of one
    codebook. The result is uint8 if ``levels`` is below 256, else uint16. Raises `FormatError`.

    >>> realigned(np.uint8([0, 1, 3]), 2, 5).tolist()
    [0, 3, 5]
    """
    nonzero = symbols != 0
    if nonzero.any():
        least, most = int(symbols[nonzero].min()) + shift, int(symbols.max()) + shift
        if not 1 <= least <= most <= levels:
            raise FormatError("a tensor of a group leaves its alphabet.")
    moved = np.where(nonzero, symbols.astype(np.int32) + shift, 0)
    return moved.astype(np.uint8 if levels < 256 else np.uint16)
