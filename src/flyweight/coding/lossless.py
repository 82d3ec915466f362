"""Encode the values of a tensor bit for bit, in the form that gives fewest bytes.

The forms: values one by one ("raw"); byte planes ("planes"); zeros apart from the byte planes of
what is not zero ("sparse"); repeated pieces, by LZMA ("matches"); and, where values
repeat, symbols and levels as of a quantized tensor. Counts over the whole tensor and a sample
tell which of them are worth an attempt.

Example:

>>> values = np.zeros(4096, dtype="<f4")
>>> values[::10] = np.arange(1, 411)
>>> table, positions, planes = encode_sparse(values, "float32")
>>> bool((decode_sparse(table, positions, planes, 4096, "float32") == values).all())
True

Source of LZMA: Pavlov 1999; the stream is LZMA2 as in the .xz format, without its container.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight.coding.order_zero import entropy
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import decode_positions, encode_positions
from flyweight.coding.scalars import (
    ascending_words,
    carrier,
    distinct_words,
    negative_count,
    word_places,
    words_of,
)
from flyweight.coding.symbols import Coder, Effort, PartKind
from flyweight.errors import FormatError

__all__ = [
    "ExactLevels",
    "decode_matches",
    "decode_sparse",
    "dense_forms",
    "encode_matches",
    "encode_sparse",
    "exact_levels",
    "repeats",
]

_LEAST = 64  # bytes; fewer cannot pay for any table
_MOST_LEVELS = 65_535
_SAMPLE = 1 << 16  # elements of which the distinct ones are counted, and bytes of a piece
_DISTINCT = 0.9  # fraction of the sample: above, hardly a value repeats in the tensor
_ZEROS = 16  # one element of so many is zero where zeros are coded apart
_REDUNDANT = 32  # times smaller than the values: then the rest may be repetitions, too
_FARTHEST = 16  # bytes between those whose differences are coded
_DICTIONARY = (1 << 12, 1 << 26)  # bytes, at least and at most


def dense_forms(
    raw: bytes, storage: str, effort: Effort, only: Coder | None = None
) -> Iterator[tuple[Coder, dict[PartKind, bytes]]]:
    """Yield the forms worth an attempt, each with its parts.

    Args:
        raw: values of the carrier of ``storage``, one by one.
        storage: dtype of the stored values.
        effort: "smallest" tries LZMA on all that repeats, the others where a sample shows a gain.
        only: yields that form alone.
    """
    stored = np.frombuffer(raw, dtype=carrier(storage))
    words = words_of(stored)
    least = len(raw)
    if only in (None, "raw"):
        yield "raw", {"dense": raw}
    if only is None and len(raw) < _LEAST:
        return
    if only in (None, "planes"):
        planes = encode_planes(stored, storage)
        least = min(len(planes), least)
        yield "planes", {"dense": planes}
    if only == "sparse" or (only is None and _zeros(words) >= words.size // _ZEROS):
        table, positions, dense = encode_sparse(stored, storage)
        least = min(least, len(table) + len(positions) + len(dense))
        yield "sparse", {"tables": table, "positions": positions, "dense": dense}
    whole = storage.startswith(("int", "uint"))
    distances = (0, stored.dtype.itemsize) if whole else (0,)
    for distance in distances:
        if only == "matches" or (
            only is None and _matches_pay(raw, words, least, effort, distance)
        ):
            yield "matches", {"dense": encode_matches(raw, effort, distance)}


def _zeros(words: NDArray[Any]) -> int:
    return int(words.size - np.count_nonzero(words))


class ExactLevels(NamedTuple):
    """A tensor as symbols and the values that occur in it.

    Attributes:
        symbols: 0 where all bits of a value are 0, k + 1 where it is that of ``levels[k]``.
        levels: ascending, of the carrier.
        negatives: how many of them are below zero, negative zero not included.
    """

    symbols: NDArray[Any]
    levels: NDArray[Any]
    negatives: int


def exact_levels(stored: NDArray[Any], storage: str, at_most: int) -> ExactLevels | None:
    """Represent values by symbols and levels, if their entropy is below ``at_most`` bytes."""
    if stored.nbytes < _LEAST or stored.dtype.kind == "c":
        return None
    found = distinct_words(stored, _MOST_LEVELS + 1)
    if found is None:
        return None
    nonzero = found[0][found[0] != 0]
    stated = entropy(found[1]) / 8 + nonzero.size * stored.itemsize
    if nonzero.size > _MOST_LEVELS or stated >= at_most or not repeats(words_of(stored)):
        return None  # tested last, as it looks at all values and many tensors fail before
    words = ascending_words(nonzero, storage, stored.dtype)
    symbols = word_places(stored, np.concatenate([np.zeros(1, np.uint64), words]))
    levels = words.astype(f"<u{stored.itemsize}").view(stored.dtype)
    return ExactLevels(symbols, levels, negative_count(levels, storage))


def repeats(words: NDArray[Any]) -> bool:
    """Return whether single values, or pieces of 16 bytes, occur again and again."""
    sample = words[:: max(1, words.size // _SAMPLE)]
    if words.ndim == 1 and np.unique(sample).size <= _DISTINCT * sample.size:
        return True
    selected, repeated = _native.repetition(words, words.dtype.itemsize)
    return bool(repeated * 10 > selected > 8)


def encode_sparse(stored: NDArray[Any], storage: str) -> tuple[bytes, bytes, bytes]:
    """Encode values with their zeros apart: table and payload of the positions, byte planes."""
    nonzero = words_of(stored) != 0
    table, positions = encode_positions(nonzero)
    return table, positions, encode_planes(stored[nonzero], storage)


def decode_sparse(
    table: bytes, positions: bytes, planes: bytes, count: int, storage: str
) -> NDArray[Any]:
    """Return the values that `encode_sparse` stored. Raises `FormatError`."""
    nonzero = decode_positions(table, positions, count)
    values = np.zeros(count, dtype=carrier(storage))
    values[nonzero] = decode_planes(planes, int(np.count_nonzero(nonzero)), storage)
    return values


def _matches_pay(
    raw: bytes, words: NDArray[Any], least: int, effort: Effort, distance: int
) -> bool:
    """Return whether values may repeat and, if they are many, LZMA on a sample saves bytes."""
    if not distance and least * _REDUNDANT > len(raw) and not repeats(words):
        return False
    if len(raw) <= (_SAMPLE << (4 if effort == "smallest" else 2)):
        return True
    starts = np.linspace(0, len(raw) - _SAMPLE, 4).astype(int) & ~15
    sample = b"".join(raw[start : start + _SAMPLE] for start in starts.tolist())
    filters = _filters(len(sample), 1, distance)
    coded = len(lzma.compress(sample, lzma.FORMAT_RAW, filters=filters))
    gain = least / len(raw) / (coded / len(sample))
    return gain > (0.92 if effort == "smallest" else 1.25)


def _filters(size: int, preset: int, distance: int) -> list[dict[str, int]]:
    """Describe raw LZMA2 with a dictionary as large as the data, and differences before it."""
    least, most = _DICTIONARY
    dictionary = min(max(1 << max(size - 1, 1).bit_length(), least), most)
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
    return [{"id": lzma.FILTER_DELTA, "dist": distance}, lzma2] if distance else [lzma2]


def encode_matches(raw: bytes, effort: Effort = "smallest", distance: int = 0) -> bytes:
    """Encode bytes as a raw LZMA2 stream, differences at a distance of up to 16 bytes if not 0."""
    preset = 9 | lzma.PRESET_EXTREME if effort == "smallest" else 6
    filters = _filters(len(raw), preset, distance)
    return bytes([distance]) + lzma.compress(raw, lzma.FORMAT_RAW, filters=filters)


def decode_matches(coded: bytes, size: int) -> bytes:
    """Return the ``size`` bytes that `encode_matches` stored. Raises `FormatError`."""
    if not coded or coded[0] > _FARTHEST:
        raise FormatError("an LZMA stream names an unknown distance of differences.")
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(size, 0, coded[0]))
    try:
        raw = decoder.decompress(coded[1:], size + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError("an LZMA stream is damaged.") from error
    if len(raw) != size or not decoder.eof or decoder.unused_data:
        raise FormatError(f"an LZMA stream does not give the {size} bytes that are stated.")
    return raw
