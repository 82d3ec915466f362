"""Byte planes: lossless coding of dense values by grouping bytes of equal significance.

Theory: weights differ in every bit of their mantissa but share a few exponents. So the bytes of
a block of values are sorted into *planes*, first bytes with first bytes and so on, and a plane
that is skewed is Huffman-coded, while the others stay as they are. In a floating-point number
the sign stands above the exponent; rotating the bits left by one puts it below the mantissa,
and all eight bits of a float32's or bfloat16's exponent into one byte. An exponent of trained
weights takes about 2.7 bits of its 8: a sixth of a float32 and a third of a bfloat16 goes.

Cost: a plane that stays as it is costs a copy, any other what `interleaved` says. Blocks are
short, as layers differ; chunks of sixteen blocks run on threads.

Example:

>>> import numpy as np
>>> values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
>>> payload = encode_planes(values, "float32")
>>> len(payload) < 0.86 * values.nbytes
True
>>> decode_planes(payload, 10_000, "float32").tobytes() == values.tobytes()
True

Source: Hershcovitch et al. 2024, "ZipNN: Lossless compression for AI models".
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.huffman import pack_lengths, unpack_lengths
from flyweight.coding.interleaved import (
    RunDecoder,
    RunEncoder,
    count_streams,
    frozen,
    kernels_for,
    limited_lengths,
    pack_streams,
    refuse_count,
    run_decoder,
    run_encoder,
    unpack_streams,
)
from flyweight.coding.positions import bounded_size
from flyweight.coding.scalars import DTYPES, carrier
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["decode_planes", "encode_planes"]

_CHUNK = 1 << 20  # words, in which tables may be used again; part of the format
_BLOCK = 1 << 16  # words, a divisor of _CHUNK; part of the format
_RAW, _CONSTANT, _HUFFMAN, _AGAIN = range(4)
_BITS = _AGAIN  # what form 3 means for booleans
_LONGEST = 11  # bits of a codeword: less to look up in a short block
_WORTH = 64  # a plane is coded if that saves one byte in so many: it takes time to decode
_SLACK = 256  # and with the table before it if that costs at most one bit in so many
_FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")

_Coded = tuple[int, bytes, int, int]  # form, table, begin and end of the rest


def _word(dtype: str) -> tuple[np.dtype[Any], int, int]:
    """Return the unsigned integer of a dtype's words, how many a value has, and their rotation."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} cannot be stored; known are {', '.join(DTYPES)}.")
    number = 2 if dtype.startswith("complex") else 1
    return np.dtype(f"<u{carrier(dtype).itemsize // number}"), number, int(dtype in _FLOATS)


def encode_planes(
    values: NDArray[Any], dtype: str, *, threads: int | None = None, compiled: bool | None = None
) -> bytes:
    """Return values as byte planes, each as it is or coded, whichever is shorter.

    Args:
        values: array of the carrier of ``dtype``, any shape; read in C order.
        dtype: one of `DTYPES`.
        threads: how many to run on, None for one a core. The bytes are the same.
        compiled: whether to use Numba; None where it is faster. The bytes are the same.

    At most two bytes longer than the values for every 2**16 of them (four if complex).
    """
    word, _, rotation = _word(dtype)
    flat = np.asarray(values).ravel()
    if flat.dtype.newbyteorder("=") != carrier(dtype).newbyteorder("="):
        raise ModelError(
            f"values of dtype {dtype} must come as {carrier(dtype)}, not {flat.dtype}."
        )
    words = flat.astype(carrier(dtype), copy=False).view(word)
    if dtype == "bool" and words.size and int(words.max()) > 1:
        raise ModelError("a value of dtype bool is neither 0 nor 1.")
    kernels = kernels_for(words.size, compiled)

    def encode_all(spare: bool) -> bytes:
        chunks = in_threads(
            lambda first: _encode_chunk(
                words[first : first + _CHUNK], dtype, rotation, spare, kernels
            ),
            range(0, words.size, _CHUNK),
            threads,
        )
        return b"".join(piece for chunk in chunks for piece in chunk)

    payload = encode_all(False)
    if flat.size > bounded_size(len(payload)):  # so short that a reader would refuse it
        return encode_all(True)
    return payload


def _split(words: NDArray[Any], rotation: int, kernels: ModuleType | None) -> NDArray[np.uint8]:
    """Return the byte planes of words, lowest first, shape (bytes, words)."""
    width = words.dtype.itemsize
    if width == 1:
        planes = words.view(np.uint8)[None]
    elif kernels is not None:
        planes = np.empty((width, words.size), dtype=np.uint8)
        from flyweight.coding import plane_kernels as loops

        split: Any = {2: loops.split_two, 4: loops.split_four, 8: loops.split_eight}[width]
        split(frozen(words), rotation, planes)
    else:
        if rotation:
            words = words << 1 | words >> (8 * width - 1)
        planes = np.ascontiguousarray(words.view(np.uint8).reshape(-1, width).T)
    return frozen(planes)


