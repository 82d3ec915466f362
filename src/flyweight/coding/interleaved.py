"""Huffman codes in interleaved streams, which decode faster than one stream.

Theory: in one stream of codewords the place of each is known only when the one before is read,
so a processor waits. Here a chunk of symbols is cut into four runs of equal length, each coded
as a stream of its own, and a decoder follows all four at once. Codewords are at most 12 bits
long where that many distinguish the symbols, which costs about 0.1 %, so that a table of 2**12
entries gives, for the next 12 bits, all whole codewords in them.

Cost: with Numba, each way as fast as or faster than the Huffman coder in zstd's fastest level,
on one core, and chunks run on threads. Without it, or for few symbols (a compiler takes longer
to start), NumPy does the same, about a hundred times slower. The bytes are the same either way.

Example:

>>> table, payload = encode_interleaved([0, 0, 0, 1, 0, 2], 3)
>>> table.hex(), payload.hex()
('b0', 'c8')
>>> decode_interleaved(table, payload, 6, 3).tolist()
[0, 0, 0, 1, 0, 2]

Sources: Collet 2013, Huff0 (four streams, several symbols a look-up); Giesen 2018, "Reading
bits in far too many ways"; Deutsch 1996, RFC 1951 (bits from the lowest, codewords from the
highest).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.huffman import (
    MAX_ALPHABET,
    canonical_codewords,
    code_lengths,
    pack_lengths,
    unpack_lengths,
)
from flyweight.coding.numba_choice import loops_for
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import LONGEST_VARINT, ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["decode_interleaved", "encode_interleaved"]


_Task = tuple[int, NDArray[np.int64]]
RunEncoder = Callable[[NDArray[Any], int, int, NDArray[np.uint8], int, int], None]
RunDecoder = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[Any], NDArray[np.int64]], None]

_CHUNK = 1 << 20  # symbols; part of the format
_FOUR_FROM = 1 << 12  # symbols of a chunk, from which it has four streams; part of the format
_WIDTH = 12  # bits of the usual look-up table
_WIDEST_COMPILED = 14  # four look-ups take no more than 56 bits: one refill
_LONGEST = 16
_PAIRED_WIDTH = 12
_PAIRED_SYMBOLS = 64  # that occur: at most so many, and their pairs stay in the nearest cache
_SHORT = 1 << 17  # symbols, up to which a smaller table is filled sooner than it is missed
_BYTES_PER_PASS = 1 << 13
_SEVERAL_FROM = 1 << 13  # symbols, from which a larger table pays for itself in NumPy


def kernels_for(count: int, compiled: bool | None) -> ModuleType | None:
    """Return the compiled kernels if they are to be used for ``count`` symbols, else None.

    ``compiled`` forces them (True; raises `ImportError` where there is no Numba) or forbids them.
    """
    if sys.byteorder != "little":
        return None
    return loops_for("flyweight.coding.interleaved_kernels", count, compiled)


def limited_lengths(counts: NDArray[np.int64], limit: int = _WIDTH) -> NDArray[np.uint8]:
    """Return codeword lengths of at most ``limit`` bits, or two more than the least possible."""
    used = int(np.count_nonzero(counts))
    return code_lengths(counts, min(_LONGEST, max(limit, (used - 1).bit_length() + 2)))


def _chunks(count: int) -> list[_Task]:
    """Return, for each chunk of ``count`` symbols, the number of its first stream (from 0), and
    where its streams begin and end among the symbols.
    """
    return [
        (4 * index, _streams(first, min(_CHUNK, count - first), _FOUR_FROM))
        for index, first in enumerate(range(0, count, _CHUNK))  # only the last may have no four
    ]


@lru_cache(maxsize=64)
def _streams(first: int, size: int, four_from: int) -> NDArray[np.int64]:
    streams = 4 if size >= four_from else 1
    run = -(-size // streams)
    return first + np.minimum(run * np.arange(streams + 1, dtype=np.int64), size)


def encode_interleaved(
    symbols: ArrayLike, alphabet: int, *, threads: int | None = None, compiled: bool | None = None
) -> tuple[bytes, bytes]:
    """Return the symbols as a table of codeword lengths and a payload of interleaved streams.

    Args:
        symbols: integers in 0..alphabet-1, any shape; read in C order.
        alphabet: number of different symbols there could be, at most 65,536.
        threads: how many to run on, None for one a core. The bytes are the same.
        compiled: whether to use Numba; None where it is faster. The bytes are the same.

    Returns (table, payload). No symbols give (b"", b""); a lone distinct symbol needs no payload.
    """
    if not 0 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"an alphabet has at most {MAX_ALPHABET} symbols, not {alphabet}")
    flat = _narrowed(np.asarray(symbols).ravel(), alphabet)
    if not flat.size:
        return b"", b""
    kernels = kernels_for(flat.size, compiled)
    counts = count_streams(flat, alphabet, kernels, threads)
    lengths = limited_lengths(counts.sum(axis=0))
    table = pack_lengths(lengths)
    if np.count_nonzero(lengths) == 1:
        return table, b""
    return table, pack_streams(flat, counts, lengths, run_encoder(lengths, kernels), threads)


def _narrowed(flat: NDArray[Any], alphabet: int) -> NDArray[Any]:
    """Return symbols as uint8 or uint16, read-only; raises ValueError if one is not a symbol."""
    if not flat.size:
        return np.zeros(0, dtype=np.uint8)
    if not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(f"symbols must be integers, not {flat.dtype}")
    if int(flat.min()) < 0 or int(flat.max()) >= alphabet:
        raise ValueError(f"symbols must lie in 0..{alphabet - 1}, not {flat.min()}..{flat.max()}")
    return frozen(flat.astype(np.uint8 if alphabet <= 256 else np.uint16, copy=False))


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view: one type of array, so that each kernel is compiled once."""
    view = array.view()
    view.flags.writeable = False
    return view


