"""Static range asymmetric numeral systems (rANS): integers to words and back.

Theory: rANS codes a symbol of frequency f out of M = 2**bits at log2(M / f) bits, fractions
included, so it comes within a few thousandths of a bit of the order-0 entropy, below one bit a
symbol too. The whole past is one integer, the state; what overflows it leaves as 16-bit words.
Several states (*lanes*) take turns with the symbols and share one stream of words, which lets
a processor, or NumPy, work on many at once. A long stream is cut into chunks that share one
table, for threads.

The table keeps the frequencies as rounded weights (a short stream does not repay exact ones)
and follows from integers alone: the same symbols give the same bytes on every machine, for any
number of threads, with Numba or without.

Cost: with Numba some 2 ns a symbol and core to decode and 3 to encode, after half a second of
start-up or more; NumPy needs no start-up and is ten to fifty times slower.

Example:

>>> table, payload = encode_rans([0] * 90 + [1, 2] * 5, 3)
>>> len(table), len(payload)
(3, 8)
>>> decode_rans(table, payload, 100, 3)[-4:].tolist()
[1, 2, 1, 2]

Sources: Duda 2013, "Asymmetric numeral systems"; Giesen 2014, "Interleaved entropy coders".
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.positions import FREE_SIZE, bounded_size
from flyweight.coding.threads import in_threads
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = ["MAX_ALPHABET", "decode_rans", "encode_rans", "frequencies"]

MAX_ALPHABET = 1 << 16
Engine = Literal["auto", "numpy", "numba"]

_LOW = 1 << 16  # a state below this takes a word
_MIN_BITS = 9
_MAX_BITS = 16
_BITS_OF_SHORT = (9, 12)
_BITS_OF_LONG = (12, 14, 16)
_SHORT = 4096  # symbols
_EXACT = 7  # the precision that stores weights as they are
_MAX_WEIGHT = 0xFFFF
_MAX_TABLE = 1 << 19

_POWERS = np.left_shift(1, np.arange(1, 20))

_BYTES_PER_LANE = 1024
_MAX_LANES = 128
_CHUNK = 1 << 21
_LANES_FOR_NUMPY = 32  # with fewer, plain integers are faster
_COMPILE_ABOVE = 2_000_000
_USE_COMPILED_ABOVE = 50_000


@dataclass(frozen=True)
class _Model:
    """What a table says: the symbols that occur, their frequencies, and how lanes lie."""

    used: NDArray[np.int64]
    frequency: NDArray[np.int64]
    bits: int
    lanes: int

    @property
    def cumulative(self) -> NDArray[np.int64]:
        return np.cumsum(self.frequency) - self.frequency

    @property
    def start(self) -> int:
        """The state a lane starts from: a lone lane needs no lower bound to find its words."""
        return 0 if self.lanes == 1 else _LOW


def frequencies(counts: ArrayLike, bits: int) -> NDArray[np.int64]:
    """Return integer frequencies that sum to 2**bits and make the code as short as they can.

    Arguments:
        counts: occurrences of each symbol, shape (U,), all positive; 2 <= U <= 2**bits.
        bits: probability bits, at most 16.

    Returns shape (U,): each at least 1, and at most 2**bits - 2**bits // 512, so that no symbol
    is cheaper than 1/512 bit and a short file cannot stand for a vast array. Starts below the
    proportional share, and moves units while one is worth more where it goes; what the unit
    after f is worth, count * ln(1 + 1/f), is taken as count * (6f + 3) / (6f**2 + 6f + 1), in
    integers.

    >>> frequencies([90, 5, 5], 9).tolist()
    [460, 26, 26]
    """
    counts = np.asarray(counts, dtype=np.int64)
    size = 1 << bits
    ceiling = _ceiling(bits)
    scaled = np.maximum(counts >> max(0, int(counts.sum()).bit_length() - 28), 1)
    result = np.ones(counts.size, dtype=np.int64)
    active = np.ones(counts.size, dtype=np.bool_)
    while True:
        room = size - int(np.count_nonzero(~active))
        share = scaled * room // int(scaled[active].sum())
        if not (active & (share < 1)).any():
            break
        active &= share >= 1
    result[active] = np.minimum(share[active], ceiling)

    def worth(unit: NDArray[np.int64]) -> NDArray[np.int64]:
        value: NDArray[np.int64] = scaled * (6 * unit + 3) << 14
        return value // (6 * unit * unit + 6 * unit + 1)

    spare = size - int(result.sum())
    while spare:
        gain = np.where(result < ceiling, worth(result), -1)
        best = np.argsort(-gain, kind="stable")[: min(spare, int(np.count_nonzero(gain >= 0)))]
        result[best] += 1
        spare -= best.size
    while True:
        gain = np.where(result < ceiling, worth(result), -1)
        loss = np.where(result > 1, worth(np.maximum(result - 1, 1)), np.iinfo(np.int64).max)
        up, down = np.argsort(-gain, kind="stable"), np.argsort(loss, kind="stable")
        moves = int(np.count_nonzero(gain[up] > loss[down]))
        if not moves:
            return result
        result[up[:moves]] += 1
        result[down[:moves]] -= 1


def _ceiling(bits: int) -> int:
    return (1 << bits) - max(1, 1 << bits >> 9)


def _code_length(counts: NDArray[np.int64], frequency: NDArray[np.int64], bits: int) -> int:
    """Return the bits that the counted symbols take."""
    cost: int = (counts * ((bits << 16) - _log2_table()[frequency])).sum().item()
    return cost >> 16


@lru_cache(maxsize=1)
def _log2_table() -> NDArray[np.int64]:
    """Return 2**16 log2(n) for n below 2**16, rounded down, in integers; shape (65536,)."""
    log2 = _floor_log2(np.arange(1 << 16))
    mantissa = np.arange(1 << 16).astype(np.uint64) << (31 - log2).astype(np.uint64)
    for _ in range(16):
        mantissa = mantissa * mantissa >> np.uint64(31)
        carry = mantissa >> np.uint64(32)
        mantissa >>= carry
        log2 = 2 * log2 + carry.astype(np.int64)
    return log2


def _floor_log2(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    result: NDArray[np.int64] = _POWERS.searchsorted(numbers, side="right")
    return result


def _chosen_model(counts: NDArray[np.int64], chunks: int) -> tuple[_Model, bytes]:
    """Return the model, and its table, that store the counted symbols in fewest bits."""
    used = np.flatnonzero(counts)
    occurring = counts[used]
    total = int(occurring.sum())
    used_bits = _used_bits(used, counts.size)
    best: tuple[int, _Model, int, int, NDArray[np.int64]] | None = None
    for bits in _BITS_OF_SHORT if total < _SHORT else _BITS_OF_LONG:
        size = 1 << bits
        if used.size > size:
            continue
        wanted = frequencies(occurring, bits)
        least = _code_length(occurring, wanted, bits)
        if best is not None and _with_penalty(least, bits) >= best[0]:
            continue
        sources = [wanted - 1, occurring] if total < _SHORT else [wanted - 1]
        for precision, source in product(range(_EXACT + 1), sources):
            numbers = _rounded(source, precision)
            if not numbers.any():
                numbers = np.ones_like(numbers)
            frequency = _frequencies_from(_weights(numbers, precision), bits)
            if frequency.max() > _ceiling(bits):
                continue
            steps = np.diff(numbers, prepend=_first_guess(bits, precision, used.size))
            folded = np.where(steps < 0, -2 * steps - 1, 2 * steps)
            widths = _exp_golomb_widths(folded)
            order = widths.index(min(widths))
            payload = _code_length(occurring, frequency, bits)
            lanes = _lanes_for(payload // 8 // chunks, total, chunks)
            cost = _with_penalty(payload + widths[order] + bits + 32 * lanes, bits)
            if best is None or cost < best[0]:
                best = cost, _Model(used, frequency, bits, lanes), precision, order, folded
    assert best is not None  # 16 bits suit every alphabet, and exact weights every ceiling
    _, model, precision, order, folded = best
    lane_bits = "0" if model.lanes == 1 else f"1{model.lanes.bit_length() - 1:03b}"
    head = f"{lane_bits}{model.bits - _MIN_BITS:03b}{precision:03b}{order:03b}"
    text = head + used_bits + "".join(_exp_golomb(value, order) for value in folded.tolist())
    length = (len(text) + 7) // 8
    return model, int(text.ljust(8 * length, "0"), 2).to_bytes(length, "big")


def _with_penalty(cost: int, bits: int) -> int:
    """Return a cost raised by 1/256 above 12 bits: look-ups in a larger table are slower."""
    return cost + (cost >> 8) if bits > 12 else cost


def _lanes_for(chunk_bytes: int, total: int, chunks: int) -> int:
    lanes = 1 << max(0, min(_MAX_LANES, chunk_bytes // _BYTES_PER_LANE).bit_length() - 1)
    return max(lanes, 2) if chunks > 1 or total > FREE_SIZE else lanes


def _rounded(weights: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    """Return the numbers of the nearest weights that have ``precision`` bits after the first."""
    if precision == _EXACT:
        return weights
    exponent = np.maximum(_floor_log2(weights) - precision, 0)
    return (exponent << precision) + ((weights + (1 << exponent >> 1)) >> exponent)


def _weights(numbers: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    if precision == _EXACT:
        return numbers
    exponent = np.maximum((numbers >> precision) - 1, 0)
    weights: NDArray[np.int64] = (numbers - (exponent << precision)) << exponent
    return weights


def _frequencies_from(weights: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return frequencies of at least 1 that share out 2**bits in proportion to the weights."""
    ends = np.cumsum(weights)
    bounds = ends * ((1 << bits) - weights.size) // int(ends[-1])
    frequency: NDArray[np.int64] = np.diff(bounds, prepend=0) + 1
    return frequency


