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

from flyweight.coding import DTYPES, CodedTensor, carrier
from flyweight.coding.context import encode_context
from flyweight.coding.scalars import may_store
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


def huffman_payload(
    random: Random, table: bytes, alphabet: int, count: int
) -> tuple[bytes, list[int]]:
    """Random symbols by the code of a table, in one stream or four, and these symbols."""
    try:
        codes = fly_reader.huffman_codes(table, alphabet)
    except ValueError:
        return random.randbytes(2), []
    if len(codes) == 1 or not count:
        return b"", [*codes.values()] * count
    chosen = random.choices([*codes], k=count)
    step = -(-count // 4) if count >= 4096 else count
    runs = []
    for first in range(0, count, step):
        text = "".join(f"{code:b}"[1:] for code in chosen[first : first + step])
        bits = np.frombuffer(text.encode(), np.uint8) & 1
        runs.append(np.packbits(bits, bitorder="little").tobytes())
    lengths = [varint(len(run)) for run in runs[:-1]]
    return b"".join(lengths + runs), [codes[code] for code in chosen]


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


def planes(random: Random, dtype: str, count: int) -> bytes:
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
            payload, _ = huffman_payload(random, table, 256, size)
            out += [varint(len(table)), varint(len(payload)), table, payload]
    return b"".join(out)


def positions(random: Random, count: int) -> tuple[bytes, bytes, int]:
    """A table, a payload, and how many elements they mark."""
    form = random.randrange(7)
    if form < 2:
        return bytes(form), b"", count * (1 - form)
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
    payload, symbols = huffman_payload(random, code, alphabet, number)
    marked = sum(symbol < alphabet - 1 for symbol in symbols)
    return table, payload, max(0, count - marked if form % 2 else marked)


@cache
def random_tensor(number: int) -> CodedTensor:
    """The tensor of a number: of any coder, random shape and dtype."""
    random = Random(number)
    coder = random.choice(("huffman", "rans", "context", "planes", "sparse"))
    dtype = random.choice(DTYPES)
    storage = random.choice([name for name in DTYPES if may_store(dtype, name)])
    shape = tuple(
        random.randrange(0 if random.random() < 0.03 else 1, 6) for _ in range(random.randrange(5))
    )
    if random.random() < 0.02:
        shape = random.choice(((4100,), (64, 65), (9000,)))
    count = prod(shape)
    fields = {"name": "t", "shape": shape, "dtype": dtype, "storage": storage, "coder": coder}
    if coder in ("planes", "sparse"):
        parts = {}
        if coder == "sparse":
            parts["tables"], parts["positions"], count = positions(random, count)
        parts["dense"] = planes(random, storage, count)
        return CodedTensor(**fields, encoding="dense", parts=parts)
    levels = random.choice((0, 1, 1, 2, 3, 5, 9, 30, 300))
    if coder == "context":
        below = random.randint(0, levels)
        symbols = np.array(random.choices(range(levels + 1), k=count)).reshape(shape)
        table = varint(below) if count else b""
        payload = encode_context(symbols.astype(np.uint16), below) if count else b""
    elif coder == "rans":
        table = rans_table(random, levels + 1) if count else b""
        payload = rans_payload(random, table, levels + 1, count) if count else b""
    else:
        table = huffman_table(random, levels + 1) if count else b""
        payload, _ = huffman_payload(random, table, levels + 1, count)
    item = carrier(storage).itemsize
    book = random.choice((b"\0", b"\1")) if storage == "bool" else random.randbytes(min(item, 8))
    codebook = (book * levels * item)[: levels * item]
    parts = {"tables": table, "codebook": codebook, "symbols": payload}
    return CodedTensor(**fields, encoding="shared", parts=parts, levels=levels)