def count_streams(
    flat: NDArray[Any], alphabet: int, kernels: ModuleType | None, threads: int | None
) -> NDArray[np.int64]:
    """Return how often each symbol occurs in each stream, shape (streams, alphabet).

    ``flat`` holds uint8 if the alphabet is of 256 symbols at most, else uint16; read-only.
    """

    def count(task: _Task) -> NDArray[np.int64]:
        _, chunk = task
        counts = np.zeros((chunk.size - 1, max(alphabet, 256)), dtype=np.int64)
        for row, first, last in zip(counts, chunk[:-1], chunk[1:], strict=True):
            if kernels is None:
                row += np.bincount(flat[first:last], minlength=row.size)
            elif flat.dtype == np.uint8:
                kernels.count_bytes(flat, first, last, row)
            else:
                kernels.count_symbols(flat, first, last, row)
        return counts[:, :alphabet]

    return np.concatenate(in_threads(count, _chunks(flat.size), threads))


def run_encoder(lengths: NDArray[np.uint8], kernels: ModuleType | None) -> RunEncoder:
    """Return what writes the codewords of symbols[first:last] to out[begin:end]."""
    longest = int(lengths.max())
    codes = np.zeros(max(lengths.size, 256), dtype=np.uint32)
    reverse = _reversed_bits(_LONGEST)[canonical_codewords(lengths)]
    codes[: lengths.size] = reverse >> (_LONGEST - lengths.astype(np.uint32)) << 8 | lengths
    if kernels is None or longest > _WIDEST_COMPILED:

        def encode(
            flat: NDArray[Any], first: int, last: int, out: NDArray[np.uint8], begin: int, end: int
        ) -> None:
            out[begin:end] = _codewords(codes[flat[first:last]])

        return encode
    used = np.flatnonzero(lengths)
    if used.size <= _PAIRED_SYMBOLS and longest <= _PAIRED_WIDTH and lengths.size <= 256:
        pairs = np.empty(1 << 16, dtype=np.uint32)
        kernels.fill_pairs(codes, used, pairs)
        return lambda flat, first, last, out, begin, end: kernels.encode_pairs(
            flat, first, last, codes, pairs, out, begin, end
        )
    return lambda flat, first, last, out, begin, end: kernels.encode_one(
        flat, first, last, codes, out, begin, end
    )


