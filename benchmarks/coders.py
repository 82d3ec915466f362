"""Size and speed of the coders against those of others, on synthetic and on real weights.

    python -m benchmarks.coders [--sets a b resnet20 ...] [--symbols 10000000] [--repeats 7]

Ours go through the public `flyweight.coding.encode` and `decode`, layer by layer. Every row is
encoded, decoded and compared. Speeds are the median of the repeats, in millions of symbols a
second, on one core if the process is pinned to one (``taskset -c 1``); repeats of all coders
alternate. A coder that would take more than 20 seconds a set is repeated less often. Sizes are of
everything that a decoder needs; of ours also of dtype and shape. Freed memory is kept for the next
run. Peers that are not installed are left out (``make bench`` installs them; nncodec runs after
the others, in an environment and a process of its own). Writes ``benchmarks/results/coders.csv``
and the table in ``docs/benchmarks.md``.

Sets: (a) 32 k-means clusters of Laplacian weights; (b) 90 % zeros, the rest 8 levels as often as
each other; "resnet20": the shipped network, 5-bit k-means per layer; "resnet20-sparse": the same,
90 % pruned by global magnitude, 16 levels at most; "minilm" and "minilm-sparse": the matrices of
all-MiniLM-L6-v2, likewise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.codecs import Codec, Timing, measure
from benchmarks.peers import nncodec_timings, symbol_codecs
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import REAL, SYNTHETIC, Layer, layers_of
from flyweight.coding import decode, encode, entropy
from flyweight.training import keep_freed_memory

OURS = ("huffman", "rans", "context")


def ours(name: str) -> Codec:
    """One of flyweight's coders; the context coder gets signed values, the others symbols."""
    return Codec(
        f"flyweight {name}",
        lambda arrays: [encode(array, name) for array in arrays],
        lambda blobs, layers: list(map(decode, blobs)),
        lambda layers: [layer.values if name == "context" else layer.symbols for layer in layers],
    )


def same(layers: Sequence[Layer], decoded: Sequence[NDArray[np.integer]]) -> bool:
    """Whether all layers came back, as symbols or as signed values, whatever their shape."""
    return all(
        np.array_equal(layer.values if array.dtype == np.int8 else layer.symbols, array)
        or np.array_equal(layer.symbols.ravel(), np.ravel(array))
        for layer, array in zip(layers, decoded, strict=True)
    )


def rows_of(name: str, layers: Sequence[Layer], timings: dict[str, Timing]) -> list[Row]:
    """What was measured on one set."""
    symbols = sum(layer.symbols.size for layer in layers)
    least = sum(entropy(np.bincount(layer.symbols.ravel())) for layer in layers)
    return [
        origin()
        | {
            "set": name,
            "symbols": symbols,
            "entropy_bits": f"{least / symbols:.4f}",
            "coder": coder,
            "bytes": timing.size,
            "bits_per_symbol": f"{8 * timing.size / symbols:.4f}",
            "over_entropy_percent": f"{100 * (8 * timing.size / least - 1):.2f}",
            "encode_msym_s": f"{symbols / timing.encode / 1e6:.4g}",
            "decode_msym_s": f"{symbols / timing.decode / 1e6:.4g}",
            "repeats": timing.repeats,
        }
        for coder, timing in timings.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows, set by set."""
    parts = []
    for name in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == name]
        one = chosen[0]
        parts.append(
            f"Set {name}: {int(one['symbols']):,} symbols, order-0 entropy {one['entropy_bits']} "
            f"bits; {told(one)}."
        )
        columns = [":coder", "bits a symbol", "over entropy"]
        columns += ["encode, Msym/s", "decode, Msym/s", "runs"]
        cells = [
            (
                row["coder"],
                row["bits_per_symbol"],
                f"{row['over_entropy_percent']} %",
                row["encode_msym_s"],
                row["decode_msym_s"],
                row["repeats"],
            )
            for row in chosen
        ]
        parts.append(markdown(columns, cells))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="The coders against those of others.")
    parser.add_argument("--sets", nargs="+", default=[*SYNTHETIC, *REAL])
    parser.add_argument("--symbols", type=int, default=10_000_000, help="in a synthetic set")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    codecs = [*map(ours, OURS), *symbol_codecs()]
    rows: list[Row] = []
    for name in options.sets:
        layers = layers_of(name, options.symbols)
        if layers is None:
            print(f"set {name} is left out: its package is not installed", flush=True)
            continue
        timings = measure(codecs, layers, same, options.repeats)
        rows += rows_of(name, layers, timings | nncodec_timings(layers, options.repeats))
        print(table([row for row in rows if row["set"] == name]), flush=True)
    write_rows("coders", rows)
    put_table("coders", table(rows))


if __name__ == "__main__":
    main()