def _encode_chunk(
    words: NDArray[Any], dtype: str, rotation: int, spare: bool, kernels: ModuleType | None
) -> list[Any]:
    """Return a chunk as pieces of bytes; with ``spare`` each value is in its first plane."""
    width = words.dtype.itemsize
    size = words.size
    planes = _split(words, rotation, kernels)
    blocks = [slice(first, min(first + _BLOCK, size)) for first in range(0, size, _BLOCK)]
    forms = [0] * len(blocks)
    bodies: list[list[Any]] = [[] for _ in blocks]
    for index, plane in enumerate(planes):
        runs = [plane[block] for block in blocks]
        if dtype == "bool":
            coded = [_encode_booleans(run, spare) for run in runs]
        elif spare and index == 0:
            coded = [(_RAW, [run]) for run in runs]
        else:
            coded = _encode_runs(runs, kernels)
        for block, (form, body) in enumerate(coded):
            forms[block] |= form << 2 * index
            bodies[block] += body
    heads = [form.to_bytes((width + 3) // 4, "little") for form in forms]
    return [piece for head, body in zip(heads, bodies, strict=True) for piece in (head, *body)]


def _encode_booleans(run: NDArray[np.uint8], spare: bool) -> tuple[int, list[Any]]:
    if not spare and (run == run[0]).all():
        return _CONSTANT, [run[:1]]
    return _BITS, [np.packbits(run, bitorder="little")]


def _encode_runs(
    runs: list[NDArray[np.uint8]], kernels: ModuleType | None
) -> list[tuple[int, list[Any]]]:
    """Return the form and the bytes, in pieces, of a plane in each block of a chunk.

    A table for the whole chunk is tried first, then one for the block, and that of the block
    before is kept unless one of these saves more than it costs.
    """
    counts = [count_streams(run, 256, kernels, 1) for run in runs]
    totals = np.stack([count.sum(axis=0) for count in counts])
    constant = totals.max(axis=1) == totals.sum(axis=1)
    skewed = _skewed(totals) & ~constant
    common = _Table(totals[skewed].sum(axis=0))
    before: _Table | None = None
    coded: list[tuple[int, list[Any]]] = []
    for block, (run, count, total) in enumerate(zip(runs, counts, totals, strict=True)):
        if constant[block]:
            coded.append((_CONSTANT, [run[:1]]))
            continue
        if skewed[block]:
            table = common
            own = _Table(total)
            if own.cost(total) + own.cost(total) // _SLACK < common.cost(total):
                table = own
            again = before is not None and before.covers(total)
            cost = table.cost(total)
            if before is not None and again:
                bits = before.bits(total)
                again = bits <= cost + cost // _SLACK
                if again:
                    table, cost = before, bits
            most = run.size - max(1, run.size // _WORTH)
            if cost // 8 < most:
                payload = table.pack(run, count, kernels)
                head = b"" if again else varint(len(table.stored))
                head += varint(len(payload)) + (b"" if again else table.stored)
                if len(head) + len(payload) <= most:
                    before = table
                    coded.append((_AGAIN if again else _HUFFMAN, [head, payload]))
                    continue
        coded.append((_RAW, [run]))
    return coded


def _skewed(totals: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Decide for each row of counts whether a code might save an eighth of a bit, of 8.

    None saves more than log2(256 sum p**2), as Rényi's entropy of order 2 is below Shannon's,
    and 2**(1/8) > 1.0905. Blocks are short enough for 64 bits.
    """
    squares: NDArray[np.int64] = (totals**2).sum(axis=1)
    sizes: NDArray[np.int64] = totals.sum(axis=1)
    return np.greater(256 * 10_000 * squares, 10_905 * sizes**2)


class _Table:
    """A Huffman code made for some counts, what it costs, and a coder made when needed."""

    def __init__(self, total: NDArray[np.int64]) -> None:
        self.lengths = limited_lengths(total, _LONGEST)
        self.stored = pack_lengths(self.lengths)
        self._write: RunEncoder | None = None

    def covers(self, total: NDArray[np.int64]) -> bool:
        return bool(self.lengths[total > 0].all())

    def bits(self, total: NDArray[np.int64]) -> int:
        return int(total @ self.lengths)

    def cost(self, total: NDArray[np.int64]) -> int:
        return self.bits(total) + 8 * (len(self.stored) + 1)

    def pack(
        self, run: NDArray[np.uint8], counts: NDArray[np.int64], kernels: ModuleType | None
    ) -> bytes:
        if self._write is None:
            self._write = run_encoder(self.lengths, kernels)
        return pack_streams(run, counts, self.lengths, self._write, 1)


def decode_planes(
    payload: bytes,
    count: int,
    dtype: str,
    *,
    threads: int | None = None,
    compiled: bool | None = None,
) -> NDArray[Any]:
    """Return the ``count`` values that `encode_planes` stored, as an array of their carrier.

    Raises `FormatError` if the payload is not exactly what the encoder writes. A count above
    ``bounded_size(len(payload))`` is refused first.
    """
    word, number, rotation = _word(dtype)
    if not 0 <= count <= bounded_size(len(payload)):
        raise FormatError(f"{count} values are too many for {len(payload)} bytes.")
    size = count * number
    reader = ByteReader(payload, "the byte planes")
    is_bool = dtype == "bool"
    blocks = [
        _read_block(reader, min(_BLOCK, size - first), word.itemsize, is_bool)
        for first in range(0, size, _BLOCK)
    ]
    if reader.position != len(payload):
        raise FormatError(f"bytes follow after the byte planes of {count} values.")
    kernels = kernels_for(size, compiled)
    words = np.empty(size, dtype=word)
    data = np.frombuffer(payload, dtype=np.uint8)

    def decode_chunk(first: int) -> None:
        last = min(first + _CHUNK, size)
        decoders: list[RunDecoder | None] = [None] * word.itemsize
        room = np.empty((word.itemsize, min(_BLOCK, last - first)), dtype=np.uint8)
        for begin in range(first, last, _BLOCK):
            target = words[begin : min(begin + _BLOCK, last)]
            planes = [
                _decode_plane(data, coded, room[index, : target.size], decoders, index, kernels)
                for index, coded in enumerate(blocks[begin // _BLOCK])
            ]
            _join(planes, rotation, target, kernels)

    if is_bool:
        _decode_booleans(data, blocks, words)
    else:
        in_threads(decode_chunk, range(0, size, _CHUNK), threads)
    return words.view(carrier(dtype))


def _read_block(reader: ByteReader, size: int, width: int, is_bool: bool) -> list[_Coded]:
    """Return where the planes of a block are, without decoding any."""
    forms = int.from_bytes(reader.take((width + 3) // 4), "little")
    if forms >> 2 * width:
        raise FormatError("the forms of byte planes are padded with bits that are not zero.")
    planes = []
    for index in range(width):
        form = forms >> 2 * index & 3
        table = b""
        stored = {_RAW: size, _CONSTANT: 1, _BITS: (size + 7) // 8}.get(form, 0)
        if not is_bool and form in (_HUFFMAN, _AGAIN):
            table_size = reader.varint() if form == _HUFFMAN else 0
            stored = reader.varint()
            table = reader.take(table_size)
        begin = reader.position
        if stored > len(reader.data) - begin:
            reader.take(stored)  # raises
        reader.position = begin + stored
        planes.append((form, table, begin, begin + stored))
    return planes


def _decode_plane(
    data: NDArray[np.uint8],
    coded: _Coded,
    plane: NDArray[np.uint8],
    decoders: list[RunDecoder | None],
    index: int,
    kernels: ModuleType | None,
) -> NDArray[np.uint8]:
    """Return a plane, in the array ``plane`` or where it lies in the data; read-only."""
    form, table, begin, end = coded
    if form == _RAW:
        return data[begin:end]
    if form == _CONSTANT:
        plane[:] = data[begin]
        return frozen(plane)
    refuse_count(plane.size, end - begin)
    if form == _HUFFMAN:
        lengths = unpack_lengths(table, 256, kernels)
        if np.count_nonzero(lengths) == 1:
            raise FormatError("a byte plane of one repeated byte is Huffman-coded.")
        decoders[index] = run_decoder(lengths, plane, kernels)
    decode = decoders[index]
    if decode is None:
        raise FormatError("a byte plane uses the table before it, but it is the first.")
    unpack_streams(data[begin:end], plane, decode, 1)
    return frozen(plane)


def _decode_booleans(
    data: NDArray[np.uint8], blocks: list[list[_Coded]], words: NDArray[np.uint8]
) -> None:
    for index, ((form, _, begin, end),) in enumerate(blocks):
        target = words[index * _BLOCK : (index + 1) * _BLOCK]
        stored = data[begin:end]
        if form == _BITS:
            bits = np.unpackbits(stored, bitorder="little")
            if bits[target.size :].any():
                raise FormatError("booleans in bits are padded with bits that are not zero.")
            target[:] = bits[: target.size]
        elif form == _CONSTANT:
            target[:] = stored
        else:
            raise FormatError(f"booleans are stored in a form that is unknown ({form}).")
        if target.max() > 1:
            raise FormatError("a value of dtype bool is neither 0 nor 1.")


def _join(
    planes: list[NDArray[np.uint8]], rotation: int, words: NDArray[Any], kernels: ModuleType | None
) -> None:
    """Fill ``words`` from their byte planes, read-only; the reverse of `_split`."""
    width = len(planes)
    if width == 1:
        words[:] = planes[0]
    elif kernels is not None:
        from flyweight.coding import plane_kernels as loops

        join: Any = {2: loops.join_two, 4: loops.join_four, 8: loops.join_eight}[width]
        join(words, rotation, *planes)
    else:
        raw = words.view(np.uint8).reshape(-1, width)
        for index, plane in enumerate(planes):
            raw[:, index] = plane
        if rotation:
            words[:] = words >> 1 | words << (8 * width - 1)
