"""Canonical, length-limited Huffman codes in interleaved streams.

Theory: a Huffman code spends less than one bit a symbol above the order-0 entropy, and is the
best code that gives each symbol a whole number of bits. Its floor is one bit a symbol, so
sparse data needs its zeros coded apart (see `positions`). The code is *canonical*: codewords
follow from the lengths alone, and only the lengths are stored. Lengths are limited to 12 bits
where that distinguishes the symbols, which costs about 0.1 %.

In one stream of codewords the place of each is known only when the one before is read, so a
processor waits. Here a chunk of 2**20 symbols is cut into four runs, each a stream of its own,
and a decoder follows all four at once. Chunks run on threads.

Example:

>>> table, payload = encode_huffman([0, 0, 0, 1, 0, 2], 3)
>>> table.hex(), payload.hex()
('b0', 'c8')
>>> decode_huffman(table, payload, 6, 3).tolist()
[0, 0, 0, 1, 0, 2]

Sources: Schwartz & Kallick 1964 (canonical codes); Larmore & Hirschberg 1990 (package-merge);
Collet 2013, Huff0 (four streams); Deutsch 1996, RFC 1951 (bits from the lowest, codewords from
the highest); Han et al. 2016, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight import _native
from flyweight.coding.threads import cores, in_threads
from flyweight.errors import FormatError

__all__ = [
    "MAX_ALPHABET",
    "canonical_codewords",
    "code_lengths",
    "decode_huffman",
    "encode_huffman",
    "pack_lengths",
    "unpack_lengths",
]

MAX_ALPHABET = 1 << 16
_CHUNK = 1 << 20  # symbols; part of the format
_FOUR_FROM = 1 << 12  # symbols of a chunk, from which it has four streams; part of the format
_LIMIT = 12  # bits of a codeword, or two more than are needed to tell the symbols apart


def code_lengths(counts: ArrayLike, limit: int = 15) -> NDArray[np.uint8]:
    """Return the codeword lengths of an optimal code no longer than ``limit`` bits.

    Args:
        counts: occurrences of each symbol, shape (alphabet,); zero for a symbol never used.
        limit: longest codeword allowed, at most 32; raised to the least that can distinguish
            the symbols that occur.

    Returns lengths, shape (alphabet,), 0 where the count is 0. A lone symbol has length 1.

    >>> code_lengths([5, 2, 1, 0]).tolist()
    [1, 2, 2, 0]
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 1 or counts.size > MAX_ALPHABET:
        raise ValueError(f"counts must be 1-D and at most {MAX_ALPHABET} long, not {counts.shape}")
    if counts.size and counts.min() < 0:
        raise ValueError("counts must not be negative")
    lengths = _native.huffman_code(counts.astype(np.uint64), limit, False)
    return np.frombuffer(bytearray(lengths), dtype=np.uint8)


def canonical_codewords(lengths: ArrayLike) -> NDArray[np.uint32]:
    """Return the canonical codeword of each symbol, right-aligned, shape (alphabet,).

    Codewords count upwards in order of (length, symbol); 0 for symbols of length 0.

    >>> canonical_codewords([1, 2, 2, 0]).tolist()
    [0, 2, 3, 0]
    """
    lengths = np.asarray(lengths, dtype=np.uint8)
    codewords = np.zeros(lengths.size, dtype=np.uint32)
    order = np.argsort(lengths, kind="stable")[np.count_nonzero(lengths == 0) :]
    if order.size:
        shift = (lengths.max() - lengths[order]).astype(np.uint32)
        share = np.left_shift(np.uint32(1), shift)
        codewords[order] = (np.cumsum(share, dtype=np.uint32) - share) >> shift
    return codewords


def pack_lengths(lengths: ArrayLike) -> bytes:
    """Return codeword lengths as a compact table: differences, and runs of unused symbols."""
    lengths = np.ascontiguousarray(lengths, dtype=np.uint8)
    return _native.huffman_pack(lengths) if lengths.size else b""


def unpack_lengths(table: bytes, alphabet: int) -> NDArray[np.uint8]:
    """Return the codeword lengths that `pack_lengths` stored, shape (alphabet,).

    Raises `FormatError` unless the table is whole and describes a complete prefix code.
    """
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise FormatError(f"a Huffman alphabet has 1 to {MAX_ALPHABET} symbols, not {alphabet}.")
    return np.frombuffer(bytearray(_native.huffman_unpack(table, alphabet)), dtype=np.uint8)


