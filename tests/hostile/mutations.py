"""Damage bytes at random."""

from __future__ import annotations

from random import Random

from flyweight.coding.varint import varint

__all__ = ["INTERESTING", "mutated", "some_bytes"]

INTERESTING = (
    *(0, 1, 2, 3, 126, 127, 128, 255, 256, 4095, 4096, 1 << 14, (1 << 16) - 1, 1 << 16),
    *(1 << 20, (1 << 20) + 1, (1 << 31) - 1, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1),
)


def some_bytes(random: Random, length: int) -> bytes:
    """Random bytes, half of them 0, 1 or 255."""
    mask = random.randbytes(length)
    return bytes(
        (0, 0, 1, 255)[byte & 3] if chosen & 1 else byte
        for byte, chosen in zip(random.randbytes(length), mask, strict=True)
    )


def _place(random: Random, data: bytes | bytearray) -> int:
    """A place in the bytes, more often near the start, where tables and counts are."""
    size = len(data) if random.random() < 0.5 else min(len(data), 24)
    return int(random.random() * size)


def _mutate(random: Random, data: bytes, other: bytes) -> bytes:
    at = _place(random, data)
    how = random.randrange(11)
    if how <= 1:
        damaged = bytearray(data or b"\0")
        for _ in range(random.choice((1, 1, 1, 2, 5)) if how else 0):
            damaged[_place(random, damaged)] ^= 1 << random.randrange(8)
        if not how:
            damaged[at] = some_bytes(random, 1)[0]
        return bytes(damaged)
    if how == 2:  # cut the end off
        kept = len(data) - random.choice((1, 1, 2, 3, random.randint(1, len(data) or 1)))
        return data[: max(kept, 0)]
    if how == 3:  # insert
        length = 20_000 if random.random() < 0.001 else random.randint(1, 5)
        at = random.choice((0, len(data), at))
        return data[:at] + some_bytes(random, length) + data[at:]
    if how == 4:  # leave out
        return data[:at] + data[at + random.randint(1, 5) :]
    if how == 5:  # splice
        return data[:at] + other[random.choice((at, _place(random, other))) :]
    if how == 6:  # put a number that is at the edge of something where there may be one
        number = max(0, min(random.choice(INTERESTING) + random.randint(-1, 1), (1 << 63) - 1))
        return data[:at] + varint(number) + data[at + random.randint(0, 3) :]
    if how == 7:  # swap two runs
        first, second, third = sorted((at, _place(random, data), _place(random, data)))
        return data[:first] + data[second:third] + data[first:second] + data[third:]
    if how == 8:  # repeat a run
        return data[: at + random.randint(1, 16)] + data[at:]
    if how == 9:
        return some_bytes(random, random.choice((0, 1, 2, 3, 8, 30)))
    return other


def mutated(random: Random, data: bytes, other: bytes) -> bytes:
    """Bytes with one mutation, seldom two; ``other`` bytes are mixed in."""
    for _ in range(random.choice((1, 1, 1, 2))):
        data = _mutate(random, data, other)
    return data
