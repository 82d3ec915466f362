"""A second reader of `.fly` files, written from `docs/format.md` alone.

It shares no code with the package and aims to be easy to compare with the text, not to be fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from math import prod
from zlib import crc32

import numpy as np
import numpy.typing as npt

Symbols = npt.NDArray[np.int64]

# The tables under *The header*; values that NumPy does not know are carried as their bits.
DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
    *("complex64", "complex128"),
]
CARRIERS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
NUMPY = {name: np.dtype(CARRIERS.get(name, name)).newbyteorder("<") for name in DTYPES}
STORAGES = {
    "int16": ("uint8", "int8"),
    "int32": ("uint8", "int8", "uint16", "int16"),
    "int64": ("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    "float32": ("float16", "bfloat16"),
    "float64": ("float16", "float32"),
}
ROTATED = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
SCALED = ("float16", "bfloat16", "float32", "float64")
SHARED, DENSE, CONSTANT, ALIAS, ZERO, INTERLEAVED, RANS, CONTEXT, PLANES = range(9)


def check(condition: object, problem: str) -> None:
    """Raise ValueError with the given words unless the condition holds."""
    if not condition:
        raise ValueError(problem)


class Cursor:
    """Bytes that are read from first to last (*Conventions*)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Give the next bytes."""
        check(count <= len(self.data) - self.at, "the bytes end too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        """Give all bytes that are left."""
        return self.take(len(self.data) - self.at)

    def varint(self) -> int:
        """Read an unsigned integer."""
        number = 0
        for place in range(9):
            byte = self.take(1)[0]
            number |= (byte & 127) << 7 * place
            if byte < 128:
                check(byte or not place, "a varint is not in its shortest form")
                return number
        raise ValueError("a varint has more than nine bytes")

    def text(self, length: int) -> str:
        """Read so many bytes of UTF-8."""
        return self.take(length).decode()

    def string(self) -> str:
        """Read a string."""
        return self.text(self.varint())

    def crc(self, start: int) -> None:
        """Read a CRC and compare it with the bytes from start to here."""
        expected = crc32(self.data[start : self.at])
        check(int.from_bytes(self.take(4), "little") == expected, "a CRC does not match")


class Bits:
    """Bits that fill each byte from its highest bit, or from its lowest."""

    def __init__(self, data: bytes, lowest_first: bool = False) -> None:
        packed = np.frombuffer(data, np.uint8)
        bits = np.unpackbits(packed, bitorder="little" if lowest_first else "big")
        self.bits = bits.tobytes()
        self.at = 0

    def number(self, count: int = 1) -> int:
        """Read a number of so many bits, highest first."""
        check(count <= len(self.bits) - self.at, "the bits end too early")
        number = 0
        for bit in self.bits[self.at : self.at + count]:
            number = number << 1 | bit
        self.at += count
        return number

    def gamma(self, most: int) -> int:
        """Read an Elias gamma number of at most so many leading zeros."""
        zeros = 0
        while not self.number():
            zeros += 1
            check(zeros <= most, "a number has too many zeros in front")
        return 1 << zeros | self.number(zeros)

    def end(self) -> None:
        """Check that nothing but zero bits of padding is left."""
        check(len(self.bits) - self.at < 8, "there are bytes after the end")
        check(not any(self.bits[self.at :]), "padding is not zero")


# Huffman streams


def huffman_codes(table: bytes, alphabet: int) -> dict[int, int]:
    """Read a table (*Huffman streams*): the symbol of each codeword, which has a 1 in front."""
    check(1 <= alphabet <= 65536, "an alphabet has no symbol, or too many")
    if alphabet == 1:
        check(not table, "a table has bytes after its end")
        return {1: 0}
    bits = Bits(table)
    length = min(15, (alphabet - 1).bit_length())
    lengths: dict[int, int] = {}
    symbol = total = 0
    while total < 1 << 16:
        skipped = False
        while (entry := huffman_entry(bits)) is None:
            check(not skipped, "a table skips unused symbols twice")
            skipped = True
            symbol += bits.gamma(16)
        length += entry
        check(0 <= length <= 16, "a codeword length is out of range")
        check(symbol < alphabet, "a table runs out of symbols")
        lengths[symbol] = length
        total += 1 << 16 - length
        symbol += 1
    check(total == 1 << 16, "codeword lengths add up to more than 1")
    bits.end()
    codes = {}
    code = previous = 0
    for symbol in sorted(lengths, key=lambda symbol: (lengths[symbol], symbol)):
        code <<= lengths[symbol] - previous
        previous = lengths[symbol]
        codes[1 << previous | code] = symbol
        code += 1
    return codes


def huffman_entry(bits: Bits) -> int | None:
    """Read an entry of a table: the change of the length, or None before a number to skip."""
    if not bits.number():
        return 0
    if not bits.number():
        return -1 if bits.number() else 1
    if not bits.number():
        return None
    falls = bits.number()
    change = bits.gamma(16) + 1
    return -change if falls else change


def decode_run(codes: dict[int, int], bits: Bits, count: int) -> Symbols:
    """Read the codewords of so many symbols, and nothing after them."""
    symbols: list[int] = []
    code = 1
    for bit in bits.bits:
        if len(symbols) == count:
            break
        bits.at += 1
        code = code << 1 | bit
        if code in codes:
            symbols.append(codes[code])
            code = 1
    check(len(symbols) == count, "a payload is too short for its symbols")
    bits.end()
    return np.array(symbols, np.int64)


def huffman(table: bytes, payload: bytes, count: int, alphabet: int) -> Symbols:
    """Decode a Huffman stream (*Huffman streams*)."""
    if not count:
        check(not table and not payload, "a stream of no symbols has bytes")
        return np.zeros(0, np.int64)
    codes = huffman_codes(table, alphabet)
    if len(codes) == 1:
        check(not payload, "a stream of one used symbol has a payload")
        return np.full(count, codes[1], np.int64)
    return decode_run(codes, Bits(payload), count)


def interleaved(table: bytes, payload: bytes, count: int, alphabet: int) -> Symbols:
    """Decode an interleaved Huffman stream (*Interleaved Huffman streams*)."""
    if not count:
        check(not table and not payload, "a stream of no symbols has bytes")
        return np.zeros(0, np.int64)
    return interleaved_payload(huffman_codes(table, alphabet), payload, count)


def interleaved_payload(codes: dict[int, int], payload: bytes, count: int) -> Symbols:
    """Decode the payload of an interleaved Huffman stream whose table was read."""
    if len(codes) == 1:
        check(not payload, "a stream of one used symbol has a payload")
        return np.full(count, codes[1], np.int64)
    check(count <= 8 * len(payload), "a payload is too short for its symbols")
    runs = []
    for start in range(0, count, 1 << 20):
        size = min(count - start, 1 << 20)
        quarter = -(-size // 4)
        runs += [size] if size < 4096 else [quarter, quarter, quarter, size - 3 * quarter]
    cursor = Cursor(payload)
    lengths = [cursor.varint() for _ in runs[1:]]
    streams = [cursor.take(length) for length in lengths] + [cursor.rest()]
    return np.concatenate(
        [
            decode_run(codes, Bits(stream, lowest_first=True), run)
            for run, stream in zip(runs, streams, strict=True)
        ]
    )


# Positions, and symbols of form 0


def positions(table: bytes, payload: bytes, count: int) -> npt.NDArray[np.bool_]:
    """Decode a mask of so many booleans (*Positions*)."""
    if table in (b"", b"\0"):
        check(not payload, "a mask that is all the same has a payload")
        return np.full(count, not table)
    if table == b"\1":
        bits = Bits(payload)
        mask = np.array([bits.number() for _ in range(count)], np.bool_)
        bits.end()
        return mask
    cursor = Cursor(table)
    first = cursor.take(1)[0]
    a = first >> 2
    check(first & 3 >= 2 and a <= 56, "a mask is of no known form")
    check(count <= (1 << 20) + 4096 * (len(table) + len(payload)), "a mask is too long")
    alphabet = (4 + a % 4) << a // 4
    gaps = cursor.varint()
    check(1 <= gaps <= count, "a mask has no gaps, or more than elements")
    marks = np.zeros(count, np.bool_)
    at = 0
    gap = alphabet
    for gap in huffman(cursor.rest(), payload, gaps, alphabet).tolist():
        at += gap
        if gap < alphabet - 1:
            check(at < count, "a mark is outside of the mask")
            marks[at] = True
            at += 1
    check(gap < alphabet - 1, "the last gap of a mask is an escape")
    return marks if first & 1 == 0 else ~marks


def plain_symbols(tables: bytes, kept: bytes, payload: bytes, count: int, levels: int) -> Symbols:
    """Decode the symbols of form 0 (*Shared tensors*)."""
    cursor = Cursor(tables)
    apart = cursor.varint()
    if not apart:
        check(not kept, "positions are given twice")
        return huffman(cursor.rest(), payload, count, levels + 1)
    mask = positions(cursor.take(apart - 1), kept, count)
    symbols = np.zeros(count, np.int64)
    symbols[mask] = 1 + huffman(cursor.rest(), payload, int(mask.sum()), levels)
    return symbols


# rANS streams


def exp_golomb(bits: Bits, order: int) -> int:
    """Read E_k (*rANS streams*)."""
    return (bits.gamma(19) - 1 << order) + bits.number(order)


def rans(table: bytes, payload: bytes, count: int, alphabet: int) -> Symbols:
    """Decode a rANS stream (*rANS streams*)."""
    if not count:
        check(not table and not payload, "a stream of no symbols has bytes")
        return np.zeros(0, np.int64)
    if not payload:
        check(len(table) <= 2 and not table.endswith(b"\0"), "the one symbol is not told shortly")
        symbol = int.from_bytes(table, "little")
        check(symbol < alphabet, "the one symbol is outside of the alphabet")
        return np.full(count, symbol, np.int64)
    check(count <= (1 << 20) + 4096 * len(payload), "a payload is too short for its symbols")
    lanes, used, frequencies = rans_table(table, alphabet)
    if count <= 1 << 21:
        chunks, counts = [payload], [count]
    else:
        check(lanes > 1, "a stream of several chunks has one lane")
        parts = 2 * -(-count // (1 << 22))
        bounds = [j * count // parts for j in range(parts + 1)]
        counts = [b - a for a, b in pairwise(bounds)]
        cursor = Cursor(payload)
        lengths = [cursor.varint() for _ in range(parts - 1)]
        chunks = [cursor.take(length) for length in lengths] + [cursor.rest()]
    indices = [
        i
        for chunk, size in zip(chunks, counts, strict=True)
        for i in rans_chunk(chunk, size, lanes, frequencies)
    ]
    return np.array(used, np.int64)[indices]


def rans_table(table: bytes, alphabet: int) -> tuple[int, list[int], list[int]]:
    """Read a table (*rANS streams*): number of lanes, used symbols, their frequencies."""
    check(len(table) <= 1 << 19, "a table is too long")
    bits = Bits(table)
    lanes = 1
    if bits.number():
        lanes = 1 << bits.number(3)
        check(lanes > 1, "one lane is not told shortly")
    total = 1 << 9 + bits.number(3)
    precision, order = bits.number(3), bits.number(3)
    if bits.number():
        used = list(range(alphabet))
    elif bits.number():
        used = [symbol for symbol in range(alphabet) if bits.number()]
    else:
        used = []
        at = exp_golomb(bits, 0)
        unused = True  # the run that ended last
        while at < alphabet:
            run = exp_golomb(bits, 0) + 1
            if unused:
                used += range(at, min(at + run, alphabet))
            at += run
            unused = not unused
        check(at == alphabet, "runs tell too many symbols")
    check(2 <= len(used) <= total, "too few or too many symbols are used")

    def weight_of(number: int) -> int:
        if precision == 7:
            return number
        shift = max((number >> precision) - 1, 0)
        return number - (shift << precision) << shift

    def number_of(weight: int) -> int:
        if precision == 7:
            return weight
        shift = max(weight.bit_length() - 1 - precision, 0)
        return (shift << precision) + (weight + ((1 << shift) >> 1) >> shift)

    spread = total - len(used)
    number = number_of(spread // len(used))
    sums = [0]
    for _ in used:
        step = exp_golomb(bits, order)
        number += -(step // 2 + 1) if step % 2 else step // 2
        check(0 <= number <= number_of(65535), "a weight is out of range")
        sums.append(sums[-1] + weight_of(number))
    bits.end()
    check(sums[-1], "all weights are 0")
    starts = [i + part * spread // sums[-1] for i, part in enumerate(sums)]
    return lanes, used, [b - a for a, b in pairwise(starts)]


def rans_chunk(chunk: bytes, count: int, lanes: int, frequencies: list[int]) -> list[int]:
    """Decode one chunk (*rANS streams*): places in the list of used symbols."""
    total = sum(frequencies)
    owners = [index for index, f in enumerate(frequencies) for _ in range(f)]
    starts = [0]
    for f in frequencies:
        starts.append(starts[-1] + f)
    cursor = Cursor(chunk)
    if lanes > 1:
        start = 65536
        states = [int.from_bytes(cursor.take(4), "little") for _ in range(lanes)]
        check(min(states) >= start, "a state is too small")
    else:
        start = 0
        state = cursor.take(len(chunk) if len(chunk) <= 4 else 4 - len(chunk) % 2)
        check(state and state[-1], "a state has no byte, or its last byte is 0")
        states = [int.from_bytes(state, "little")]
    check((len(chunk) - cursor.at) % 2 == 0, "half a word is left")
    words = iter(np.frombuffer(cursor.rest(), "<u2").tolist())
    result = []
    for i in range(count):
        x, r = divmod(states[i % lanes], total)
        index = owners[r]
        x = frequencies[index] * x + r - starts[index]
        if x < 65536 and (word := next(words, None)) is not None:
            x = x << 16 | word
        states[i % lanes] = x
        result.append(index)
    check(all(x == start for x in states), "a state does not end at the start value")
    check(next(words, None) is None, "words are left")
    return result


# Context-coded streams


class RangeDecoder:
    """Decodes the bits of one chunk (*Range decoder* and *End*)."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.words = self.last = self.offset = 0
        self.size = 1 << 48
        for _ in range(3):
            self.next_word()

    def next_word(self) -> None:
        """Shift the next word, of zeros after the end, into the offset."""
        word = self.chunk[2 * self.words : 2 * self.words + 2].ljust(2, b"\0")
        self.words += 1
        check(self.words - 3 <= -(-len(self.chunk) // 2), "a chunk is too short for its values")
        self.offset = self.offset << 16 | int.from_bytes(word, "big")
        self.last = (self.last << 16 | int.from_bytes(word, "big")) % (1 << 48)

    def bit(self, chance: int) -> int:
        """Decode a bit that is 1 with the given chance of 65,536."""
        bound = (self.size >> 16) * chance
        bit = int(self.offset < bound)
        if bit:
            self.size = bound
        else:
            self.size -= bound
            self.offset -= bound
        if self.size < 1 << 32:
            self.size <<= 16
            self.next_word()
        return bit

    def end(self) -> None:
        """Check that the chunk is the shortest that says what was read, and no longer."""
        low = (self.last - self.offset) % (1 << 48)
        number = low
        for zeros in (48, 40, 32, 24, 16, 8):
            multiple = -(-low >> zeros) << zeros
            if multiple < low + self.size:
                number = multiple
                break
        check(number % (1 << 48) == self.last, "a chunk does not end as it should")
        tail = len(self.last.to_bytes(6, "big").rstrip(b"\0"))
        check(len(self.chunk) == 2 * self.words - 6 + tail, "a chunk has a wrong length")


@dataclass
class State:
    """An adaptive chance (*States*)."""

    slow: int = 1 << 21
    fast: int = 1 << 21
    seen: int = 0

    def move(self, bit: int) -> None:
        """Learn a bit."""
        rate = (1 << 17) // (2 * self.seen + 3)
        self.slow += ((bit << 22) - self.slow) * max(rate, 64) >> 16
        self.fast += ((bit << 22) - self.fast) * max(rate, 512) >> 16
        self.seen = min(self.seen + 1, 1023)


class ValueDecoder:
    """Decodes the values of one chunk, given the context of each (*Nodes*)."""

    def __init__(self, chunk: bytes, zeros: bool) -> None:
        self.decoder = RangeDecoder(chunk)
        self.zeros = zeros
        self.parents: dict[object, State] = {}
        self.states: dict[tuple[int, object], State] = {}

    def bit(self, context: int, node: object) -> int:
        """Decode the bit of a node."""
        parent = self.parents.setdefault(node, State())
        if (context, node) not in self.states:
            first = State(parent.slow, parent.fast, min(4, parent.seen))
            self.states[context, node] = first
        state = self.states[context, node]
        bit = self.decoder.bit(min(max(state.slow + state.fast >> 7, 96), 65440))
        if state.seen < 32:
            parent.move(bit)
        state.move(bit)
        return bit

    def value(self, context: int) -> int:
        """Decode a value."""
        if self.zeros and not self.bit(context, "kept"):
            return 0
        sign = self.bit(context, "sign")
        g = 0
        while g < 30 and self.bit(context, (sign, "more", g)):
            g += 1
        t = 1
        for place in range(g + 1):
            node = (sign, g, t)
            t = t << 1 | (self.bit(context, node) if place < 5 else self.decoder.bit(32768))
        check(t - 1 <= (1 << 31) - 1 + sign, "a value is too large")
        return 1 - t if sign else t - 1


def context_coded(stream: bytes, shape: tuple[int, ...]) -> list[int]:
    """Decode a tensor of signed integers (*Context-coded streams*)."""
    count = prod(shape)
    if not count:
        check(not stream, "a tensor without elements has bytes")
        return []
    check(count <= (1 << 20) + 4096 * len(stream), "a stream is too short for its elements")
    cursor = Cursor(stream)
    flags, number = cursor.take(2)
    check(flags < 4, "a stream has unknown flags")
    kernels, zeros = bool(flags & 1), bool(flags & 2)
    thresholds: list[int] = []
    if kernels:
        check(number <= 27 and len(shape) >= 3, "a kernel context without kernels")
        height, width = shape[-2] if len(shape) >= 4 else 1, shape[-1]
    else:
        check(number <= 7, "there are too many thresholds")
        for _ in range(number):
            step = cursor.varint()
            check(step or not thresholds, "a threshold occurs twice")
            thresholds.append(step + (thresholds[-1] if thresholds else 0))
        check(max(thresholds, default=0) < 1 << 40, "a threshold is too large")
        height, width = 1, prod(shape[1:]) if len(shape) > 1 else prod(shape)
    unit = height * width
    per_chunk = (1 << 22) // unit * unit or 1 << 22
    sizes = [min(count - start, per_chunk) for start in range(0, count, per_chunk)]
    lengths = [cursor.varint() for _ in sizes[1:]]
    chunks = [cursor.take(length) for length in lengths] + [cursor.rest()]
    values: list[int] = []
    for chunk, size in zip(chunks, sizes, strict=True):
        decoder = ValueDecoder(chunk, zeros)
        if kernels:
            values += kernel_chunk(decoder, size, height, width, number)
        else:
            values += energy_chunk(decoder, size, width, thresholds)
        decoder.decoder.end()
    return values


def kernel_chunk(
    decoder: ValueDecoder, size: int, height: int, width: int, shift: int
) -> list[int]:
    """Decode the values of one chunk (*Kernel contexts*)."""
    values: list[int] = []
    for i in range(size):
        x, y = i % width, i // width % height
        left = values[i - 1] if x else 0
        above = values[i - width] if y else 0
        corner = values[i - width - 1] if x and y else 0
        q = 2 * left + 2 * above - corner
        k = sum(bound < abs(q) >> shift for bound in (0, 4, 9, 16))
        values.append(decoder.value(5 + k if q > 0 else 5 - k))
    return values


def energy_chunk(decoder: ValueDecoder, size: int, width: int, thresholds: list[int]) -> list[int]:
    """Decode the values of one chunk (*Energy contexts*)."""

    def rate(j: int) -> int:
        return max((1 << 17) // (2 * min(j, 128) + 1), 512) if j else 512

    values: list[int] = []
    row = late = 0
    columns = [0] * min(width, size)
    for i in range(size):
        x, y = i % width, i // width
        energy = row + columns[x] >> 8
        value = decoder.value(1 + sum(threshold < energy for threshold in thresholds))
        values.append(value)
        now = min(abs(value), 65535) << 16
        row += (late - row) * rate(x) >> 16
        late = now
        columns[x] += (now - columns[x]) * rate(y + 1) >> 16
    return values


# Byte planes


def byte_planes(data: bytes, dtype: str, count: int) -> bytes:
    """Decode so many values of a dtype (*Byte planes*)."""
    check(count <= (1 << 20) + 4096 * len(data), "byte planes are too short for their values")
    halves = 2 if dtype.startswith("complex") else 1
    width = NUMPY[dtype].itemsize // halves
    cursor = Cursor(data)
    blocks = []
    tables: list[dict[int, int] | None] = []
    for start in range(0, count * halves, 1 << 16):
        size = min(count * halves - start, 1 << 16)
        if start % (1 << 20) == 0:
            tables = [None] * width
        forms = int.from_bytes(cursor.take(-(-width // 4)), "little")
        check(forms < 1 << 2 * width, "there are forms of more planes than there are")
        block = np.zeros((size, width), np.uint8)
        for plane in range(width):
            form = forms >> 2 * plane & 3
            if form == 1:
                block[:, plane] = cursor.take(1)[0]
            elif dtype == "bool":
                check(form == 3, "a plane of booleans has a wrong form")
                bits = Bits(cursor.take(-(-size // 8)), lowest_first=True)
                block[:, plane] = [bits.number() for _ in range(size)]
                bits.end()
            elif form == 0:
                block[:, plane] = np.frombuffer(cursor.take(size), np.uint8)
            else:
                table = cursor.varint() if form == 2 else None
                length = cursor.varint()
                if table is not None:
                    tables[plane] = huffman_codes(cursor.take(table), 256)
                codes = tables[plane]
                if codes is None:
                    raise ValueError("a plane takes a table from before its chunk")
                check(len(codes) > 1, "a coded plane uses one symbol")
                block[:, plane] = interleaved_payload(codes, cursor.take(length), size)
        blocks.append(block.tobytes())
    check(not cursor.rest(), "there are bytes after the last block")
    words = np.frombuffer(b"".join(blocks), f"<u{width}")
    if dtype in ROTATED:
        words = words >> 1 | words << 8 * width - 1
    return words.tobytes()


# The file


@dataclass
class Entry:
    """What the header says about a tensor."""

    name: str
    form: int
    dtype: str
    storage: str
    shape: tuple[int, ...] = ()
    target: int | None = None
    levels: int = 0
    lengths: tuple[int, ...] = ()
    joined: bool = False
    tables: int = 0  # for the channels: none, scales, or scales and offsets
    members: list[Entry] = field(default_factory=list)

    @property
    def stacked(self) -> tuple[int, ...]:
        """The shape of this tensor and those joined to it, one on another."""
        if not self.members:
            return self.shape
        return sum(entry.shape[0] for entry in (self, *self.members)), *self.shape[1:]

    @property
    def most_levels(self) -> int:
        """The largest number of levels of this tensor and those joined to it."""
        return max(entry.levels for entry in (self, *self.members))


def read_kind(cursor: Cursor) -> tuple[int, bool, int, str, str]:
    """Read three bytes: form, whether it is joined, tables of the channels, dtype and storage."""
    number, dtype, storage = cursor.take(3)
    flags, form = divmod(number, 16)
    check(form <= PLANES and flags < 8, "there is no such form")
    joined, scales, offsets = bool(flags & 1), flags >> 1 & 1, flags >> 2
    check(scales or not offsets, "there are offsets without scales")
    check(not scales or form in (SHARED, INTERLEAVED, RANS, CONTEXT), "cannot have scales")
    check(
        not joined or form in (SHARED, CONSTANT, INTERLEAVED, RANS, CONTEXT, PLANES), "cannot join"
    )
    check(max(dtype, storage) < len(DTYPES), "there is no such dtype")
    names = DTYPES[dtype], DTYPES[storage]
    check(dtype == storage or names[1] in STORAGES.get(names[0], ()), "there is no such storage")
    check(not scales or names[0] in SCALED, "a dtype cannot have scales")
    return form, joined, scales + offsets, *names


def read_name(cursor: Cursor, previous: list[str], components: list[str]) -> list[str]:
    """Read the components of a name."""
    shared = cursor.varint()
    check(shared <= len(previous), "a name shares more than there is")
    name = previous[:shared]
    for _ in range(cursor.varint()):
        number = cursor.varint()
        if number == len(components):
            components.append(cursor.string())
            check("." not in components[-1], "a component of a name has a dot")
        check(number < len(components), "there is no such component")
        name.append(components[number])
    check(name, "a name has no component")
    return name


def read_shape(cursor: Cursor) -> tuple[int, ...]:
    """Read a new shape."""
    rank = cursor.varint()
    check(rank <= 32, "a rank is too large")
    return tuple(cursor.varint() for _ in range(rank))


def fingerprint(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Hash names and shapes (*Bare header*)."""

    def varint(number: int) -> bytes:
        return (
            bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)
        )

    told = b""
    for name, shape in shapes.items():
        told += varint(len(name.encode())) + name.encode()
        told += b"".join(varint(number) for number in (len(shape), *shape))
    return sha256(told).digest()[:8]


def read_header(
    header: bytes, bare: bool, known: dict[str, tuple[int, ...]] | None
) -> tuple[list[Entry], dict[str, str]]:
    """Read what *The header* describes."""
    cursor = Cursor(header)
    metadata: dict[str, str] = {}
    for _ in range(cursor.varint()):
        number = cursor.varint()
        key = ("architecture", "recipe")[number] if number < 2 else cursor.text(number - 2)
        value = cursor.string()
        check(not metadata or key > max(metadata), "keys of the metadata do not ascend")
        metadata[key] = value
    entries: list[Entry] = []
    count = cursor.varint()
    architecture = list((known or {}).items())
    if bare:
        check(known is not None, "a bare file needs the shapes of its architecture")
        check(cursor.take(8) == fingerprint(known or {}), "a bare file is of other shapes")
        check(count == len(architecture), "a bare file has another number of tensors")
    components: list[str] = []
    kinds: list[tuple[int, bool, int, str, str]] = []
    shapes: list[tuple[int, ...]] = []
    parts: list[str] = []
    numbers: list[int] = []
    period = repeated = 0
    heads: dict[tuple[object, ...], Entry] = {}
    for place in range(count):
        if not bare:
            parts = read_name(cursor, parts, components)
        name = architecture[place][0] if bare else ".".join(parts)
        check(len(name.encode()) <= 1024, "a name is too long")
        number = 0 if repeated else cursor.varint()
        if not repeated and number == len(kinds) + 1:
            period, repeated = cursor.varint(), cursor.varint()
            check(1 <= period <= place and 1 <= repeated <= count - place, "a wrong repetition")
        again = repeated > 0
        if again:
            repeated -= 1
            number = numbers[place - period]
        elif number == len(kinds):
            kinds.append(read_kind(cursor))
        check(number < len(kinds), "there is no such kind")
        numbers.append(number)
        form, joined, tables, dtype, storage = kinds[number]
        entry = Entry(name, form, dtype, storage, joined=joined, tables=tables)
        entries.append(entry)
        if entry.form == ALIAS:
            entry.target = cursor.varint()
            check(entry.target < place, "an alias of no earlier tensor")
            target = entries[entry.target]
            check(
                target.form != ALIAS and target.dtype == entry.dtype, "an alias of a wrong tensor"
            )
            entry.shape = target.shape
            check(not bare or entry.shape == architecture[place][1], "an alias of a wrong shape")
            continue
        if bare:
            entry.shape = architecture[place][1]
        else:
            number = cursor.varint()
            if number == len(shapes):
                shapes.append(read_shape(cursor))
            check(number < len(shapes), "there is no such shape")
            entry.shape = shapes[number]
        check(prod(max(extent, 1) for extent in entry.shape) <= 1 << 40, "a shape is too large")
        item = NUMPY[entry.storage].itemsize
        if entry.form in (SHARED, INTERLEAVED, RANS, CONTEXT):
            entry.levels = entries[place - period].levels if again else cursor.varint()
            check(entry.levels <= 65535, "there are too many levels")
        check(entry.shape or not tables, "a tensor has scales and no channels")
        own = (entry.levels * item, *(entry.shape[0] * item for _ in range(tables)))
        kind = form, tables, dtype, storage, len(entry.shape), entry.shape[1:]
        if joined:
            check(kind in heads and len(entry.shape) > 0, "a tensor is joined to nothing")
            together = (heads[kind], *heads[kind].members, entry)
            check(all(prod(one.shape) for one in together), "a joined tensor has no elements")
            check(sum(prod(one.shape) for one in together) <= 1 << 20, "a group is too large")
            heads[kind].members.append(entry)
            entry.lengths = own if entry.form not in (CONSTANT, PLANES) else ()
            continue
        heads[kind] = entry
        if entry.form in (SHARED, INTERLEAVED, RANS, CONTEXT):
            table = cursor.varint()
            kept = cursor.varint() if entry.form == SHARED else 0
            entry.lengths = table, *own, kept, cursor.varint()
        elif entry.form == PLANES:
            entry.lengths = (cursor.varint(),)
        else:
            items = {DENSE: prod(entry.shape), CONSTANT: 1, ZERO: 0}[entry.form]
            entry.lengths = (items * item,)
    check(not cursor.rest(), "there are bytes after the last tensor")
    check(len({entry.name for entry in entries}) == count, "a name occurs twice")
    return entries, metadata


def stacked_symbols(entry: Entry, parts: list[bytes]) -> list[Symbols]:
    """Decode the symbols of a shared tensor, and of those joined to it."""
    tables, *_, kept, payload = parts
    together = (entry, *entry.members)
    count = prod(entry.stacked)
    if entry.form == CONTEXT and not count:
        check(not tables, "a tensor without elements has a table")
    if entry.form == CONTEXT:
        values = np.array(context_coded(payload, entry.stacked), np.int64)
    elif entry.form == SHARED:
        values = plain_symbols(tables, kept, payload, count, entry.most_levels)
    else:
        stream = interleaved if entry.form == INTERLEAVED else rans
        values = stream(tables, payload, count, entry.most_levels + 1)
    cursor = Cursor(tables)
    own = []
    for one in together:
        size = prod(one.shape)
        symbols, values = values[:size], values[size:]
        if entry.form == CONTEXT and size:
            negative = cursor.varint()
            check(negative <= one.levels, "the number of negative levels is wrong")
            least, most = -negative, one.levels - negative
            check(least <= symbols.min() and symbols.max() <= most, "there is no such level")
            symbols = np.where(symbols == 0, 0, symbols + negative + (symbols < 0))
        check(not size or symbols.max() <= one.levels, "there is no such level")
        own.append(symbols)
    check(entry.form != CONTEXT or not cursor.rest(), "there are bytes after a table")
    return own


def decode(entry: Entry, parts: dict[str, list[bytes]]) -> dict[str, bytes]:
    """Decode the values of a tensor, and of those joined to it, from their parts."""
    together = (entry, *entry.members)
    storage = NUMPY[entry.storage]
    first = parts[entry.name]
    if entry.form == DENSE:
        stored = [(first[0], first[0])]
    elif entry.form == CONSTANT:
        stored = [(first[0], first[0] * prod(one.shape)) for one in together]
    elif entry.form == ZERO:
        stored = [(b"", bytes(prod(entry.shape) * storage.itemsize))]
    elif entry.form == PLANES:
        raw = byte_planes(first[0], entry.storage, prod(entry.stacked))
        stored = []
        for one in together:
            length = prod(one.shape) * storage.itemsize
            stored.append((raw[:length], raw[:length]))
            raw = raw[length:]
    else:
        decoded = zip(together, stacked_symbols(entry, first), strict=True)
        return {
            one.name: shared_values(one, parts[one.name][0 if one.joined else 1 :], symbols)
            for one, symbols in decoded
        }
    return {
        one.name: converted(entry, told, raw)
        for one, (told, raw) in zip(together, stored, strict=True)
    }


def shared_values(entry: Entry, parts: list[bytes], symbols: Symbols) -> bytes:
    """Put levels for symbols (*Shared tensors*, *Scales and offsets*), given the codebook first."""
    tables = [converted(entry, told, told) for told in parts[: 1 + entry.tables]]
    item = NUMPY[entry.dtype].itemsize
    values = np.frombuffer(bytes(item) + tables[0], f"V{item}")[symbols].tobytes()
    if not entry.tables:
        return values
    for table in tables:
        check(np.isfinite(widened(table, entry.dtype)).all(), "a table is not finite")
    rows = [widened(table, entry.dtype).reshape(entry.shape[0], 1) for table in tables[1:]]
    matrix = widened(values, entry.dtype).reshape(entry.shape[0], prod(entry.shape[1:]))
    with np.errstate(all="ignore"):
        matrix = matrix * rows[0]
        if entry.tables == 2:
            matrix = matrix + rows[1]
        matrix = np.where(symbols.reshape(matrix.shape) == 0, matrix.dtype.type(0), matrix)
        if entry.dtype != "bfloat16":
            return matrix.astype(NUMPY[entry.dtype]).tobytes()
    bits = matrix.view("<u4")
    upper, lower = bits >> 16, bits & 0xFFFF
    up = (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    return (upper + up).astype("<u2").tobytes()


def widened(raw: bytes, dtype: str) -> npt.NDArray[np.floating]:
    """Give values in the type that they are computed in."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, NUMPY[dtype]).astype("<f8" if dtype == "float64" else "<f4")


def converted(entry: Entry, told: bytes, raw: bytes) -> bytes:
    """Convert stored values to the dtype; ``told`` are those that stand in the file."""
    if entry.storage == "bool":
        check(not told.strip(b"\0\1"), "a boolean is neither 0 nor 1")
    if entry.storage == entry.dtype:
        return raw
    if entry.storage == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).tobytes()
    with np.errstate(invalid="ignore"):
        return np.frombuffer(raw, NUMPY[entry.storage]).astype(NUMPY[entry.dtype]).tobytes()


def read_fly(
    data: bytes, shapes: dict[str, tuple[int, ...]] | None = None
) -> tuple[dict[str, tuple[str, tuple[int, ...], bytes]], dict[str, str]]:
    """Read a file (*The file*).

    Gives the dtype, the shape and the little-endian bytes of each tensor, and the metadata. A bare
    file needs the shapes of all its tensors, in its order.
    """
    cursor = Cursor(data)
    check(cursor.take(5) == b"FLYW\1", "this is no .fly file of version 1")
    flags = cursor.take(1)[0]
    check(flags < 4, "a file has unknown flags")
    length = cursor.varint()
    plain, table = (cursor.varint(), cursor.varint()) if flags & 1 else (length, 0)
    checks = cursor.varint()
    header = cursor.take(length)
    sums = Cursor(cursor.take(4 * checks))
    cursor.crc(0)
    if flags & 1:
        check(plain <= 8 * length, "a coded header is too short")
        coded = Cursor(header)
        lengths = coded.take(table)
        header = huffman(lengths, coded.rest(), plain, 256).astype(np.uint8).tobytes()
    entries, metadata = read_header(header, bool(flags & 2), shapes)
    elements = sum(prod(entry.shape) for entry in entries)
    check(elements <= (1 << 20) + 4096 * len(data), "a file has too many elements")
    stored = sum(sum(entry.lengths) for entry in entries)
    check(len(data) == cursor.at + stored + 4, "a file is shorter or longer than its header says")

    # *Order of the payload, and groups*
    groups: list[list[Entry]] = []
    length = 1 << 16
    for entry in entries:
        size = sum(entry.lengths)
        if size and (length >= 1 << 16 or size >= 1 << 16):
            groups.append([])
            length = 0
        length += size
        if groups:
            groups[-1].append(entry)
    parts = {entry.name: [b""] * len(entry.lengths) for entry in entries}
    for group in groups:
        start = cursor.at
        for entry in group:
            parts[entry.name] = [cursor.take(length) for length in entry.lengths]
        if cursor.at > start:
            expected = int.from_bytes(sums.take(4), "little")
            check(crc32(data[start : cursor.at]) == expected, "the CRC of a group does not match")
    check(not sums.rest(), "there are CRCs of more groups than there are")
    cursor.crc(0)

    values: dict[str, bytes] = {}
    for entry in entries:
        if entry.target is None and not entry.joined:
            values |= decode(entry, parts)
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for entry in entries:
        source = entry if entry.target is None else entries[entry.target]
        tensors[entry.name] = entry.dtype, entry.shape, values[source.name]
    return tensors, metadata
