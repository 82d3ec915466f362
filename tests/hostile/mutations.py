"""Ways to damage bytes, each a function of a random generator, the bytes, and others to mix in."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from flyweight.coding.varint import varint

__all__ = ["INTERESTING", "mutated", "some_bytes"]

INTERESTING = (
    *(0, 1, 2, 3, 126, 127, 128, 255, 256, 4095, 4096, 1 << 14, (1 << 16) - 1, 1 << 16),
    *(1 << 20, (1 << 20) + 1, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1),
)

Mutation = Callable[[Random, bytes, bytes], bytes]


def some_bytes(random: Random, length: int) -> bytes:
    """Random bytes, of which many are 0, 1 or 255."""
    choices = random.choices((0, 1, 255, -1), (2, 1, 1, 4), k=length)
    return bytes(random.randrange(256) if choice < 0 else choice for choice in choices)


def _place(random: Random, data: bytes) -> int:
    """A place in the bytes, more often near the start, where tables and counts are."""
    size = len(data) if random.random() < 0.5 else min(len(data), 24)
    return random.randrange(size) if size else 0


def flip(random: Random, data: bytes, _: bytes) -> bytes:
    damaged = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        damaged[_place(random, damaged)] ^= 1 << random.randrange(8)
    return bytes(damaged)


def change(random: Random, data: bytes, _: bytes) -> bytes:
    damaged = bytearray(data or b"\0")
    damaged[_place(random, damaged)] = some_bytes(random, 1)[0]
    return bytes(damaged)


def truncate(random: Random, data: bytes, _: bytes) -> bytes:
    kept = len(data) - random.choice((1, 1, 2, 3, random.randint(1, len(data) or 1)))
    return data[: max(kept, 0)]


def insert(random: Random, data: bytes, _: bytes) -> bytes:
    at = random.choice((0, len(data), _place(random, data)))
    length = 20_000 if random.random() < 0.005 else random.randint(1, 5)
    return data[:at] + some_bytes(random, length) + data[at:]


def delete(random: Random, data: bytes, _: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + random.randint(1, 5) :]


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + other[random.choice((at, _place(random, other))) :]


def count(random: Random, data: bytes, _: bytes) -> bytes:
    """Put a number that is at the edge of something where there may be one."""
    at = _place(random, data)
    number = max(0, min(random.choice(INTERESTING) + random.randint(-1, 1), (1 << 63) - 1))
    return data[:at] + varint(number) + data[at + random.randint(0, 3) :]


def swap(random: Random, data: bytes, _: bytes) -> bytes:
    first, second, third = sorted(_place(random, data) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def repeat(random: Random, data: bytes, _: bytes) -> bytes:
    first = _place(random, data)
    last = first + random.randint(1, 16)
    return data[:last] + data[first:]


def noise(random: Random, _: bytes, __: bytes) -> bytes:
    return some_bytes(random, random.choice((0, 1, 2, 3, 8, 30)))


def other(random: Random, _: bytes, other: bytes) -> bytes:
    return other


MUTATIONS: tuple[Mutation, ...] = (
    flip,
    change,
    truncate,
    insert,
    delete,
    splice,
    count,
    swap,
    repeat,
    noise,
    other,
)


def mutated(random: Random, data: bytes, other: bytes) -> bytes:
    """Bytes with one mutation, seldom two."""
    for _ in range(random.choice((1, 1, 1, 2))):
        data = random.choice(MUTATIONS)(random, data, other)
    return data