def shares(count: int, threads: int | None) -> list[tuple[int, int]]:
    """Cut ``count`` chunks into about four shares a thread: the first of each, and the end."""
    threads = threads or cores()
    number = min(count, 1 if threads == 1 else 4 * threads)
    ends = [count * share // max(number, 1) for share in range(number + 1)]
    return list(pairwise(ends))


def encode_huffman(
    symbols: ArrayLike, alphabet: int, *, threads: int | None = None
) -> tuple[bytes, bytes]:
    """Return the symbols as a table of codeword lengths and a payload of interleaved streams.

    Args:
        symbols: integers in 0..alphabet-1, any shape; read in C order.
        alphabet: number of different symbols there could be, at most 65,536.
        threads: how many to run on, None for one a core. The bytes are the same.

    Returns (table, payload). No symbols give (b"", b""); a lone distinct symbol needs no payload.
    """
    return huffman_parts(narrowed(symbols, alphabet), alphabet, 0, threads)


def huffman_parts(
    flat: NDArray[Any],
    alphabet: int,
    base: int,
    threads: int | None,
    head: Callable[[bytes], bytes] = lambda table: b"",
) -> tuple[bytes, bytes]:
    """Encode what `narrowed` gives, or bytes that are a symbol plus ``base``, modulo 256.

    Returns the table, and what ``head`` makes of it followed by the payload.
    """
    if not flat.size:
        return b"", b""
    counts = stream_counts(flat, alphabet, base, threads)
    sizes = np.empty(len(counts), dtype=np.uint64)
    lengths = _native.huffman_code(counts.sum(axis=0, dtype=np.uint64), _LIMIT, True)
    table = _native.huffman_pack(lengths)
    if alphabet - lengths.count(0) == 1:
        return table, head(table)
    payload = _native.new_bytes(head(table), _native.huffman_sizes(counts, lengths, sizes))
    in_threads(
        lambda part: _native.huffman_encode(flat, lengths, sizes, base, *part, payload),
        shares(-(-flat.size // _CHUNK), threads),
        threads,
    )
    return table, payload


def stream_counts(
    flat: NDArray[Any], alphabet: int, base: int, threads: int | None
) -> NDArray[np.uint32]:
    """Count the symbols of each stream, shape (streams, alphabet). Raises `ValueError`."""
    chunks, rest = divmod(flat.size, _CHUNK)
    streams = 4 * chunks + (4 if rest >= _FOUR_FROM else rest > 0)
    counts = np.zeros((streams, alphabet), dtype=np.uint32)
    inside = in_threads(
        lambda part: _native.count_symbols(flat, alphabet, base, *part, counts),
        shares(-(-flat.size // _CHUNK), threads),
        threads,
    )
    if not all(inside):
        raise _outside(flat, alphabet)
    return counts


def narrowed(symbols: ArrayLike, alphabet: int) -> NDArray[Any]:
    """Return symbols in a row as uint8 or uint16, checked only if their type has to change."""
    if not 0 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"an alphabet has at most {MAX_ALPHABET} symbols, not {alphabet}")
    dtype = np.dtype(np.uint8 if alphabet <= 256 else np.uint16)
    symbols = np.asarray(symbols)
    if not symbols.size:
        return np.zeros(0, dtype)
    if not np.issubdtype(symbols.dtype, np.integer):
        raise ValueError(f"symbols must be integers, not {symbols.dtype}")
    if symbols.dtype != dtype:
        if int(symbols.min()) < 0 or int(symbols.max()) >= alphabet:
            raise _outside(symbols, alphabet)
        symbols = symbols.astype(dtype)
    elif not alphabet:
        raise _outside(symbols, alphabet)
    return np.ascontiguousarray(symbols).ravel()


def _outside(symbols: NDArray[Any], alphabet: int) -> ValueError:
    low, high = symbols.min(), symbols.max()
    return ValueError(f"symbols must lie in 0..{alphabet - 1}, not {low}..{high}")


def decode_huffman(
    table: bytes,
    payload: bytes | memoryview,
    count: int,
    alphabet: int,
    *,
    threads: int | None = None,
) -> NDArray[Any]:
    """Return the ``count`` symbols that `encode_huffman` stored, shape (count,).

    They are uint8 up to an alphabet of 256, else uint16. Raises `FormatError` if the table or the
    payload is not exactly what the encoder writes. A count above eight symbols a payload byte is
    refused first, unless there is only one symbol to repeat: then the caller has to see that
    ``count`` is one it can hold.
    """
    dtype = np.uint8 if alphabet <= 256 else np.uint16
    if count == 0:
        if table or payload:
            raise FormatError("a Huffman stream of no symbols is not empty.")
        return np.zeros(0, dtype=dtype)
    if not 0 <= count <= 8 * len(payload):
        used = np.count_nonzero(unpack_lengths(table, alphabet))
        if used > 1 or count < 0:
            raise FormatError(f"{count} Huffman symbols cannot fit in {len(payload)} bytes.")
    elif not 1 <= alphabet <= MAX_ALPHABET:
        unpack_lengths(table, alphabet)  # raises
    symbols = np.empty(count, dtype=dtype)
    in_threads(
        lambda part: _native.huffman_decode(table, payload, alphabet, *part, symbols),
        shares(-(-count // _CHUNK), threads),
        threads,
    )
    return symbols
