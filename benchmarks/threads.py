"""How much faster the coders are on two threads than on one.

    python -m benchmarks.threads [--symbols 67108864] [--repeats 5]

Sets (a) and (b) of `benchmarks.coders`. Runs on one thread and on two alternate in one process,
which needs two cores; the median counts. Freed memory is kept for the next run. The bytes are the
same on any number of threads. Writes ``benchmarks/results/threads.csv`` and the table in
``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.codecs import Codec, measure
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import SYNTHETIC, Layer, layers_of
from flyweight.coding.context import decode_context, encode_context
from flyweight.coding.interleaved import decode_interleaved, encode_interleaved
from flyweight.coding.rans import decode_rans, encode_rans
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


def rows_of(name: str, layer: Layer, repeats: int) -> list[Row]:
    """What one set gives."""
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
    text = f"{int(rows[0]['symbols']):,} symbols a set; {told(rows[0])}.\n\n"
    return text + markdown(columns, [[row[key] for key in keys] for row in rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="The coders on two threads.")
    parser.add_argument("--symbols", type=int, default=1 << 26)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    for name in SYNTHETIC:
        (layer,) = layers_of(name, options.symbols) or ()
        rows += rows_of(name, layer, options.repeats)
    print(table(rows), flush=True)
    write_rows("threads", rows)
    put_table("threads", table(rows))


if __name__ == "__main__":
    main()
