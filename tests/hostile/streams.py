"""Random tensors whose tables and streams are sound, or nearly: no encoder would choose them.

The codes of a table come from the reader that was written from `docs/format.md` alone, so that
they do not depend on what is tested.
"""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path
from random import Random

import numpy as np

from flyweight.coding import DTYPES, CodedTensor, carrier
from flyweight.coding.scalars import may_store
from flyweight.coding.varint import varint

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

import fly_reader

__all__ = ["random_tensor"]

_LEVELS = (0, 1, 1, 2, 3, 5, 9, 30, 300)


class BitWriter:
    """Bits from the highest of each byte, as tables have them."""

    def __init__(self) -> None:
        self.bits: list[str] = []

    def number(self, value: int, length: int) -> None:
        self.bits.append(f"{value:0{length}b}")

    def gamma(self, value: int) -> None:
        self.number(value, 2 * value.bit_length() - 1)

    def exp_golomb(self, value: int, order: int) -> None:
        self.gamma((value >> order) + 1)
        if order:
            self.number(value & ((1 << order) - 1), order)

    def bytes(self) -> bytes:
        text = "".join(self.bits)
        size = (len(text) + 7) // 8
        return int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big") if size else b""


def huffman_table(random: Random, alphabet: int) -> bytes:
    """A table of a complete code of random shape; at times it has too many symbols."""
    if alphabet <= 1:
        return b""
    lengths = [0]
    for _ in range(random.randrange(min(alphabet, random.choice((2, 12, 12, 40))))):
        at = random.randrange(len(lengths))
        if lengths[at] < 16:
            lengths[at : at + 1] = [lengths[at] + 1] * 2
    random.shuffle(lengths)
    used = sorted(random.sample(range(alphabet), len(lengths)))
    out = BitWriter()
    expected, previous = 0, min(15, (alphabet - 1).bit_length())
    for symbol, length in zip(used, lengths, strict=True):
        if symbol > expected:
            out.number(6, 3)
            out.gamma(symbol - expected)
        step = length - previous
        if step == 0:
            out.number(0, 1)
        elif abs(step) == 1:
            out.number(4 if step > 0 else 5, 3)
        else:
            out.number(14 if step > 0 else 15, 4)
            out.gamma(abs(step) - 1)
        expected, previous = symbol + 1, length
    return out.bytes()


def huffman_stream(
    random: Random, table: bytes, alphabet: int, count: int, *, lowest_first: bool
) -> tuple[bytes, list[int]]:
    """A payload of random symbols by the code of a table, and the symbols."""
    try:
        codes = fly_reader.huffman_codes(table, alphabet)
    except ValueError:
        return random.randbytes(2), []
    if len(codes) == 1:
        return b"", [*codes.values()] * count
    chosen = random.choices([*codes], k=count)
    bits = np.frombuffer("".join(f"{code:b}"[1:] for code in chosen).encode(), np.uint8) & 1
    order = "little" if lowest_first else "big"
    return np.packbits(bits, bitorder=order).tobytes(), [codes[code] for code in chosen]


