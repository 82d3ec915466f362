"""Gap coding of the positions of non-zero weights.

Theory: if each of n weights is non-zero with probability p, no code for the mask alone goes below
n H(p) bits. The gaps between non-zero weights are then geometric, and a Huffman code on them comes
within a few percent of that. A gap longer than the alphabet is coded by *escapes*: each adds
its length to the gap that follows, so no gap is too long. Where most weights are non-zero the gaps
between zeros are shorter; where neither is short a plain bitmap is taken.

Cost: encoding tries up to 41 alphabet sizes on the histogram of gaps and takes the smallest
whole, table included.

Example:

>>> import numpy as np
>>> mask = np.zeros(1000, dtype=bool)
>>> mask[[3, 500, 501]] = True
>>> table, payload = encode_positions(mask)
>>> bool((decode_positions(table, payload, 1000) == mask).all())
True

Sources: Golomb 1966 (run lengths); Han et al. 2016, section 2 (relative indices; there each
escape keeps an extra zero weight, here it keeps none).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight import _native
from flyweight.coding.huffman import (
    code_lengths,
    encode_huffman,
    pack_lengths,
)
from flyweight.coding.varint import varint
from flyweight.errors import FormatError

__all__ = ["bounded_size", "decode_positions", "encode_positions"]

_NONE = b"\x00"
_BITMAP = b"\x01"
_GAPS_OF_KEPT = 2
_GAPS_OF_PRUNED = 3
_ALPHABETS_TRIED = 41  # 4, 5, 6, 7, 8, 10, ... 4096: beyond that the table outweighs the escapes

FREE_SIZE = 1 << 20
SIZE_PER_BYTE = 4096


def bounded_size(stored: int) -> int:
    """Return how many elements ``stored`` bytes may stand for: 2**20 + 4096 a byte.

    The limit keeps a short hostile file from asking for a vast array.
    """
    return FREE_SIZE + SIZE_PER_BYTE * stored


def encode_positions(mask: ArrayLike) -> tuple[bytes, bytes]:
    """Return a mask as (table, payload), in the smallest of the forms this module knows.

    Args:
        mask: booleans, True where a weight is not zero; any shape, read in C order.

    All True gives (b"", b""); all False gives one byte. The size of the mask is not stored.
    """
    flat = np.asarray(mask, dtype=np.bool_).ravel()
    kept = int(np.count_nonzero(flat))
    if kept == flat.size:
        return b"", b""
    if kept == 0:
        return _NONE, b""
    gaps, form = (
        (_gaps(flat), _GAPS_OF_KEPT) if 2 * kept <= flat.size else (_gaps(~flat), _GAPS_OF_PRUNED)
    )
    choice, stored = _smallest_alphabet(gaps)
    bitmap_size = (flat.size + 7) // 8
    if 1 + bitmap_size <= stored or flat.size > bounded_size(stored):
        return _BITMAP, np.packbits(flat).tobytes()
    alphabet = _alphabet(choice)
    symbols = _with_escapes(gaps, alphabet)
    table, payload = encode_huffman(symbols, alphabet)
    return bytes([form | choice << 2]) + varint(symbols.size) + table, payload


def _alphabet(choice: int) -> int:
    return (4 + choice % 4) << (choice // 4)


def _gaps(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, for each True, how many False stand between it and the True before."""
    where = np.flatnonzero(flat).astype(np.int64)
    gaps = where.copy()
    gaps[1:] -= where[:-1] + 1
    return gaps


def _smallest_alphabet(gaps: NDArray[np.int64]) -> tuple[int, int]:
    """Return the choice of alphabet that stores the gaps in fewest bytes, and that number."""
    values, counts = np.unique(gaps, return_counts=True)
    best = (0, -1)
    for choice in range(_ALPHABETS_TRIED):
        alphabet = _alphabet(choice)
        escapes, rest = np.divmod(values, alphabet - 1)
        histogram = np.zeros(alphabet, dtype=np.int64)
        np.add.at(histogram, rest, counts)
        histogram[-1] = escapes @ counts
        lengths = code_lengths(histogram)
        bits = int(histogram @ lengths) if np.count_nonzero(lengths) > 1 else 0
        number = len(varint(int(histogram.sum())))
        stored = 1 + number + len(pack_lengths(lengths)) + (bits + 7) // 8
        if best[1] < 0 or stored < best[1]:
            best = (choice, stored)
        if not histogram[-1]:
            break
    return best


def _with_escapes(gaps: NDArray[np.int64], alphabet: int) -> NDArray[np.int64]:
    """Return each gap as escapes (alphabet - 1) and then what is left of it."""
    escapes, rest = np.divmod(gaps, alphabet - 1)
    last = np.cumsum(escapes + 1) - 1
    symbols = np.full(int(last[-1]) + 1, alphabet - 1, dtype=np.int64)
    symbols[last] = rest
    return symbols


def decode_positions(table: bytes, payload: bytes, size: int) -> NDArray[np.bool_]:
    """Return the mask that `encode_positions` stored, shape (size,).

    Raises `FormatError` if the bytes do not describe a mask of ``size``. Unless all or none
    are True, a size above ``bounded_size(len(table) + len(payload))`` is refused first.
    """
    if table not in (b"", _NONE, _BITMAP) and size > bounded_size(len(table) + len(payload)):
        raise FormatError(f"{size} positions are too many for {len(payload)} bytes.")
    if table == _BITMAP and len(payload) != (size + 7) // 8:
        raise FormatError(f"a bitmap of {size} positions does not have {len(payload)} bytes.")
    mask = np.empty(size, dtype=np.bool_)
    _native.positions_decode(table, payload, mask.view(np.uint8))
    return mask