def pack_streams(
    flat: NDArray[Any],
    counts: NDArray[np.int64],
    lengths: NDArray[np.uint8],
    encode: RunEncoder,
    threads: int | None,
) -> bytes:
    """Return symbols as a payload, given their `count_streams` and a `run_encoder`."""
    sizes = (counts @ lengths.astype(np.int64) + 7) // 8
    head = b"".join(varint(size) for size in sizes[:-1].tolist())
    places = len(head) + np.concatenate([[0], np.cumsum(sizes)])
    out = np.empty(int(places[-1]), dtype=np.uint8)
    out[: len(head)] = np.frombuffer(head, dtype=np.uint8)

    def write(task: _Task) -> None:
        stream, chunk = task
        for first, last in pairwise(chunk):
            encode(flat, first, last, out, places[stream], places[stream + 1])
            stream += 1

    in_threads(write, _chunks(flat.size), threads)
    return out.tobytes()


@cache
def _reversed_bits(width: int) -> NDArray[np.uint32]:
    """Return, for each number of ``width`` bits, the same with its bits from last to first."""
    numbers = np.arange(1 << width, dtype=np.uint32)
    out = np.zeros_like(numbers)
    for place in range(width):
        out = out << np.uint32(1) | numbers >> np.uint32(place) & np.uint32(1)
    return out


