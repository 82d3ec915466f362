"""How much faster the coders are on two threads than on one.

    python -m benchmarks.threads [--symbols 67108864] [--repeats 5] [--seconds 3]

Sets (a) and (b) of `benchmarks.coders`. Runs on one thread and on two alternate in one process,
which needs two cores; the median counts. Freed memory is kept for the next run. The bytes are the
same on any number of threads. How much the machine has to give is told by two processes that
decode a short stream again and again for ``--seconds``, each on its own: what they get done
together over what one of them does alone. Writes ``benchmarks/results/threads.csv`` and the table
in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np

from benchmarks.codecs import Codec, measure
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import SYNTHETIC, Layer, layers_of
from flyweight.coding.context.stream import decode_context, encode_context
from flyweight.coding.interleaved import decode_interleaved, encode_interleaved
from flyweight.coding.rans.stream import decode_rans, encode_rans
from flyweight.training import keep_freed_memory


class Coder(NamedTuple):
    """A coder of a layer on some number of threads."""

    name: str
    encode: Callable[[Layer, int], list[bytes]]
    decode: Callable[[list[bytes], Layer, int], Any]
    """Gives the symbols, or the values, back."""


CODERS = (
    Coder(
        "interleaved",
        lambda layer, n: list(encode_interleaved(layer.symbols, layer.alphabet, threads=n)),
        lambda blobs, layer, n: decode_interleaved(
            *blobs, layer.symbols.size, layer.alphabet, threads=n
        ),
    ),
    Coder(
        "rans",
        lambda layer, n: list(encode_rans(layer.symbols, layer.alphabet, threads=n)),
        lambda blobs, layer, n: decode_rans(*blobs, layer.symbols.size, layer.alphabet, threads=n),
    ),
    Coder(
        "context",
        lambda layer, n: [encode_context(layer.values, threads=n)],
        lambda blobs, layer, n: decode_context(*blobs, layer.values.shape, threads=n),
    ),
)


def same(layer: Layer, decoded: Any) -> bool:
    """Whether symbols or values came back."""
    return np.array_equal(layer.symbols, decoded) or np.array_equal(layer.values, decoded)


def on_threads(coder: Coder, threads: int) -> Codec:
    """A coder with its number of threads."""
    return Codec(
        f"{coder.name}/{threads}",
        lambda layer: coder.encode(layer, threads),
        lambda blobs, layer: coder.decode(blobs, layer, threads),
    )


def rounds(seconds: float) -> int:
    """How often this process decodes a stream that fits into its caches."""
    (layer,) = layers_of("a", 1 << 17) or ()
    table, payload = encode_rans(layer.symbols, layer.alphabet, engine="numba")
    done = 0
    end = time.perf_counter() + seconds
    while done < 1 or time.perf_counter() < end:
        decode_rans(table, payload, layer.symbols.size, layer.alphabet, engine="numba")
        done += 1
    return done


def of_two_processes(seconds: float) -> float:
    """What two processes do at once over what one does: threads cannot be expected to do more."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(rounds, [0.0, 0.0], chunksize=1)  # both are there, and have compiled
        alone = pool.apply(rounds, (seconds,))
        return sum(pool.map(rounds, [seconds] * 2, chunksize=1)) / alone


def rows_of(name: str, layer: Layer, repeats: int, processes: float) -> list[Row]:
    """What one set gives; ``processes`` is what two of them do over what one does."""
    codecs = [on_threads(coder, threads) for coder in CODERS for threads in (1, 2)]
    timings = measure(codecs, layer, same, repeats)
    rows = []
    for coder in CODERS:
        one, two = timings[f"{coder.name}/1"], timings[f"{coder.name}/2"]
        if one.size != two.size:
            raise RuntimeError(f"{coder.name} gives other bytes on two threads")
        symbols = layer.symbols.size
        rows.append(
            origin()
            | {"set": name, "symbols": symbols, "coder": f"flyweight {coder.name}"}
            | {
                f"{way}_msym_s_{threads}": f"{symbols / seconds / 1e6:.4g}"
                for threads, timing in ((1, one), (2, two))
                for way, seconds in (("encode", timing.encode), ("decode", timing.decode))
            }
            | {
                "encode_ratio": f"{one.encode / two.encode:.2f}",
                "decode_ratio": f"{one.decode / two.decode:.2f}",
                "two_processes_ratio": f"{processes:.2f}",
                "repeats": min(one.repeats, two.repeats),
            }
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":set", ":coder", "encode on 1, Msym/s", "on 2", "ratio"]
    columns += ["decode on 1, Msym/s", "on 2", "ratio", "runs"]
    keys = ["set", "coder"]
    for way in ("encode", "decode"):
        keys += [f"{way}_msym_s_1", f"{way}_msym_s_2", f"{way}_ratio"]
    keys.append("repeats")
    text = (
        f"{int(rows[0]['symbols']):,} symbols a set; {told(rows[0])}. Two processes that decode, "
        f"each on its own, get {rows[0]['two_processes_ratio']} times as much done as one.\n\n"
    )
    return text + markdown(columns, [[row[key] for key in keys] for row in rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="The coders on two threads.")
    parser.add_argument("--symbols", type=int, default=1 << 26)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of two processes")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    processes = of_two_processes(options.seconds)
    rows: list[Row] = []
    for name in SYNTHETIC:
        (layer,) = layers_of(name, options.symbols) or ()
        rows += rows_of(name, layer, options.repeats, processes)
    print(table(rows), flush=True)
    write_rows("threads", rows)
    put_table("threads", table(rows))


if __name__ == "__main__":
    main()
