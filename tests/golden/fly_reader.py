"""An independent reader of `.fly` files: pure Python, written from `docs/format.md` alone.

It shares no code with the package and aims to be easy to compare with the text, not to be fast.
Names in italics are sections of that page.
"""

from __future__ import annotations

import lzma
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

T = TypeVar("T")
Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Metadata = dict[str, str]
Tensors = dict[str, tuple[str, Shape, bytes]]  # dtype, shape and values by name

# *Dtypes*: format characters of `struct`; those that it does not know are read as their bits.
NAMES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"),
    *("complex64", "complex128"),
)
DTYPES = dict(zip(NAMES, [*"BBbHhIiQqeHfdBB", "ff", "dd"], strict=True))
ITEM = {name: struct.calcsize(f"<{code}") for name, code in DTYPES.items()}
STORAGES = {
    "int16": ("uint8", "int8"),
    "int32": ("uint8", "int8", "uint16", "int16"),
    "int64": ("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    "float32": ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    "float64": ("float16", "float32"),
}
SCALED = ("float16", "bfloat16", "float32", "float64")
ROTATED = (*SCALED, "complex64", "complex128")

# *Forms*
SPARSE, RAW, CONSTANT, ALIAS, ZERO, HUFFMAN, RANS, CONTEXT, PLANES, MATCHES = range(10)
SHARED = (HUFFMAN, RANS, CONTEXT)
STATED = {  # the parts whose lengths the header states
    SPARSE: ("tables", "positions", "dense"),
    **dict.fromkeys(SHARED, ("tables", "symbols")),
    **dict.fromkeys((PLANES, MATCHES), ("dense",)),
}
ORDER = ("tables", "codebook", "scales", "offsets", "positions", "symbols", "dense")


def check(condition: object, problem: str) -> None:
    """Raise ValueError with the given words unless the condition holds."""
    if not condition:
        raise ValueError(problem)


class Cursor:
    """Bytes that are read from first to last (*Conventions*)."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        check(count <= len(self.data) - self.at, "the bytes end too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def varint(self) -> int:
        number = 0
        for place in range(9):
            byte = self.take(1)[0]
            number |= (byte & 127) << 7 * place
            if byte < 128:
                check(byte or not place, "a varint is not in its shortest form")
                return number
        raise ValueError("a varint has more than nine bytes")

    def numbers(self) -> tuple[int, ...]:
        return tuple(self.varint() for _ in range(self.varint()))

    def string(self) -> str:
        return self.take(self.varint()).decode()

    def crc(self, data: bytes) -> None:
        """Read the CRC of some bytes."""
        check(self.take(4) == crc32(data).to_bytes(4, "little"), "a CRC does not match")

    def pieces(self, count: int) -> list[bytes]:
        """Read the lengths of all pieces but the last, then the pieces; the last is the rest."""
        lengths = [self.varint() for _ in range(count - 1)]
        return [self.take(length) for length in lengths] + [self.rest()]

    def listed(self, seen: list[T], read: Callable[[], T]) -> T:
        """Read a number in a list of things, or the next number and then a new thing."""
        number = self.varint()
        if number == len(seen):
            seen.append(read())
        check(number < len(seen), "there is nothing of this number")
        return seen[number]


class Bits:
    """Bits that fill each byte from its highest bit, or from its lowest."""

    def __init__(self, data: bytes, lowest_first: bool = False) -> None:
        places = range(8) if lowest_first else range(7, -1, -1)
        self.bits = [byte >> place & 1 for byte in data for place in places]
        self.at = 0

    def number(self, count: int = 1) -> int:
        """Read a number of so many bits, highest first."""
        check(count <= len(self.bits) - self.at, "the bits end too early")
        number = 0
        for bit in self.bits[self.at : self.at + count]:
            number = number << 1 | bit
        self.at += count
        return number

    def same(self, bit: int, most: int) -> int:
        """Count bits of one kind; the other kind, which ends them, is read too if it must come."""
        count = 0
        while count < most and self.number() == bit:
            count += 1
        return count

    def gamma(self, most: int) -> int:
        """Read an Elias gamma number of at most so many leading zeros."""
        zeros = self.same(0, most + 1)
        check(zeros <= most, "a number has too many zeros in front")
        return 1 << zeros | self.number(zeros)

    def exp_golomb(self, order: int) -> int:
        """Read E_k (*rANS streams*)."""
        return (self.gamma(19) - 1 << order) + self.number(order)

    def end(self) -> None:
        check(len(self.bits) - self.at < 8, "there are bytes after the end")
        check(not any(self.bits[self.at :]), "padding is not zero")


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
        entry = bits.same(1, 3)
        if entry == 2:
            symbol += bits.gamma(16)
            entry = bits.same(1, 3)
            check(entry != 2, "a table skips unused symbols twice")
        if entry:
            sign = -1 if bits.number() else 1
            length += sign * (bits.gamma(16) + 1 if entry == 3 else 1)
        check(0 <= length <= 16, "a codeword length is out of range")
        check(symbol < alphabet, "a table runs out of symbols")
        lengths[symbol] = length
        total += 1 << 16 - length
        symbol += 1
    check(total == 1 << 16, "codeword lengths add up to more than 1")
    bits.end()
    codes = {}
    at = 1 << 16  # a codeword and the bits behind it, as a number of 16 bits
    for symbol in sorted(lengths, key=lambda symbol: (lengths[symbol], symbol)):
        codes[at >> 16 - lengths[symbol]] = symbol
        at += 1 << 16 - lengths[symbol]
    return codes


def huffman(table: bytes, payload: bytes, count: int, alphabet: int) -> list[int]:
    """Decode a stream (*Huffman streams*)."""
    if count:
        return huffman_payload(huffman_codes(table, alphabet), payload, count)
    check(not table and not payload, "a stream of no symbols has bytes")
    return []


def huffman_payload(codes: dict[int, int], payload: bytes, count: int) -> list[int]:
    """Decode the payload of a stream whose table was read."""
    if len(codes) == 1:
        check(not payload, "a stream of one used symbol has a payload")
        return [codes[1]] * count
    check(count <= 8 * len(payload), "a payload is too short for its symbols")
    runs: list[int] = []
    for start in range(0, count, 1 << 20):
        size = min(count - start, 1 << 20)
        quarter = -(-size // 4)
        runs += [size] if size < 4096 else [quarter, quarter, quarter, size - 3 * quarter]
    symbols: list[int] = []
    for end, stream in zip(accumulate(runs), Cursor(payload).pieces(len(runs)), strict=True):
        bits = Bits(stream, lowest_first=True)
        code = 1
        for bit in bits.bits:
            if len(symbols) == end:
                break
            bits.at += 1
            code = code << 1 | bit
            if code in codes:
                symbols.append(codes[code])
                code = 1
        check(len(symbols) == end, "a payload is too short for its symbols")
        bits.end()
    return symbols


def positions(table: bytes, payload: bytes, count: int) -> list[int]:
    """Decode a mask of so many bits (*Positions*)."""
    if table in (b"", b"\0"):
        check(not payload, "a mask that is all the same has a payload")
        return [int(not table)] * count
    if table == b"\1":
        bits = Bits(payload)
        mask = [bits.number() for _ in range(count)]
        bits.end()
        return mask
    cursor = Cursor(table)
    a, form = divmod(cursor.take(1)[0], 4)
    check(form >= 2 and a <= 56, "a mask is of no known form")
    check(count <= (1 << 20) + 4096 * (len(table) + len(payload)), "a mask is too long")
    alphabet = (4 + a % 4) << a // 4
    gaps = cursor.varint()
    check(1 <= gaps <= count, "a mask has no gaps, or more than elements")
    mask = [form - 2] * count
    at = 0
    gap = alphabet
    for gap in huffman(cursor.rest(), payload, gaps, alphabet):
        at += gap
        if gap < alphabet - 1:
            check(at < count, "a mark is outside of the mask")
            mask[at] = 3 - form
            at += 1
    check(gap < alphabet - 1, "the last gap of a mask is an escape")
    return mask


def rans(table: bytes, payload: bytes, count: int, alphabet: int) -> list[int]:
    """Decode a stream (*rANS streams*)."""
    if not count:
        check(not table and not payload, "a stream of no symbols has bytes")
        return []
    if not payload:
        check(len(table) <= 2 and not table.endswith(b"\0"), "the one symbol is not told shortly")
        symbol = int.from_bytes(table, "little")
        check(symbol < alphabet, "the one symbol is outside of the alphabet")
        return [symbol] * count
    check(count <= (1 << 20) + 4096 * len(payload), "a payload is too short for its symbols")
    lanes, used, frequencies = rans_table(table, alphabet)
    parts = 1 if count <= 1 << 21 else 2 * -(-count // (1 << 22))
    check(parts == 1 or lanes > 1, "a stream of several chunks has one lane")
    bounds = pairwise(j * count // parts for j in range(parts + 1))
    symbols: list[int] = []
    for (start, stop), chunk in zip(bounds, Cursor(payload).pieces(parts), strict=True):
        symbols += [used[i] for i in rans_chunk(chunk, stop - start, lanes, frequencies)]
    return symbols


def rans_table(table: bytes, alphabet: int) -> tuple[int, list[int], list[int]]:
    """Read a table: number of lanes, used symbols, their frequencies."""
    check(len(table) <= 1 << 19, "a table is too long")
    bits = Bits(table)
    lanes = 1
    if bits.number():
        lanes = 1 << bits.number(3)
        check(lanes > 1, "one lane is not told shortly")
    total = 1 << 9 + bits.number(3)
    precision, order = bits.number(3), bits.number(3)
    if bits.number():
        flags = [1] * alphabet
    elif bits.number():
        flags = [bits.number() for _ in range(alphabet)]
    else:
        flags, flag = [0] * bits.exp_golomb(0), 1
        while len(flags) < alphabet:
            flags += [flag] * (bits.exp_golomb(0) + 1)
            flag = 1 - flag
        check(len(flags) == alphabet, "runs tell too many symbols")
    used = [symbol for symbol, flag in enumerate(flags) if flag]
    check(2 <= len(used) <= total, "too few or too many symbols are used")

    def weight_of(number: int) -> int:
        shift = max((number >> precision) - 1, 0) if precision < 7 else 0
        return number - (shift << precision) << shift

    def number_of(weight: int) -> int:
        shift = max(weight.bit_length() - 1 - precision, 0) if precision < 7 else 0
        return (shift << precision) + (weight + ((1 << shift) >> 1) >> shift)

    spread = total - len(used)
    number = number_of(spread // len(used))
    sums = [0]
    for _ in used:
        step = bits.exp_golomb(order)
        number += -(step // 2 + 1) if step % 2 else step // 2
        check(0 <= number <= number_of(65535), "a weight is out of range")
        sums.append(sums[-1] + weight_of(number))
    bits.end()
    check(sums[-1], "all weights are 0")
    starts = [i + part * spread // sums[-1] for i, part in enumerate(sums)]
    return lanes, used, [b - a for a, b in pairwise(starts)]


def rans_chunk(chunk: bytes, count: int, lanes: int, frequencies: list[int]) -> list[int]:
    """Decode one chunk: places in the list of used symbols."""
    owners = [index for index, f in enumerate(frequencies) for _ in range(f)]
    starts = list(accumulate(frequencies, initial=0))
    cursor = Cursor(chunk)
    start = 65536 if lanes > 1 else 0
    if lanes > 1:
        states = [int.from_bytes(cursor.take(4), "little") for _ in range(lanes)]
        check(min(states) >= start, "a state is too small")
    else:
        state = cursor.take(len(chunk) if len(chunk) <= 4 else 4 - len(chunk) % 2)
        check(state and state[-1], "a state has no byte, or its last byte is 0")
        states = [int.from_bytes(state, "little")]
    check((len(chunk) - cursor.at) % 2 == 0, "half a word is left")
    words = iter(unpacked(cursor.rest(), "H"))
    result = []
    for i in range(count):
        x, r = divmod(states[i % lanes], starts[-1])
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

ELEMENTS_PER_BYTE = 512
CHUNK = 1 << 22
INHERITED = 4  # the most that a new state has seen
PARENT_LEARNS = 8  # while its state has seen less
STEPS = (1, 3, 5, 9), (1, 5, 10, 17)  # of kernel contexts: without and with a shift
NEIGHBOR = 1 << 26
INT32 = 1 << 31, (1 << 31) - 1  # the largest magnitudes below and above zero


class RangeDecoder:
    """Decodes the bits of one chunk (*Range decoder* and *End*)."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.words = self.last = self.offset = 0
        self.size = (1 << 64) - 1
        for _ in range(4):
            self.next_word()
        check(self.offset < self.size, "a chunk does not begin as it should")

    def next_word(self) -> None:
        word = self.chunk[2 * self.words : 2 * self.words + 2].ljust(2, b"\0")
        self.words += 1
        check(self.words - 4 <= -(-len(self.chunk) // 2), "a chunk is too short for its values")
        self.offset = self.offset << 16 | int.from_bytes(word, "big")
        self.last = (self.last << 16 | int.from_bytes(word, "big")) % (1 << 64)

    def bit(self, chance: int) -> int:
        """Decode a bit that is 1 with the given chance of 2^32."""
        bound = (self.size >> 32) * chance
        bit = int(self.offset < bound)
        if bit:
            self.size = bound
        else:
            self.size -= bound
            self.offset -= bound
        while self.size < 1 << 48:
            self.size <<= 16
            self.next_word()
        return bit

    def end(self) -> None:
        """Check that the chunk is the shortest that says what was read, and no longer."""
        low = (self.last - self.offset) % (1 << 64)
        multiples = (-(-low >> zeros) << zeros for zeros in range(64, -1, -8))
        number = next(multiple for multiple in multiples if multiple < low + self.size)
        check(number % (1 << 64) == self.last, "a chunk does not end as it should")
        tail = len(self.last.to_bytes(8, "big").rstrip(b"\0"))
        check(len(self.chunk) == 2 * self.words - 8 + tail, "a chunk has a wrong length")


class State:
    """A chance that is learned (*States*)."""

    def __init__(self, estimate: int = 1 << 21, seen: int = 0) -> None:
        self.estimate, self.seen = estimate, seen

    def move(self, bit: int, most: int) -> None:
        error = 65535 * bit - (self.estimate >> 6)
        self.estimate += error * ((1 << 17) // (2 * self.seen + 3)) >> 10
        self.seen = min(self.seen + 1, most)


class ValueDecoder(RangeDecoder):
    """Decodes the values of one chunk, given the context of each (*States* and *Nodes*)."""

    def __init__(self, chunk: bytes, flags: int, depth: int, limits: tuple[int, int]) -> None:
        super().__init__(chunk)
        self.zeros, self.excess = bool(flags & 2), bool(flags & 4)
        self.full, self.limits = 1 << depth, limits
        self.parents: dict[object, State] = {}
        self.states: dict[object, State] = {}

    def learned(self, context: int, node: object, most: int = 1023) -> int:
        parent = self.parents.setdefault(node, State())
        opened = State(parent.estimate, min(INHERITED, parent.seen))
        state = self.states.setdefault((context, node), opened)
        bit = self.bit(1024 * state.estimate + state.seen)
        for moved in (state, parent) if state.seen < PARENT_LEARNS else (state,):
            moved.move(bit, most)
        return bit

    def value(self, context: int, sign_context: int) -> int:
        if self.zeros and not self.learned(context, "kept", 255):
            return 0
        sign = self.learned(sign_context, "sign")
        digits = 1
        while digits < self.full:
            digits = 2 * digits + self.learned(context, (sign, digits))
        magnitude = digits - self.full + 1
        if magnitude == self.full and self.excess:
            group, number = 0, 1
            while self.learned(context, (sign, "unary", group)):
                group += 1
                check(group < 32, "a value is too large")
            if group:
                number = 2 + self.learned(context, (sign, "excess", group))
            for _ in range(group - 1):
                number = 2 * number + self.bit(1 << 31)
            magnitude += number - 1
        check(magnitude <= self.limits[1 - sign], "there is no such level")
        return -magnitude if sign else magnitude


def context_coded(
    stream: bytes, shape: tuple[int, ...], limits: tuple[int, int] = INT32
) -> list[int]:
    """Decode a tensor of signed integers (*Context-coded streams*), of limited magnitudes."""
    count = prod(shape)
    if not count:
        check(not stream, "a tensor without elements has bytes")
        return []
    check(count <= (1 << 20) + ELEMENTS_PER_BYTE * len(stream), "too many elements for a stream")
    cursor = Cursor(stream)
    flags, second = cursor.take(2)
    depth, number = divmod(second, 32)
    check(flags < 8, "a stream has unknown flags")
    check(not depth or 1 << (depth - 1) < max(limits), "a tree is too deep")
    kernels, thresholds = bool(flags & 1), b""
    if kernels:
        check(number <= 26 and len(shape) >= 3, "a kernel context without kernels")
        height, width = shape[-2] if len(shape) >= 4 else 1, shape[-1]
        check(height * width <= 256, "a kernel is too large")
    else:
        check(number <= 7, "there are too many thresholds")
        thresholds = cursor.take(number)
        check(all(a < b for a, b in pairwise(thresholds)), "thresholds do not ascend")
        height, width = 1, prod(shape[1:]) if len(shape) > 1 else count
    unit = height * width
    per_chunk = CHUNK // unit * unit or CHUNK
    sizes = [min(count - start, per_chunk) for start in range(0, count, per_chunk)]
    values: list[int] = []
    for size, chunk in zip(sizes, cursor.pieces(len(sizes)), strict=True):
        decoder = ValueDecoder(chunk, flags, depth, limits)
        if kernels:
            values += kernel_chunk(decoder, size, height, width, number)
        else:
            values += energy_chunk(decoder, size, width, thresholds)
        decoder.end()
    return values


def kernel_chunk(
    decoder: ValueDecoder, size: int, height: int, width: int, shift: int
) -> list[int]:
    """Decode the values of one chunk (*Kernel contexts*)."""
    values: list[int] = []
    for i in range(size):
        x, y = i % width, i // width % height
        places = (i - 1, x), (i - width, y), (i - width - 1, x and y)
        neighbors = (values[place] if inside else 0 for place, inside in places)
        left, above, corner = (min(max(v, -NEIGHBOR), NEIGHBOR) for v in neighbors)
        q = 2 * left + 2 * above - corner + (1 << shift) // 4 >> max(shift - 1, 0)
        k = sum(step <= abs(q) for step in STEPS[shift > 0])
        context = 5 + k if q > 0 else 5 - k
        values.append(decoder.value(context, context))
    return values


def energy_chunk(decoder: ValueDecoder, size: int, width: int, thresholds: bytes) -> list[int]:
    """Decode the values of one chunk (*Energy contexts*)."""

    def rate(j: int) -> int:
        return max((1 << 17) // (2 * j + 1), 512) if j else 512

    values: list[int] = []
    row = late = 0
    columns = [0] * min(width, size)
    biases = [State() for _ in columns]
    for i in range(size):
        y, x = divmod(i, width)
        energy = row + columns[x]
        octave = max(energy.bit_length() - 4, 0)
        context = 1 + sum(bound < 8 * octave + (energy >> octave) for bound in thresholds)
        value = decoder.value(context, 1 + ((biases[x].estimate >> 6) + 2048 >> 12))
        values.append(value)
        now = min(abs(value), 32767) << 15
        row += (late - row) * rate(x) >> 16
        late = now
        columns[x] += (now - columns[x]) * rate(y + 1) >> 16
        if value:
            biases[x].move(int(value < 0), 127)
    return values


def byte_planes(data: bytes, dtype: str, count: int) -> bytes:
    """Decode so many values of a dtype (*Byte planes*)."""
    check(count <= (1 << 20) + 4096 * len(data), "byte planes are too short for their values")
    halves = len(DTYPES[dtype])
    width = ITEM[dtype] // halves
    cursor = Cursor(data)
    words = bytearray()
    tables: list[dict[int, int]] = []
    for start in range(0, count * halves, 1 << 16):
        size = min(count * halves - start, 1 << 16)
        if start % (1 << 20) == 0:
            tables = [{} for _ in range(width)]
        forms = int.from_bytes(cursor.take(-(-width // 4)), "little")
        check(forms < 1 << 2 * width, "there are forms of more planes than there are")
        block = bytearray(size * width)
        for plane in range(width):
            form = forms >> 2 * plane & 3
            if form == 1:
                block[plane::width] = cursor.take(1) * size
            elif dtype == "bool":
                check(form == 3, "a plane of booleans has a wrong form")
                bits = Bits(cursor.take(-(-size // 8)), lowest_first=True)
                block[:] = bytes(bits.number() for _ in range(size))
                bits.end()
            elif form == 0:
                block[plane::width] = cursor.take(size)
            else:
                table = cursor.varint() if form == 2 else None
                length = cursor.varint()
                if table is not None:
                    tables[plane] = huffman_codes(cursor.take(table), 256)
                check(len(tables[plane]) > 1, "a coded plane has no table, or uses one symbol")
                payload = cursor.take(length)
                block[plane::width] = bytes(huffman_payload(tables[plane], payload, size))
        words += block
    check(not cursor.rest(), "there are bytes after the last block")
    if dtype not in ROTATED:
        return bytes(words)
    code, top = {2: "H", 4: "I", 8: "Q"}[width], 8 * width - 1
    return packed([word >> 1 | (word & 1) << top for word in unpacked(bytes(words), code)], code)


def matches(data: bytes, size: int) -> bytes:
    """Decode so many bytes (*Matches*)."""
    distance = Cursor(data).take(1)[0]
    check(distance <= 16, "a distance is too large")
    dictionary = min(max(4096, 1 << (size - 1).bit_length()), 1 << 26)
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    try:
        raw = decoder.decompress(data[1:], size + 1)
    except lzma.LZMAError as error:
        raise ValueError("an LZMA2 stream is damaged") from error
    check(len(raw) == size and decoder.eof, "an LZMA2 stream is of another length")
    check(not decoder.unused_data, "there are bytes after an LZMA2 stream")
    values = bytearray(raw)
    for place in range(distance, size if distance else 0):
        values[place] = (values[place] + values[place - distance]) % 256
    return bytes(values)


def unpacked(raw: bytes, code: str) -> list[Any]:
    """Read little-endian values of a format of `struct`."""
    return [value for (value,) in struct.iter_unpack(f"<{code}", raw)]


def packed(values: list[Any], code: str) -> bytes:
    """Give the bytes of values."""
    return struct.pack(f"<{len(values)}{code}", *values)


def converted(raw: bytes, dtype: str, storage: str) -> bytes:
    """Convert stored values to the dtype (*Dtypes*)."""
    check(storage != "bool" or not raw.strip(b"\0\1"), "a boolean is neither 0 nor 1")
    if storage == dtype:
        return raw
    if storage == "bfloat16":
        return packed([word << 16 for word in unpacked(raw, "H")], "I")
    scale = 1
    if storage == "float8_e4m3fn":  # with four more bits behind, 2**-8 of a float16
        check(not {0x7F, 0xFF} & {*raw}, "a NaN is stored in a narrower type")
        raw = packed([(byte & 0x80) << 8 | (byte & 0x7F) << 7 for byte in raw], "H")
        storage, scale = "float16", 256
    elif storage == "float8_e5m2":  # the upper half of a float16
        check(all(byte & 0x7C != 0x7C for byte in raw), "a float8_e5m2 is not finite")
        raw, storage = packed([byte << 8 for byte in raw], "H"), "float16"
    values = [scale * value for value in unpacked(raw, DTYPES[storage])]
    check(not any(map(math.isnan, values)), "a NaN is stored in a narrower type")
    return packed(values, DTYPES[dtype])


def floats(raw: bytes, dtype: str) -> list[float]:
    """Give the numbers of one of the dtypes that can have scales."""
    if dtype == "bfloat16":
        raw, dtype = converted(raw, "float32", "bfloat16"), "float32"
    return unpacked(raw, DTYPES[dtype])


def rounded(value: float, dtype: str) -> bytes:
    """Round to the nearest value of a dtype, ties to even; what is too large is infinite."""
    if dtype == "bfloat16":
        upper, lower = divmod(int.from_bytes(rounded(value, "float32"), "little"), 1 << 16)
        up = lower > 0x8000 or (lower == 0x8000 and upper % 2)
        return (upper + up).to_bytes(2, "little")
    try:
        return packed([value], DTYPES[dtype])
    except OverflowError:
        return packed([math.copysign(math.inf, value)], DTYPES[dtype])


class Kind(NamedTuple):
    form: int
    follows: bool
    tables: tuple[str, ...]  # of the channels: scales, offsets
    dtype: str
    storage: str


@dataclass
class Entry:
    """A tensor: what the header says about it, its parts and its values."""

    name: str
    kind: Kind
    shape: tuple[int, ...] = ()
    target: int | None = None
    levels: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    group: list[Entry] = field(default_factory=list)  # from the first on; empty if it follows one
    values: bytes = b""

    @property
    def size(self) -> int:
        return prod(self.shape)


def read_kind(cursor: Cursor) -> Kind:
    """Read three bytes."""
    first, dtype, storage = cursor.take(3)
    form, follows = first & 15, bool(first & 16)
    check(form <= MATCHES and first < 128, "there is no such form")
    check(not follows or form in (CONSTANT, *SHARED, PLANES), "a form cannot follow in a group")
    check(first & 32 or not first & 64, "there are offsets without scales")
    tables = ("scales", "offsets")[: (first >> 5 & 1) + (first >> 6 & 1)]
    check(max(dtype, storage) < len(DTYPES), "there is no such dtype")
    names = [NAMES[number] for number in (dtype, storage)]
    check(dtype == storage or names[1] in STORAGES.get(names[0], ()), "there is no such storage")
    check(not tables or (form in SHARED and names[0] in SCALED), "a tensor cannot have scales")
    return Kind(form, follows, tables, *names)


def fingerprint(shapes: Shapes) -> bytes:
    """Hash names and shapes (*Bare header*)."""

    def varint(number: int) -> bytes:
        more = varint(number >> 7) if number > 127 else b""
        return bytes([number & 127 | (128 if more else 0)]) + more

    told = b""
    for name, shape in shapes.items():
        numbers = b"".join(map(varint, (len(shape), *shape)))
        told += varint(len(name.encode())) + name.encode() + numbers
    return sha256(told).digest()[:8]


def read_header(
    cursor: Cursor, known: Shapes | None, file_bytes: int
) -> tuple[list[Entry], Metadata]:
    """Read *The header*; names and shapes are known if it is bare."""
    metadata: Metadata = {}
    most = 4096 + file_bytes // 64
    strings = cursor.varint()
    check(strings <= most, "a file has too many strings of metadata")
    for _ in range(strings):
        number = cursor.varint()
        key = cursor.take(number - 2).decode() if number > 1 else ("architecture", "recipe")[number]
        check(not metadata or key > max(metadata), "keys of the metadata do not ascend")
        metadata[key] = cursor.string()
    count = cursor.varint()
    check(count <= most, "a file has too many tensors")
    if known is not None:
        check(cursor.take(8) == fingerprint(known), "a bare file is of other shapes")
        check(count == len(known), "a bare file has another number of tensors")
    entries: list[Entry] = []
    components: list[str] = []
    kinds: list[Kind] = []
    shapes: list[tuple[int, ...]] = []
    firsts: dict[object, Entry] = {}
    name: list[str] = []
    period = repeated = 0
    for place in range(count):
        if known is None:
            shared = cursor.varint()
            check(shared <= len(name), "a name shares more than there is")
            more = range(cursor.varint())
            name = name[:shared] + [cursor.listed(components, cursor.string) for _ in more]
            check(name and "." not in "".join(name), "a name has no component, or one with a dot")
        if not repeated:
            number = cursor.varint()
            if number == len(kinds) + 1:
                period, repeated = cursor.varint(), cursor.varint()
                check(1 <= period <= place and 1 <= repeated <= count - place, "a wrong repetition")
            elif number == len(kinds):
                kinds.append(read_kind(cursor))
            else:
                check(number < len(kinds), "there is no such kind")
        again = entries[place - period] if repeated else None
        repeated -= again is not None
        whole = ".".join(name) if known is None else list(known)[place]
        check(len(whole.encode()) <= 1024, "a name is too long")
        entry = Entry(whole, again.kind if again else kinds[number])
        entries.append(entry)
        form, follows, tables, dtype, storage = entry.kind
        if form == ALIAS:
            entry.target = cursor.varint()
            check(entry.target < place, "an alias of no earlier tensor")
            target = entries[entry.target]
            check(target.kind.form != ALIAS and target.kind.dtype == dtype, "a wrong alias")
            entry.shape = target.shape
            check(not known or entry.shape == known[whole], "an alias of a wrong shape")
            continue
        entry.shape = known[whole] if known else cursor.listed(shapes, cursor.numbers)
        check(len(entry.shape) <= 32, "a rank is too large")
        check(prod(max(extent, 1) for extent in entry.shape) <= 1 << 40, "a shape is too large")
        if form in SHARED:
            entry.levels = again.levels if again else cursor.varint()
            check(entry.levels <= 65535, "there are too many levels")
            entry.lengths["codebook"] = entry.levels * ITEM[storage]
        check(entry.shape or not tables, "a tensor has scales and no channels")
        entry.lengths |= dict.fromkeys(tables, prod(entry.shape[:1]) * ITEM[storage])
        likeness = form, tables, dtype, storage, len(entry.shape), entry.shape[1:]
        if follows:
            check(likeness in firsts and entry.shape, "a tensor follows in no group")
            group = firsts[likeness].group
            group.append(entry)
            check(all(one.size for one in group), "a tensor of a group has no elements")
            check(sum(one.size for one in group) <= 1 << 20, "a group is too large")
            continue
        firsts[likeness] = entry
        entry.group = [entry]
        items = {RAW: entry.size, CONSTANT: 1, ZERO: 0}
        if form in items:
            entry.lengths["dense"] = items[form] * ITEM[storage]
        for part in STATED.get(form, ()):
            entry.lengths[part] = cursor.varint()
    check(not cursor.rest(), "there are bytes after the last tensor")
    check(len({entry.name for entry in entries}) == count, "a name occurs twice")
    return entries, metadata


def decode(group: list[Entry]) -> None:
    """Decode the values of a tensor that does not follow in a group, and of those that follow."""
    parts = group[0].parts
    form, _, _, dtype, storage = group[0].kind
    if form in SHARED:
        for one, symbols in zip(group, stacked_symbols(group), strict=True):
            one.values = shared_values(one, symbols)
        return
    dense = parts["dense"]
    count = sum(one.size for one in group)
    mask = positions(parts["tables"], parts["positions"], count) if form == SPARSE else [1] * count
    if form in (SPARSE, PLANES):
        dense = byte_planes(dense, storage, sum(mask))
    elif form == MATCHES:
        dense = matches(dense, count * ITEM[storage])
    values = converted(dense, dtype, storage)
    item = ITEM[dtype]
    if form == SPARSE:
        kept = iter(unpacked(values, f"{item}s"))
        values = b"".join(next(kept) if bit else bytes(item) for bit in mask)
    elif form in (CONSTANT, ZERO):
        values = (values or bytes(item)) * count
    cursor = Cursor(values)
    for one in group:
        one.values = cursor.take(one.size * item)


def stacked_symbols(group: list[Entry]) -> Iterator[list[int]]:
    """Decode the symbols of each tensor of a group, which may be one tensor (*Groups*)."""
    form, tables, payload = group[0].kind.form, group[0].parts["tables"], group[0].parts["symbols"]
    negatives = [0] * len(group)
    if form == CONTEXT:
        cursor = Cursor(tables)
        negatives = [cursor.varint() if one.size else 0 for one in group]
        check(not cursor.rest(), "there are bytes after a table")
        below, above = max(negatives), max(map(lambda g, one: one.levels - g, negatives, group))
        check(below + above <= 65535, "a group has too many levels on both sides of zero")
        rows = [sum(one.shape[0] for one in group)] if group[0].shape else []
        values = context_coded(payload, (*rows, *group[0].shape[1:]), (below, above))
    else:
        stream = huffman if form == HUFFMAN else rans
        most = max(one.levels for one in group)
        values = stream(tables, payload, sum(one.size for one in group), most + 1)
    start = 0
    for g, one in zip(negatives, group, strict=True):
        symbols = values[start : start + one.size]
        start += one.size
        if form == CONTEXT:
            check(g <= one.levels, "the number of negative levels is wrong")
            check(min(symbols, default=0) >= -g, "there is no such level")
            symbols = [value and value + g + (value < 0) for value in symbols]
        check(max(symbols, default=0) <= one.levels, "there is no such level")
        yield symbols


def shared_values(entry: Entry, symbols: list[int]) -> bytes:
    """Put levels for symbols (*Shared tensors*, *Scales and offsets*).

    Python computes in binary64. Of binary32 numbers, this gives products exactly, and sums with
    digits enough that rounding them once more is as good as rounding once.
    """
    _, _, names, dtype, storage = entry.kind
    tables = [converted(entry.parts[part], dtype, storage) for part in ("codebook", *names)]
    item = ITEM[dtype]
    if not names:
        items = [bytes(item), *unpacked(tables[0], f"{item}s")]
        return b"".join([items[symbol] for symbol in symbols])
    levels, scales, offsets = [*(floats(table, dtype) for table in tables), []][:3]
    check(all(map(math.isfinite, [*levels, *scales, *offsets])), "a level or scale is not finite")
    wide = "float64" if dtype == "float64" else "float32"
    values = []
    row = prod(entry.shape[1:])
    for channel in range(entry.shape[0]):
        known = {0: bytes(item)}
        for symbol in symbols[channel * row : (channel + 1) * row]:
            if symbol not in known:
                value = floats(rounded(levels[symbol - 1] * scales[channel], wide), wide)[0]
                if offsets:
                    value = floats(rounded(value + offsets[channel], wide), wide)[0]
                known[symbol] = rounded(value, dtype)
            values.append(known[symbol])
    return b"".join(values)


def read_fly(data: bytes, shapes: Shapes | None = None) -> tuple[Tensors, Metadata]:
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
    header = Cursor(cursor.take(length))
    sums = Cursor(cursor.take(4 * checks))
    cursor.crc(data[: cursor.at])
    if flags & 1:
        check(plain <= 8 * length, "a coded header is too short")
        header = Cursor(bytes(huffman(header.take(table), header.rest(), plain, 256)))
    check(flags < 2 or shapes is not None, "a bare file needs the shapes of its architecture")
    entries, metadata = read_header(header, shapes if flags & 2 else None, len(data))
    name_bytes = sum(len(entry.name.encode()) for entry in entries)
    check(name_bytes <= (1 << 17) + 2 * len(data), "the names of a file are too long")
    decoded = sum(entry.size * ITEM[entry.kind.dtype] for entry in entries)
    check(decoded <= (1 << 26) + 4096 * len(data), "a file has too many elements")
    stored = sum(sum(entry.lengths.values()) for entry in entries)
    check(len(data) == cursor.at + stored + 4, "a file is shorter or longer than its header says")

    # *Order of the payload, and checksum blocks*
    start = cursor.at
    for entry in entries:
        size = sum(entry.lengths.values())
        if cursor.at > start and size and max(cursor.at - start, size) >= 1 << 16:
            sums.crc(data[start : cursor.at])
            start = cursor.at
        entry.parts = {p: cursor.take(entry.lengths[p]) for p in ORDER if p in entry.lengths}
    if cursor.at > start:
        sums.crc(data[start : cursor.at])
    check(not sums.rest(), "there are CRCs of more blocks than there are")
    cursor.crc(data[: cursor.at])

    for entry in entries:
        if entry.group:
            decode(entry.group)
    sources = [entry if entry.target is None else entries[entry.target] for entry in entries]
    tensors = {
        entry.name: (entry.kind.dtype, entry.shape, source.values)
        for entry, source in zip(entries, sources, strict=True)
    }
    return tensors, metadata