def _first_guess(bits: int, precision: int, used: int) -> int:
    even = np.array([((1 << bits) - used) // used], dtype=np.int64)
    return int(_rounded(even, precision)[0])


def _used_bits(used: NDArray[np.int64], alphabet: int) -> str:
    if used.size == alphabet:
        return "1"
    flags = np.zeros(alphabet + 2, dtype=np.int64)
    flags[used + 1] = 1
    edges = np.flatnonzero(np.diff(flags))
    gaps = np.diff(edges, prepend=0).tolist()
    gaps[0] += 1  # there may be no unused symbol before the first used one
    if edges[-1] < alphabet:
        gaps.append(alphabet - int(edges[-1]))
    runs = "".join(_exp_golomb(gap - 1, 0) for gap in gaps)
    bitmap = "".join(map(str, flags[1:-1].tolist()))
    return "00" + runs if len(runs) <= alphabet else "01" + bitmap


def _exp_golomb_widths(values: NDArray[np.int64]) -> list[int]:
    """Return the bits that all values take together, for each order from 0 to 7."""
    orders = np.arange(8)[:, None]
    widths: list[int] = (2 * _floor_log2((values >> orders) + 1) + 1 + orders).sum(1).tolist()
    return widths


def _exp_golomb(value: int, order: int) -> str:
    digits = f"{(value >> order) + 1:b}"
    low = f"{value & ((1 << order) - 1):0{order}b}" if order else ""
    return "0" * (len(digits) - 1) + digits + low


class _BitReader:
    """Read the bits of a table, highest of each byte first."""

    def __init__(self, table: bytes) -> None:
        self.bits = bin(int.from_bytes(b"\1" + table, "big"))[3:]  # without 0b and the 1
        self.at = 0

    def text(self, length: int) -> str:
        """Return the next ``length`` bits."""
        piece = self.bits[self.at : self.at + length]
        self.at += length
        if len(piece) < length:
            raise FormatError("an rANS table is cut short.")
        return piece

    def number(self, length: int) -> int:
        """Return the next ``length`` bits as a number, highest first."""
        return int(self.text(length), 2) if length else 0

    def exp_golomb(self, order: int) -> int:
        """Return the next Exp-Golomb number."""
        one = self.bits.find("1", self.at, self.at + 20)
        if one < 0:
            raise FormatError("an rANS table holds a number that is cut short or too large.")
        zeros = one - self.at
        self.at = one
        return (self.number(zeros + 1) - 1 << order) + self.number(order)

    def close(self) -> None:
        """Refuse bytes that are not needed, and padding that is not zero."""
        if len(self.bits) - self.at > 7 or "1" in self.bits[self.at :]:
            raise FormatError("an rANS table does not end where its last weight does.")


def _read_model(table: bytes, alphabet: int) -> _Model:
    if len(table) > _MAX_TABLE:
        raise FormatError(f"an rANS table has at most {_MAX_TABLE} bytes, not {len(table)}.")
    reader = _BitReader(table)
    lanes = 1
    if reader.number(1):
        lanes = 1 << reader.number(3)
        if lanes == 1:
            raise FormatError("an rANS table tells of one lane in the form for several.")
    bits = _MIN_BITS + reader.number(3)
    precision = reader.number(3)
    order = reader.number(3)
    used = _read_used(reader, alphabet)
    if not 2 <= used.size <= 1 << bits:
        raise FormatError(f"an rANS table of {bits} bits cannot hold {used.size} symbols.")
    number = _first_guess(bits, precision, used.size)
    largest = int(_rounded(np.array([_MAX_WEIGHT], dtype=np.int64), precision)[0])
    numbers: list[int] = []
    for symbol in used.tolist():
        folded = reader.exp_golomb(order)
        number += -(folded + 1 >> 1) if folded & 1 else folded >> 1
        if not 0 <= number <= largest:
            raise FormatError(f"an rANS table gives symbol {symbol} a weight out of range.")
        numbers.append(number)
    reader.close()
    weights = _weights(np.array(numbers, dtype=np.int64), precision)
    if not weights.any():
        raise FormatError("an rANS table gives every symbol a weight of zero.")
    return _Model(used, _frequencies_from(weights, bits), bits, lanes)


def _read_used(reader: _BitReader, alphabet: int) -> NDArray[np.int64]:
    if reader.number(1):
        return np.arange(alphabet)
    if reader.number(1):
        return np.flatnonzero(np.frombuffer(reader.text(alphabet).encode(), dtype=np.uint8) & 1)
    flags = np.zeros(alphabet, dtype=np.bool_)
    at = reader.exp_golomb(0)
    is_used = True
    while at < alphabet:
        run = reader.exp_golomb(0) + 1
        flags[at : at + run] = is_used
        at += run
        is_used = not is_used
    if at > alphabet:
        raise FormatError(f"an rANS table tells of symbols beyond its alphabet of {alphabet}.")
    return np.flatnonzero(flags)


def encode_rans(
    symbols: ArrayLike, alphabet: int, *, engine: Engine = "auto", threads: int | None = None
) -> tuple[bytes, bytes]:
    """Return the symbols as a table of frequencies and a payload of states and words.

    Arguments:
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
    flat = np.require(flat, np.uint16, ["C", "A", "W"])
    kernels = _kernels(engine, flat.size)
    workers = threads if kernels is not None else 1
    pieces = [flat[first:last] for first, last in pairwise(_chunk_bounds(flat.size))]

    def count(piece: NDArray[np.uint16]) -> NDArray[np.int64]:
        if kernels is None:
            return np.bincount(piece, minlength=alphabet)
        counts: NDArray[np.int64] = kernels.count_symbols(piece, alphabet)
        return counts

    model, table = _chosen_model(np.sum(in_threads(count, pieces, workers), axis=0), len(pieces))
    entries = _encoder_entries(model, alphabet)

    def encode(piece: NDArray[np.uint16]) -> bytes:
        states = np.full(model.lanes, model.start, dtype=np.uint32)
        if kernels is not None:
            words = np.empty(piece.size + 1, dtype=np.uint16)
            words = words[kernels.encode_lanes(piece, entries, model.bits, states, words) :]
        else:
            words = _encode_lanes(piece, entries, model.bits, states)
        return _pack_states(states) + words.astype("<u2", copy=False).tobytes()

    chunks = in_threads(encode, pieces, workers)
    return table, b"".join([varint(len(chunk)) for chunk in chunks[:-1]] + chunks)


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
    model = _read_model(table, alphabet)
    bounds = _chunk_bounds(count)
    if model.lanes == 1 and len(bounds) > 2:
        raise FormatError("an rANS stream of several chunks has only one lane.")
    chunks = _split(payload, len(bounds) - 1)
    kernels = _kernels(engine, count)
    slots = _decoder_slots(model)
    out = np.empty(count, dtype=np.uint16)

    def decode(place: int) -> bool:
        states, words = _unpack_states(chunks[place], model.lanes)
        piece = out[bounds[place] : bounds[place + 1]]
        loop = kernels.decode_lanes if kernels is not None else _decode_lanes
        taken = loop(words, slots, model.bits, states, piece)
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
        raise FormatError("an rANS stream without a payload does not tell the symbol to repeat.")
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
        # before a word the state is at least 65,536: three bytes or four, so parity tells
        length = len(chunk) if len(chunk) < 5 else 4 - len(chunk) % 2
        if not chunk or not chunk[length - 1]:
            raise FormatError("the state of an rANS stream is missing or padded with zeros.")
        states = np.array([int.from_bytes(chunk[:length], "little")], dtype=np.uint32)
    elif len(chunk) < length or len(chunk) % 2:
        raise FormatError(f"{len(chunk)} bytes cannot hold {lanes} rANS states and whole words.")
    else:
        states = np.frombuffer(chunk, dtype="<u4", count=lanes).astype(np.uint32)
        if int(states.min()) < _LOW:
            raise FormatError(f"an rANS state is {states.min()}, below {_LOW}.")
    return states, np.frombuffer(chunk, dtype="<u2", offset=length).astype(np.uint16)


def _kernels(engine: Engine, count: int) -> ModuleType | None:
    """Return the compiled loops if they are asked for, or pay and can be had."""
    least = _USE_COMPILED_ABOVE if "numba" in sys.modules else _COMPILE_ABOVE
    if engine == "numpy" or (engine == "auto" and count <= least):
        return None
    try:
        from flyweight.coding import rans_kernels
    except ImportError:
        if engine == "numba":
            raise
        return None
    return rans_kernels


def _encoder_entries(model: _Model, alphabet: int) -> NDArray[np.uint64]:
    """Return what `rans_kernels.encode_lanes` looks up, shape (2 * alphabet,)."""
    entries = np.zeros((alphabet, 2), dtype=np.uint64)
    one = 1 << (32 + model.bits)
    entries[model.used, 0] = (one + model.frequency - 1) // model.frequency
    entries[model.used, 1] = (1 << model.bits) - model.frequency << 32 | model.cumulative
    return entries.ravel()


def _decoder_slots(model: _Model) -> NDArray[np.uint64]:
    """Return what `rans_kernels.decode_lanes` looks up, shape (2**bits,)."""
    start = model.used << 16 | model.frequency
    within = np.arange(1 << model.bits) - np.repeat(model.cumulative, model.frequency)
    slots: NDArray[np.uint64] = (np.repeat(start, model.frequency) | within << 32).astype(np.uint64)
    return slots


def _encode_lanes(
    symbols: NDArray[np.uint16],
    entries: NDArray[np.uint64],
    bits: int,
    states: NDArray[np.uint32],
) -> NDArray[np.uint16]:
    """Encode as `rans_kernels.encode_lanes` does; return the words."""
    lanes = states.size
    cumulative = entries[1::2].astype(np.uint32)
    frequency = np.uint32(1 << bits) - (entries[1::2] >> np.uint64(32)).astype(np.uint32)
    if lanes < _LANES_FOR_NUMPY:
        return _encode_one_by_one(symbols, frequency.tolist(), cumulative.tolist(), bits, states)
    steps = range(0, symbols.size, lanes)
    given = []
    for first in reversed(steps):
        step = symbols[first : first + lanes]
        state = states[: step.size]
        share = frequency[step]
        full = (state >> np.uint32(32 - bits) >= share).nonzero()[0]
        given.append(state[full].astype(np.uint16))  # the lower half
        state[full] >>= np.uint32(16)
        quotient, rest = np.divmod(state, share)
        state[:] = (quotient << np.uint32(bits)) + rest + cumulative[step]
    return np.concatenate(given[::-1])


def _encode_one_by_one(
    symbols: NDArray[np.uint16],
    frequency: list[int],
    cumulative: list[int],
    bits: int,
    states: NDArray[np.uint32],
) -> NDArray[np.uint16]:
    lanes = states.tolist()
    last = len(lanes) - 1
    room = 32 - bits
    given = []
    for place, symbol in zip(range(symbols.size - 1, -1, -1), symbols[::-1].tolist(), strict=True):
        state = lanes[place & last]
        share = frequency[symbol]
        if state >> room >= share:
            given.append(state & 0xFFFF)
            state >>= 16
        quotient, rest = divmod(state, share)
        lanes[place & last] = (quotient << bits) + rest + cumulative[symbol]
    states[:] = lanes
    return np.array(given[::-1], dtype=np.uint16)


def _decode_lanes(
    words: NDArray[np.uint16],
    slots: NDArray[np.uint64],
    bits: int,
    states: NDArray[np.uint32],
    out: NDArray[np.uint16],
) -> int:
    """Decode as `rans_kernels.decode_lanes` does; return how many words were taken."""
    lanes = states.size
    frequency = (slots & np.uint64(0xFFFF)).astype(np.uint32)
    within = (slots >> np.uint64(32)).astype(np.uint32)
    symbol_of = (slots >> np.uint64(16)).astype(np.uint16)
    if lanes < _LANES_FOR_NUMPY:
        visited, taken = _decode_one_by_one(
            words.tolist(), frequency.tolist(), within.tolist(), bits, states, out.size
        )
        out[:] = symbol_of[visited]
        return taken
    mask, shift, half = np.uint32((1 << bits) - 1), np.uint32(bits), np.uint32(16)
    wide = words.astype(np.uint32)
    taken = 0
    for first in range(0, out.size, lanes):
        state = states[: out.size - first]
        slot = state & mask
        symbol_of.take(slot, out=out[first : first + lanes], mode="clip")
        state >>= shift
        state *= frequency.take(slot)
        state += within.take(slot)
        low = (state < _LOW).nonzero()[0]
        if low.size:
            piece = wide[taken : taken + low.size]
            if piece.size < low.size:
                break  # out of words: some state stays low, and the caller refuses it
            state[low] = state[low] << half | piece
            taken += low.size
    return taken


def _decode_one_by_one(
    words: list[int],
    frequency: list[int],
    within: list[int],
    bits: int,
    states: NDArray[np.uint32],
    count: int,
) -> tuple[list[int], int]:
    lanes = states.tolist()
    last = len(lanes) - 1
    mask = (1 << bits) - 1
    end = len(words)
    taken = 0
    visited = []
    for place in range(count):
        state = lanes[place & last]
        slot = state & mask
        visited.append(slot)
        state = frequency[slot] * (state >> bits) + within[slot]
        if state < _LOW and taken < end:
            state = state << 16 | words[taken]
            taken += 1
        lanes[place & last] = state
    states[:] = lanes
    return visited, taken