def interleaved_stream(random: Random, table: bytes, alphabet: int, count: int) -> bytes:
    """A payload in one stream or, of 4096 symbols and more, in four."""
    step = -(-count // 4) if count >= 4096 else max(count, 1)
    sizes = [min(step, count - first) for first in range(0, count, step)]
    runs = [huffman_stream(random, table, alphabet, size, lowest_first=True)[0] for size in sizes]
    if not any(runs):
        return b""
    return b"".join([varint(len(run)) for run in runs[:-1]] + runs)


def rans_table(random: Random, alphabet: int) -> bytes:
    """A table of random lanes, precision and weights; at times its weights are out of range."""
    out = BitWriter()
    exponent = random.choice((0, 0, 1, 2, 5, 6, 7))
    out.number(8 | exponent if exponent else 0, 4 if exponent else 1)
    out.number(random.randrange(8), 3)
    out.number(random.randrange(8), 3)
    order = random.randrange(8)
    out.number(order, 3)
    form = random.randrange(3)
    used = 0
    if form == 0:
        out.number(1, 1)
        used = alphabet
    elif form == 1:
        out.number(1, 2)
        flags = random.choices((0, 1), k=alphabet)
        out.bits += map(str, flags)
        used = sum(flags)
    else:
        out.number(0, 2)
        at = random.randrange(alphabet)
        out.exp_golomb(at, 0)
        while at < alphabet:
            for occurs in (1, 0):
                run = random.randint(1, max(alphabet - at, 1))
                if at < alphabet:
                    out.exp_golomb(run - 1, 0)
                    used += occurs * run
                    at += run
    most = random.choice((3, 40, 40, 3000))
    for _ in range(used):
        out.exp_golomb(random.randrange(most), order)
    return out.bytes()


def rans_stream(random: Random, table: bytes, alphabet: int, count: int) -> bytes:
    """A payload of one chunk of random symbols by the frequencies of a table."""
    try:
        lanes, used, frequencies = fly_reader.rans_table(table, alphabet)
    except ValueError:
        return random.randbytes(4)
    size = sum(frequencies)
    ends = np.cumsum(frequencies).tolist()
    room = 33 - size.bit_length()
    states = [65536 if lanes > 1 else 0] * lanes
    words = []
    for place in reversed(range(count)):
        symbol = random.randrange(len(used))
        state, share = states[place % lanes], frequencies[symbol]
        if state >= share << room:
            words.append(state & 0xFFFF)
            state >>= 16
        states[place % lanes] = size * (state // share) + ends[symbol] - share + state % share
    raw = b"".join(state.to_bytes(4, "little") for state in states)
    if lanes == 1:
        raw = raw.rstrip(b"\0")
    return raw + b"".join(word.to_bytes(2, "little") for word in reversed(words))


class BitSource(fly_reader.RangeDecoder):
    """Gives random bits as if it decoded them, and then the chunk that they come from."""

    random = Random()

    def __init__(self, _: bytes) -> None:
        self.low, self.size, self.words = 0, 1 << 48, 3
        self.bias = self.random.choice((1, 1, 1, 0.5, 1.3))

    def bit(self, chance: int) -> int:
        bit = int(self.random.random() < chance / 65536 * self.bias)
        bound = (self.size >> 16) * chance
        if bit:
            self.size = bound
        else:
            self.size -= bound
            self.low += bound
        if self.size < 1 << 32:
            self.size <<= 16
            self.low <<= 16
            self.words += 1
        return bit

    def chunk(self) -> bytes:
        for zeros in (48, 40, 32, 24, 16, 8, 0):
            number = -(-self.low >> zeros) << zeros
            if number < self.low + self.size:
                break
        raw = number.to_bytes(2 * self.words + 1, "big")[1:]
        return raw[:-6] + raw[-6:].rstrip(b"\0")


def context_stream(random: Random, shape: tuple[int, ...]) -> bytes:
    """A stream of random shift or thresholds, and of values as its states make them likely."""
    count = prod(shape)
    by_kernels = len(shape) > 2 and random.random() < 0.5
    zeros = random.random() < 0.7
    head = bytes([by_kernels | zeros << 1])
    decoder = fly_reader.ValueDecoder(b"", zeros)
    BitSource.random = random
    source = decoder.decoder = BitSource(b"")
    try:
        if by_kernels:
            shift = random.choice((0, 0, 1, 2, 27))
            head += bytes([shift])
            height = shape[-2] if len(shape) > 3 else 1
            fly_reader.kernel_chunk(decoder, count, height, shape[-1], shift)
        else:
            most = random.choice((2, 60, 3000, 1 << 37))
            steps = [random.randint(1, most) for _ in range(random.randrange(8))]
            head += bytes([len(steps)]) + b"".join(map(varint, steps))
            width = prod(shape[1:]) if len(shape) > 1 else count
            fly_reader.energy_chunk(decoder, count, width, np.cumsum(steps).tolist())
    except ValueError:
        return head + random.randbytes(8)
    return head + source.chunk()


def planes_stream(random: Random, dtype: str, count: int) -> bytes:
    """One block of byte planes, each in a random form."""
    halves = 2 if dtype.startswith("complex") else 1
    width, size = carrier(dtype).itemsize // halves, count * halves
    if not size:
        return b""
    forms = random.choices((0, 1, 2, 2), k=width)
    if dtype == "bool":
        forms = [random.choice((1, 3, 3, 0, 2))]
    elif random.random() < 0.03:
        forms[random.randrange(width)] = 3
    out = [sum(form << 2 * at for at, form in enumerate(forms)).to_bytes(-(-width // 4), "little")]
    for form in forms:
        if form == 0:
            out.append(random.randbytes(size))
        elif form == 1:
            out.append(bytes([random.choice((0, 1, 7))]))
        elif form == 3:
            bits = np.array(random.choices((0, 1), k=size), np.uint8)
            out.append(np.packbits(bits, bitorder="little").tobytes())
        else:
            table = huffman_table(random, 256)
            payload = interleaved_stream(random, table, 256, size)
            out += [varint(len(table)), varint(len(payload)), table, payload]
    return b"".join(out)


def positions_stream(random: Random, count: int) -> tuple[bytes, bytes, int]:
    """A table, a payload, and how many elements they keep."""
    form = random.randrange(7)
    if form == 0:
        return b"", b"", count
    if form == 1:
        return b"\0", b"", 0
    if form == 2:
        mask = np.array(random.choices((0, 1), k=count), np.uint8)
        return b"\1", np.packbits(mask).tobytes(), int(mask.sum())
    choice = random.choice((0, 0, 1, 2, 3, 4, 5, random.randrange(60)))
    alphabet = (4 + choice % 4) << (choice // 4)
    if alphabet > 65536:
        return bytes([2 + 4 * choice]), random.randbytes(3), 0
    number = random.randint(1, max(1, count // random.choice((2, 2, 4, 9))))
    code = huffman_table(random, min(alphabet, random.choice((4, 4, alphabet))))
    table = bytes([2 + form % 2 + 4 * choice]) + varint(number) + code
    payload, symbols = huffman_stream(random, code, alphabet, number, lowest_first=False)
    marked = sum(symbol < alphabet - 1 for symbol in symbols)
    return table, payload, max(0, count - marked if form % 2 else marked)


def _plain(random: Random, count: int, levels: int) -> dict[str, bytes]:
    if random.random() < 0.3:
        table = huffman_table(random, levels + 1)
        payload, _ = huffman_stream(random, table, levels + 1, count, lowest_first=False)
        return {"tables": b"\0" + table, "positions": b"", "symbols": payload}
    where, positions, kept = positions_stream(random, count)
    table = payload = b""
    if kept and levels:
        table = huffman_table(random, levels)
        payload, _ = huffman_stream(random, table, levels, kept, lowest_first=False)
    table = varint(len(where) + 1) + where + table
    return {"tables": table, "positions": positions, "symbols": payload}


def _interleaved(random: Random, count: int, levels: int) -> dict[str, bytes]:
    table = huffman_table(random, levels + 1)
    payload = interleaved_stream(random, table, levels + 1, count)
    return {"tables": table, "positions": b"", "symbols": payload}


def _rans(random: Random, count: int, levels: int) -> dict[str, bytes]:
    if random.random() < 0.1:
        symbol = random.randrange(levels + 2)
        table = symbol.to_bytes((symbol.bit_length() + 7) // 8, "little")
        return {"tables": table, "positions": b"", "symbols": b""}
    table = rans_table(random, levels + 1)
    payload = rans_stream(random, table, levels + 1, count)
    return {"tables": table, "positions": b"", "symbols": payload}


_STREAMS = {"plain": _plain, "interleaved": _interleaved, "rans": _rans}


def random_tensor(random: Random, coder: str) -> CodedTensor:
    """A tensor of any coder, ``planes`` included, of random shape and dtype."""
    dtype = random.choice(DTYPES)
    storage = random.choice([name for name in DTYPES if may_store(dtype, name)])
    shape = tuple(
        random.randrange(0 if random.random() < 0.03 else 1, 6) for _ in range(random.randrange(5))
    )
    if random.random() < 0.02:
        shape = random.choice(((4100,), (64, 65), (33_000,)) if coder != "context" else ((70, 8),))
    levels, count = random.choice(_LEVELS), prod(shape)
    fields = {"name": "t", "shape": shape, "dtype": dtype, "storage": storage, "coder": coder}
    if coder == "planes":
        parts = {"dense": planes_stream(random, storage, count)}
        return CodedTensor(**fields, encoding="dense", parts=parts)
    if coder == "context":
        levels = random.choice((levels, 5000, 65_535))
        table = varint(random.choice((levels // 2, random.randint(0, levels)))) if count else b""
        stream = context_stream(random, shape) if count else b""
        parts = {"tables": table, "positions": b"", "symbols": stream}
    else:
        parts = _STREAMS[coder](random, count, levels)
    item = carrier(storage).itemsize
    book = random.choice((b"\0", b"\1")) if storage == "bool" else random.randbytes(min(item, 8))
    codebook = (book * levels * item)[: levels * item]
    return CodedTensor(
        **fields, encoding="shared", parts=parts | {"codebook": codebook}, levels=levels
    )