def _codewords(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return codes (codeword << 8 | length) as a stream of bytes."""
    length = (codes & 0xFF).astype(np.uint8)
    codeword = (codes >> np.uint32(8)).astype("<u2").view(np.uint8).reshape(-1, 2)
    bits = np.unpackbits(codeword, axis=1, bitorder="little")
    return np.packbits(bits[np.arange(_LONGEST) < length[:, None]], bitorder="little")


def decode_interleaved(
    table: bytes,
    payload: bytes,
    count: int,
    alphabet: int,
    *,
    threads: int | None = None,
    compiled: bool | None = None,
) -> NDArray[np.uint16]:
    """Return the ``count`` symbols that `encode_interleaved` stored, shape (count,).

    Raises `FormatError` if the table or the payload is not exactly what the encoder writes. A
    count above eight symbols a payload byte is refused first, unless there is only one symbol
    to repeat: then the caller has to see that ``count`` is one it can hold.
    """
    if count == 0:
        if table or payload:
            raise FormatError("a Huffman stream of no symbols is not empty.")
        return np.zeros(0, dtype=np.uint16)
    kernels = kernels_for(count, compiled)
    lengths = unpack_lengths(table, alphabet, kernels)
    used = np.flatnonzero(lengths)
    if used.size > 1 or count < 0:
        refuse_count(count, len(payload))
    elif payload:
        raise FormatError("a Huffman stream of one repeated symbol has a payload.")
    else:
        return np.full(count, used[0], dtype=np.uint16)
    out = np.empty(count, dtype=np.uint16)
    data = np.frombuffer(payload, dtype=np.uint8)
    unpack_streams(data, out, run_decoder(lengths, out, kernels), threads)
    return out


def refuse_count(count: int, stored: int) -> None:
    """Raise `FormatError` if ``stored`` bytes cannot hold ``count`` symbols."""
    if not 0 <= count <= 8 * stored:
        raise FormatError(f"{count} Huffman symbols cannot fit in {stored} bytes.")


def unpack_streams(
    data: NDArray[np.uint8], out: NDArray[Any], decode: RunDecoder, threads: int | None
) -> None:
    """Fill ``out`` with the symbols of a payload, given a `run_decoder`; raises `FormatError`.

    ``data`` is read-only and in one piece.
    """
    chunks = _chunks(out.size)
    streams = chunks[-1][0] + chunks[-1][1].size - 1
    reader = ByteReader(data[: LONGEST_VARINT * streams].tobytes(), "a Huffman payload")
    sizes = [reader.varint() for _ in range(streams - 1)]
    ends = list(accumulate(sizes, initial=reader.position))
    if ends[-1] > data.size:
        raise FormatError(f"the streams of a Huffman payload are longer than {data.size} bytes.")
    places = np.array([*ends, data.size], dtype=np.int64)

    def read(task: _Task) -> None:
        stream, chunk = task
        decode(data, places[stream : stream + chunk.size], out, chunk)

    in_threads(read, chunks, threads)


def _wrong_end() -> FormatError:
    return FormatError("a Huffman stream does not end where its symbols do.")


def _wrong_padding() -> FormatError:
    return FormatError("a Huffman stream is padded with bits that are not zero.")


def run_decoder(
    lengths: NDArray[np.uint8], out: NDArray[Any], kernels: ModuleType | None
) -> RunDecoder:
    """Return what decodes the streams of a chunk.

    Args:
        lengths: of the codewords, at least two of them.
        out: an array such as it is to fill, for its dtype (uint8 or uint16) and size.
        kernels: compiled, or None for NumPy.
    """
    longest = int(lengths.max())
    if kernels is None or longest > _WIDEST_COMPILED:
        return _numpy_decoder(lengths, out)
    width = max(_WIDTH if out.size > _SHORT else _WIDTH - 1, longest)
    item = out.dtype.itemsize
    single = np.empty(1 << width, dtype=np.uint32)
    entries = np.empty(1 << width, dtype=np.uint64)
    most = kernels.build_tables(lengths, width, item, single, entries)

    def decode(
        data: NDArray[np.uint8],
        places: NDArray[np.int64],
        out: NDArray[Any],
        chunk: NDArray[np.int64],
    ) -> None:
        kernel = kernels.decode_four if chunk.size == 5 else kernels.decode_alone
        raw = out.view(np.uint8)
        status = kernel(data, places, raw, item * chunk, entries, single, most, item)
        if status:
            raise _wrong_end() if status == 1 else _wrong_padding()

    return decode


def _numpy_decoder(lengths: NDArray[np.uint8], out: NDArray[Any]) -> RunDecoder:
    """Look up every bit offset at once, then step from look-up to look-up in Python.

    For many symbols a look-up gives several codewords, so that a step passes over them all.
    """
    several = out.size >= _SEVERAL_FROM
    width = max(_WIDTH if several else 1, int(lengths.max()))
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    repeats = np.left_shift(1, width - lengths[order].astype(np.int64))
    symbol_of = np.repeat(order.astype(out.dtype), repeats)[_reversed_bits(width)]
    length_of = lengths[symbol_of]
    symbols = [symbol_of]
    number = np.ones(1 << width, dtype=np.uint8)
    taken = length_of.copy()
    for _ in range(3 if several else 0):
        rest = np.arange(1 << width) >> taken
        fits = (number == len(symbols)) & (taken + length_of[rest] <= width)
        symbols.append(symbol_of[rest])
        number += fits
        taken += length_of[rest] * fits
    column = np.stack(symbols, axis=1)
    held = np.arange(len(symbols)) < number[:, None]

    def decode(
        data: NDArray[np.uint8],
        places: NDArray[np.int64],
        out: NDArray[Any],
        chunk: NDArray[np.int64],
    ) -> None:
        for stream in range(chunk.size - 1):
            coded = data[places[stream] : places[stream + 1]]
            follow(coded, out[chunk[stream] : chunk[stream + 1]])

    def follow(coded: NDArray[np.uint8], run: NDArray[Any]) -> None:
        raw = np.concatenate([coded, np.zeros(2, dtype=np.uint8)])
        mask = np.uint32((1 << width) - 1)
        filled = 0
        at = 0  # bit offset of the next codeword, counted from the start of the pass
        for begin in range(0, coded.size, _BYTES_PER_PASS):
            block = raw[begin : begin + _BYTES_PER_PASS + 2].astype(np.uint32)
            words = block[:-2] | block[1:-1] << 8 | block[2:] << 16
            windows = (words[:, None] >> np.arange(8, dtype=np.uint32) & mask).ravel()
            steps = taken[windows].tobytes()
            end = windows.size
            starts: list[int] = []
            while at < end:
                starts.append(at)
                at += steps[at]
            at -= end
            chosen = windows[starts]
            found = column[chosen][held[chosen]][: run.size - filled]
            run[filled : filled + found.size] = found
            filled += found.size
        if filled < run.size:
            raise _wrong_end()
        bits = int(lengths[run].sum(dtype=np.int64))
        if (bits + 7) // 8 != coded.size:
            raise _wrong_end()
        if int(coded[-1]) >> 1 + (bits - 1) % 8:
            raise _wrong_padding()

    return decode
