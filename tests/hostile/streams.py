"""Random tensors whose tables and streams are sound, or nearly, and that no encoder would choose.

The codes of a table come from the reader that was written from `docs/format.md` alone, so that
they do not depend on what is tested.
"""

from __future__ import annotations

import sys
from functools import cache
from math import prod
from pathlib import Path
from random import Random

import numpy as np

from flyweight.coding import CodedTensor, carrier
from flyweight.coding.varint import varint

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

import fly_reader

__all__ = ["random_tensor"]


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
    """A table of a complete code of random shape."""
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


def huffman_payload(random: Random, table: bytes, alphabet: int, count: int) -> bytes:
    """Random symbols by the code of a table, in one stream or four."""
    codes = fly_reader.huffman_codes(table, alphabet)
    if len(codes) == 1:
        return b""
    chosen = random.choices([*codes], k=count)
    step = -(-count // 4) if count >= 4096 else count
    runs = []
    for first in range(0, count, step):
        text = "".join(f"{code:b}"[1:] for code in chosen[first : first + step])
        bits = np.frombuffer(text.encode(), np.uint8) & 1
        runs.append(np.packbits(bits, bitorder="little").tobytes())
    return b"".join([*(varint(len(run)) for run in runs[:-1]), *runs])


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
    flags = [1] * alphabet
    if form == 0:
        out.number(1, 1)
    elif form == 1:
        flags = random.choices((0, 1), k=alphabet)
        out.number(1, 2)
        out.bits += map(str, flags)
    else:
        flags = [0] * random.randrange(alphabet)
        out.number(0, 2)
        out.exp_golomb(len(flags), 0)
        occurs = 1
        while len(flags) < alphabet:
            run = random.randint(1, alphabet - len(flags))
            out.exp_golomb(run - 1, 0)
            flags += [occurs] * run
            occurs = 1 - occurs
    most = random.choice((3, 40, 40, 3000))
    for _ in range(sum(flags)):
        out.exp_golomb(random.randrange(most), order)
    return out.bytes()


def rans_payload(random: Random, table: bytes, alphabet: int, count: int) -> bytes:
    """One chunk of random symbols by the frequencies of a table."""
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


@cache
def random_tensor(number: int) -> CodedTensor:
    """The quantized tensor of a number, Huffman-coded if it is even, otherwise by rANS."""
    random = Random(number)
    table_of, payload_of = (
        (rans_table, rans_payload) if number % 2 else (huffman_table, huffman_payload)
    )
    dtype = random.choice(("float32", "float16", "int8", "int64"))
    shape = tuple(random.randrange(random.random() > 0.03, 6) for _ in range(random.randrange(5)))
    if random.random() < 0.02:
        shape = random.choice(((4100,), (64, 65), (9000,)))
    levels, count = random.choice((0, 1, 1, 2, 3, 5, 9, 30, 300)), prod(shape)
    table = table_of(random, levels + 1) if count else b""
    return CodedTensor(
        name="t",
        shape=shape,
        dtype=dtype,
        storage=dtype,
        encoding="shared",
        coder="rans" if number % 2 else "huffman",
        levels=levels,
        parts={
            "tables": table,
            "codebook": random.randbytes(levels * carrier(dtype).itemsize),
            "symbols": payload_of(random, table, levels + 1, count) if count else b"",
        },
    )
