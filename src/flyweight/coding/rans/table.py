"""Tables of rANS streams: choose a frequency model, encode it, and decode it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.positions import FREE_SIZE
from flyweight.coding.rans.frequencies import (
    ceiling,
    code_length,
    floor_log2,
    frequencies,
)
from flyweight.errors import FormatError

__all__ = ["LOW", "Model", "chosen_model", "read_model"]

LOW = 1 << 16  # a state below this takes a word
_MIN_BITS = 9
_BITS_OF_SHORT = (9, 12)
_BITS_OF_LONG = (12, 14, 16)
_SHORT = 4096  # symbols
_LONG = 1 << 17  # symbols, from which the few bytes of a rougher table are not worth the search
_EXACT = 7  # the precision that stores weights as they are
_MAX_WEIGHT = 0xFFFF
_MAX_TABLE = 1 << 19
_BYTES_PER_LANE = 1024
_MAX_LANES = 128


@dataclass(frozen=True)
class Model:
    """Decoded frequency table: symbols, frequencies and the arrangement of lanes."""

    used: NDArray[np.int64]
    frequency: NDArray[np.int64]
    bits: int
    lanes: int

    @property
    def cumulative(self) -> NDArray[np.int64]:
        """Sum of the frequencies before each."""
        return np.cumsum(self.frequency) - self.frequency

    @property
    def start(self) -> int:
        """The state a lane starts from: a lone lane needs no lower bound to find its words."""
        return 0 if self.lanes == 1 else LOW


def chosen_model(counts: NDArray[np.int64], chunks: int) -> tuple[Model, bytes]:
    """Return the model, and its table, that store the counted symbols in fewest bits."""
    used = np.flatnonzero(counts)
    occurring = counts[used]
    total = int(occurring.sum())
    used_bits = _used_bits(used, counts.size)
    best: tuple[int, Model, int, int, NDArray[np.int64]] | None = None
    precisions = range(_EXACT if total >= _LONG else 0, _EXACT + 1)
    for bits in _BITS_OF_SHORT if total < _SHORT else _BITS_OF_LONG:
        size = 1 << bits
        if used.size > size:
            continue
        wanted = frequencies(occurring, bits)
        least = code_length(occurring, wanted, bits)
        if best is not None and _with_penalty(least, bits) >= best[0]:
            continue
        sources = [wanted - 1, occurring] if total < _SHORT else [wanted - 1]
        for precision, source in product(precisions, sources):
            numbers = _rounded(source, precision)
            if not numbers.any():
                numbers = np.ones_like(numbers)
            frequency = _frequencies_from(_weights(numbers, precision), bits)
            if frequency.max() > ceiling(bits):
                continue
            steps = np.diff(numbers, prepend=_first_guess(bits, precision, used.size))
            folded = np.where(steps < 0, -2 * steps - 1, 2 * steps)
            widths = _exp_golomb_widths(folded)
            order = widths.index(min(widths))
            payload = code_length(occurring, frequency, bits)
            lanes = _lanes_for(payload // 8 // chunks, total, chunks)
            cost = _with_penalty(payload + widths[order] + bits + 32 * lanes, bits)
            if best is None or cost < best[0]:
                best = cost, Model(used, frequency, bits, lanes), precision, order, folded
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
    exponent = np.maximum(floor_log2(weights) - precision, 0)
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
    widths: list[int] = (2 * floor_log2((values >> orders) + 1) + 1 + orders).sum(1).tolist()
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


def read_model(table: bytes, alphabet: int) -> Model:
    """Return what a table says; raises `FormatError`."""
    if len(table) > _MAX_TABLE:
        raise FormatError(f"an rANS table has at most {_MAX_TABLE} bytes, not {len(table)}.")
    reader = _BitReader(table)
    lanes = 1
    if reader.number(1):
        lanes = 1 << reader.number(3)
        if lanes == 1:
            raise FormatError("an rANS table has one lane in the form for several.")
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
    return Model(used, _frequencies_from(weights, bits), bits, lanes)


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
        raise FormatError(f"an rANS table names symbols beyond its alphabet of {alphabet}.")
    return np.flatnonzero(flags)
