"""rANS streams: symbols in chunks of lane states and words."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.numba_choice import loops_for
from flyweight.coding.positions import bounded_size
from flyweight.coding.rans import plain
from flyweight.coding.rans.table import LOW, chosen_model, read_model
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["MAX_ALPHABET", "decode_rans", "encode_rans"]

Engine = Literal["auto", "numpy", "numba"]

MAX_ALPHABET = 1 << 16

_CHUNK = 1 << 21  # symbols; part of the format
_COMPILED: dict[Engine, bool | None] = {"auto": None, "numpy": False, "numba": True}


def encode_rans(
    symbols: ArrayLike, alphabet: int, *, engine: Engine = "auto", threads: int | None = None
) -> tuple[bytes, bytes]:
    """Return the symbols as a table of frequencies and a payload of states and words.

    Args:
        symbols: integers in 0..alphabet-1, any shape; read in C order.
        alphabet: number of different symbols there could be, at most 65,536.
        engine: "numba" for compiled loops, "numpy" for none; "auto" compiles for long streams
            and where Numba can be imported. The bytes are the same.
        threads: at most that many chunks at once in compiled loops; all cores by default.

    Returns (table, payload). No symbols give (b"", b""); a lone distinct symbol needs no payload.
    """
    if not 0 <= alphabet <= MAX_ALPHABET:
        raise ValueError(f"an alphabet has at most {MAX_ALPHABET} symbols, not {alphabet}")
    flat = np.asarray(symbols).ravel()
    if not flat.size:
        return b"", b""
    if not np.issubdtype(flat.dtype, np.integer):
        raise ValueError(f"symbols must be integers, not {flat.dtype}")
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= alphabet:
        raise ValueError(f"symbols must lie in 0..{alphabet - 1}, not {low}..{high}")
    if low == high:
        return low.to_bytes((low.bit_length() + 7) // 8, "little"), b""
    kernels = _kernels(engine, flat.size)
    workers = threads if kernels is not None else 1
    bounds = list(pairwise(_chunk_bounds(flat.size)))
    narrow = np.empty(flat.size, dtype=np.uint16)

    def count(bound: tuple[int, int]) -> NDArray[np.int64]:
        piece = narrow[slice(*bound)]
        piece[:] = flat[slice(*bound)]
        if kernels is None:
            return np.bincount(piece, minlength=alphabet)
        counts: NDArray[np.int64] = kernels.count_symbols(piece, alphabet)
        return counts

    model, table = chosen_model(np.sum(in_threads(count, bounds, workers), axis=0), len(bounds))
    entries = plain.encoder_entries(model, alphabet)
    encode_lanes = (kernels or plain).encode_lanes

    def encode(bound: tuple[int, int]) -> tuple[bytes, memoryview]:
        states = np.full(model.lanes, model.start, dtype=np.uint32)
        words = encode_lanes(narrow[slice(*bound)], entries, model.bits, states)
        return _pack_states(states), memoryview(words.astype("<u2", copy=False))

    chunks = in_threads(encode, bounds, workers)
    lengths = [varint(len(states) + words.nbytes) for states, words in chunks[:-1]]
    return table, b"".join([*lengths, *(part for chunk in chunks for part in chunk)])


def decode_rans(
    table: bytes,
    payload: bytes,
    count: int,
    alphabet: int,
    *,
    engine: Engine = "auto",
    threads: int | None = None,
) -> NDArray[np.uint16]:
    """Return the ``count`` symbols that `encode_rans` stored, shape (count,).

    ``engine`` and ``threads`` are those of `encode_rans`. Raises `FormatError` if the table is
    not whole, or the payload does not end, every state at its start, with the last symbol.
    Memory is two bytes a symbol, those of the payload, and a few megabytes; a count above
    ``bounded_size(len(payload))`` is refused first, unless there is only one symbol to repeat.
    """
    if not payload:
        return _repeated_symbol(table, count, alphabet)
    if not 1 <= alphabet <= MAX_ALPHABET:
        raise FormatError(f"an rANS alphabet has 1 to {MAX_ALPHABET} symbols, not {alphabet}.")
    if not 1 <= count <= bounded_size(len(payload)):
        raise FormatError(f"{count} rANS symbols cannot fit in {len(payload)} bytes.")
    model = read_model(table, alphabet)
    bounds = _chunk_bounds(count)
    if model.lanes == 1 and len(bounds) > 2:
        raise FormatError("an rANS stream of several chunks has only one lane.")
    chunks = _split(payload, len(bounds) - 1)
    kernels = _kernels(engine, count)
    slots = plain.decoder_slots(model)
    out = np.empty(count, dtype=np.uint16)

    decode_lanes = (kernels or plain).decode_lanes

    def decode(place: int) -> bool:
        states, words = _unpack_states(chunks[place], model.lanes)
        piece = out[bounds[place] : bounds[place + 1]]
        taken = decode_lanes(words, slots, model.bits, states, piece)
        return bool(taken == words.size and (states == model.start).all())

    if not all(in_threads(decode, range(len(chunks)), threads if kernels is not None else 1)):
        raise FormatError(f"{count} rANS symbols do not end at {len(payload)} bytes.")
    return out


def _repeated_symbol(table: bytes, count: int, alphabet: int) -> NDArray[np.uint16]:
    symbol = int.from_bytes(table[:3], "little")
    if count < 1:
        if count or table:
            raise FormatError("an rANS stream of no symbols is not empty.")
    elif len(table) != (symbol.bit_length() + 7) // 8 or not symbol < alphabet <= MAX_ALPHABET:
        raise FormatError("an rANS stream without a payload does not name the symbol to repeat.")
    return np.full(count, symbol, dtype=np.uint16)


def _chunk_bounds(count: int) -> list[int]:
    """Return where chunks begin and end: an even number of them, so that two threads balance."""
    chunks = 2 * -(-count // (2 * _CHUNK)) if count > _CHUNK else 1
    return [place * count // chunks for place in range(chunks + 1)]


def _split(payload: bytes, chunks: int) -> list[bytes]:
    reader = ByteReader(payload, "an rANS payload")
    lengths = [reader.varint() for _ in range(chunks - 1)]
    return [reader.take(length) for length in lengths] + [reader.rest()]


def _pack_states(states: NDArray[np.uint32]) -> bytes:
    if states.size > 1:
        return states.astype("<u4", copy=False).tobytes()
    state = int(states[0])
    return state.to_bytes((state.bit_length() + 7) // 8, "little")


def _unpack_states(chunk: bytes, lanes: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    length = 4 * lanes
    if lanes == 1:
        # before a word the state is at least 65,536: three bytes or four, so parity decides
        length = len(chunk) if len(chunk) < 5 else 4 - len(chunk) % 2
        if not chunk or not chunk[length - 1]:
            raise FormatError("the state of an rANS stream is missing or padded with zeros.")
        states = np.array([int.from_bytes(chunk[:length], "little")], dtype=np.uint32)
    elif len(chunk) < length or len(chunk) % 2:
        raise FormatError(f"{len(chunk)} bytes cannot hold {lanes} rANS states and whole words.")
    else:
        states = np.frombuffer(chunk, dtype="<u4", count=lanes).astype(np.uint32)
        if int(states.min()) < LOW:
            raise FormatError(f"an rANS state is {states.min()}, below {LOW}.")
    return states, np.frombuffer(chunk, dtype="<u2", offset=length).astype(np.uint16)


def _kernels(engine: Engine, count: int) -> ModuleType | None:
    """Return the compiled loops if they are asked for, or pay and can be had."""
    return loops_for(f"{__package__}.kernels", count, _COMPILED[engine])
