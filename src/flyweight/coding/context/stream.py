"""Context-coded streams: values in chunks, each one arithmetic-coded number."""

from __future__ import annotations

import sys
from math import prod
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.context import plain
from flyweight.coding.context.layout import (
    Layout,
    chosen_layout,
    header_of,
    read_layout,
)
from flyweight.coding.numba_choice import loops_for
from flyweight.coding.positions import bounded_size
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["Engine", "decode_context", "encode_context"]

Engine = Literal["auto", "python", "numba"]

_CHUNK = 1 << 22  # elements; part of the format
_WORTH_STARTING = 300_000  # values: in plain Python they take as long as Numba takes to start

_coded_plainly = [0]  # values, in this process


def encode_context(
    values: ArrayLike, *, engine: Engine = "auto", threads: int | None = None
) -> bytes:
    """Return quantized values as one context-coded stream.

    Args:
        values: integers in the range of int32, any shape; 0 is an exact zero, 1 the first level
            above zero, -1 the first below. The shape is not stored.
        engine: "python" or "numba" instead of the faster one that is there; same bytes.
        threads: how many chunks are coded at once; by default one a core. Same bytes.

    Raises ModelError if values are no integers or lie outside int32.
    """
    array = np.asarray(values)
    if array.size == 0:
        return b""
    if not np.issubdtype(array.dtype, np.integer):
        raise ModelError(f"context coding takes integers, not {array.dtype}.")
    least, most = int(array.min()), int(array.max())
    if least < -(1 << 31) or most >= 1 << 31:
        raise ModelError(f"context coding takes values of int32; {least} to {most} were given.")
    flat = np.require(array.ravel(), np.int32, ["C", "A", "W"])
    kernels = _kernels(engine, flat.size)
    sampled = _sampled_plainly if kernels is None else kernels.sampled_energies
    layout = chosen_layout(flat, array.shape, max(-least, most), sampled)
    pieces = [flat[begin:end] for begin, end in layout.chunks(flat.size, _CHUNK)]
    coded = in_threads(lambda piece: _encode_chunk(piece, layout, kernels), pieces, threads)
    lengths = b"".join(varint(len(chunk)) for chunk in coded[:-1])
    return header_of(layout) + lengths + b"".join(coded)


def decode_context(
    payload: bytes, shape: tuple[int, ...], *, engine: Engine = "auto", threads: int | None = None
) -> NDArray[np.int32]:
    """Return the values that `encode_context` stored, of the given shape.

    Raises FormatError if the payload is not exactly what the encoder writes. More elements
    than ``2**20 + 4096 * len(payload)`` are refused before anything is allocated.
    """
    count = prod(shape)
    if min(shape, default=0) < 0:
        raise FormatError(f"a context-coded tensor has the negative shape {shape}.")
    if count == 0:
        if payload:
            raise FormatError("a context-coded stream of no values is not empty.")
        return np.zeros(shape, dtype=np.int32)
    if count > bounded_size(len(payload)):
        raise FormatError(f"{count} context-coded values cannot fit in {len(payload)} bytes.")
    reader = ByteReader(payload, "a context-coded stream")
    layout = read_layout(reader, shape)
    chunks = layout.chunks(count, _CHUNK)
    lengths = [reader.varint() for _ in chunks[1:]]
    coded = [reader.take(length) for length in lengths] + [reader.rest()]
    kernels = _kernels(engine, count)
    values = np.zeros(count, dtype=np.int32)
    jobs = [(chunk, values[begin:end]) for chunk, (begin, end) in zip(coded, chunks, strict=True)]
    in_threads(lambda job: _decode_chunk(*job, layout, kernels), jobs, threads)
    return values.reshape(shape)


def _kernels(engine: Engine, count: int) -> ModuleType | None:
    """Return the compiled loops if they are asked for, have been loaded, or pay.

    A file is many small tensors, and how many are to come is not known here. So Numba is started
    when as much has been coded without it as starting it costs: that is never more than twice
    what the better choice would have cost.
    """
    if engine == "python":
        return None
    loops = f"{__package__}.kernels"
    if engine == "auto" and loops not in sys.modules:
        _coded_plainly[0] += count
        if _coded_plainly[0] <= _WORTH_STARTING:
            return None
    return loops_for(loops, sys.maxsize, True if engine == "numba" else None)


def _sampled_plainly(values: NDArray[np.int32], width: int, step: int) -> NDArray[np.int64]:
    return np.array(plain.sampled_energies(values.tolist(), width, step), dtype=np.int64)


def _last_words(low: int, size: int) -> int:
    """Return the number in low...low + size - 1 that ends in most zero bytes."""
    for bits in range(48, 0, -8):
        number = -(-low >> bits) << bits
        if number < low + size:
            return number
    return low


def _trimmed(last: int) -> bytes:
    return (last & (1 << 48) - 1).to_bytes(6, "big").rstrip(b"\0")


def _encode_chunk(values: NDArray[np.int32], layout: Layout, kernels: ModuleType | None) -> bytes:
    settings = (layout.has_zeros, layout.height, layout.width, layout.bounds)
    words: NDArray[np.uint16] | list[int]
    if kernels is None:
        words, low, size = plain.encode_chunk(values.tolist(), *settings)
    else:
        words, low, size = kernels.encode_chunk(values, *settings)
    last = _last_words(low, size)
    if last >> 48:
        plain.carry(words)
    return np.asarray(words).astype(">u2").tobytes() + _trimmed(last)


def _decode_chunk(
    chunk: bytes, values: NDArray[np.int32], layout: Layout, kernels: ModuleType | None
) -> None:
    settings = (layout.has_zeros, layout.height, layout.width, layout.bounds)
    words = np.frombuffer(chunk + bytes(len(chunk) % 2), dtype=">u2").astype(np.uint16)
    if kernels is None:
        found, offset, size, at = plain.decode_chunk(words.tolist(), values.size, *settings)
        values[: len(found)] = found
    else:
        offset, size, at = kernels.decode_chunk(words, values, *settings)
    if at == -2:
        raise FormatError("a context-coded stream holds a value outside int32.")
    if at >= 0:
        last = int.from_bytes(chunk[2 * at - 6 : 2 * at].ljust(6, b"\0"), "big")
        low = (last - offset) % (1 << 48)
        expected = _last_words(low, size) % (1 << 48)
        if last == expected and len(chunk) == 2 * at - 6 + len(_trimmed(last)):
            return
    raise FormatError(
        f"a context-coded stream of {values.size} values does not end at {len(chunk)} bytes."
    )
