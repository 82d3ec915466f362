"""Ways to make bytes of symbols or values and back, timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any, NamedTuple

LONGEST = 20.0  # seconds, for all runs of a codec on one set


class Codec(NamedTuple):
    """A way there and back.

    ``encode`` gets what ``prepare`` makes of the data, which is not timed; ``decode`` gets what
    ``encode`` gave, and the data, for shapes and for static models.
    """

    name: str
    encode: Callable[[Any], Sequence[Sized]]
    decode: Callable[[Any, Any], Any]
    prepare: Callable[[Any], Any] = lambda data: data


class Timing(NamedTuple):
    """Bytes in all, and seconds each way: the median of the repeats."""

    size: int
    encode: float
    decode: float
    repeats: int


def measure(
    codecs: Sequence[Codec],
    data: Any,
    same: Callable[[Any, Any], bool],
    repeats: int,
    longest: float = LONGEST,
) -> dict[str, Timing]:
    """Encode, decode and compare with every codec in turn, ``repeats`` times after a warm-up.

    A codec for which that would take longer than ``longest`` seconds is run less often, at least
    once; where there is one run, it is the warm-up that counts.
    """
    runs: dict[str, list[tuple[float, float]]] = {codec.name: [] for codec in codecs}
    sizes: dict[str, int] = {}
    for number in range(repeats + 1):
        for codec in codecs:
            before = runs[codec.name]
            if number and (number + 1) * sum(before[0]) > longest:
                continue
            prepared = codec.prepare(data)
            start = time.perf_counter()
            blobs = codec.encode(prepared)
            middle = time.perf_counter()
            decoded = codec.decode(blobs, data)
            before.append((middle - start, time.perf_counter() - middle))
            if not same(data, decoded):
                raise RuntimeError(f"{codec.name} does not give back what it was given")
            sizes[codec.name] = sum(map(len, blobs))
    timings = {}
    for name, all_runs in runs.items():
        counted = all_runs[1:] or all_runs
        encode, decode = (statistics.median(run[way] for run in counted) for way in (0, 1))
        timings[name] = Timing(sizes[name], encode, decode, len(counted))
    return timings
