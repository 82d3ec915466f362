"""Milliseconds to open a ResNet-20 ``.fly`` into a module, in a fresh process.

    python -m benchmarks.opening [--processes 9]

The file holds the shipped network, its batch normalization folded and its weights in 32 values a
layer, all layers by one coder, or each by the one that gives fewest bytes ("auto"). In each process
torch is imported first; then ``import flyweight`` and ``flyweight.load(path)`` are timed, and the
median of the processes counts. "cold" has an empty folder for what Numba compiles, "warm" one
that a process before has filled; both matter only if a file is large enough to start Numba. Writes
``benchmarks/results/opening.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight.batch_norm import fold_batch_norms_
from flyweight.cifar import load_pretrained
from flyweight.coding import decode_shared, encode_shared
from flyweight.coding.symbols import Coder
from flyweight.compressed import compress_module
from flyweight.format import write
from flyweight.io import save
from flyweight.modules import names_and_shapes, select_weights
from flyweight.quantization import quantize_kmeans

CODERS: tuple[Coder | None, ...] = (None, "plain", "interleaved", "rans", "context")
PROGRAM = """
import sys, time
import torch
start = time.perf_counter()
import flyweight
middle = time.perf_counter()
flyweight.load(sys.argv[1])
end = time.perf_counter()
numba = "numba" in sys.modules
import json
print(json.dumps({"import": middle - start, "load": end - middle, "numba": numba}))
"""


def write_file(path: Path, coder: Coder | None) -> int:
    """The shipped network in few values, its layers by one coder; returns the bytes."""
    model = load_pretrained("resnet20")
    weights = select_weights(model)
    shared = {name: quantize_kmeans(weight, bits=5) for name, weight in weights.items()}
    for name, tensor in shared.items():
        weights[name].data.copy_(tensor.dequantize())
    fold_batch_norms_(model)
    metadata = {"architecture": "resnet20"}
    compressed = compress_module(model, shared, float_dtype="float16", metadata=metadata)
    if coder is None:
        return save(compressed, path)
    container = compressed.to_container()
    known = names_and_shapes(model)
    tensors = {tensor.name: tensor for tensor in container.tensors}
    for name, coded in tensors.items():
        if coded.encoding == "shared":
            symbols, levels = decode_shared(coded)
            tensors[name] = encode_shared(
                name, symbols, levels=levels, dtype=coded.dtype, coder=coder
            )
    ordered = tuple(tensors[name] for name in known)
    return write(dataclasses.replace(container, tensors=ordered), path, bare=True)


def run(path: Path, cache: Path) -> dict[str, float]:
    """One fresh process; what it took, in seconds."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as an installed package is imported
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def rows_of(folder: Path, coder: Coder | None, processes: int) -> list[Row]:
    """What a file of one coder gives, with a cold and a warm cache."""
    name = coder or "auto"
    path = folder / f"{name}.fly"
    size = write_file(path, coder)
    rows = []
    for cache in ("cold", "warm"):
        run(path, folder / "warm")  # what is read from the disk is in memory from here on
        runs = [
            run(path, folder / ("warm" if cache == "warm" else f"cold-{name}-{number}"))
            for number in range(processes)
        ]
        load = [1000 * one["load"] for one in runs]
        both = [1000 * (one["import"] + one["load"]) for one in runs]
        rows.append(
            origin()
            | {
                "network": "resnet20",
                "coder": name,
                "file_bytes": size,
                "cache": cache,
                "numba": "yes" if runs[0]["numba"] else "no",
                "load_ms": f"{statistics.median(load):.1f}",
                "import_and_load_ms": f"{statistics.median(both):.1f}",
                "slowest_load_ms": f"{max(load):.1f}",
                "repeats": processes,
            }
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":coder", "file, bytes", ":cache", ":Numba started", "load, ms"]
    columns += ["import and load, ms", "slowest load, ms"]
    cells = [
        (
            row["coder"],
            f"{int(row['file_bytes']):,}",
            row["cache"],
            row["numba"],
            row["load_ms"],
            row["import_and_load_ms"],
            row["slowest_load_ms"],
        )
        for row in rows
    ]
    text = f"{told(rows[0])}; medians of {rows[0]['repeats']} processes.\n\n"
    return text + markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Open a ResNet-20 in a fresh process.")
    parser.add_argument("--processes", type=int, default=9)
    parser.add_argument("--coders", nargs="+", default=[coder or "auto" for coder in CODERS])
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for coder in CODERS:
            if (coder or "auto") in options.coders:
                rows += rows_of(Path(folder), coder, options.processes)
    print(table(rows), flush=True)
    write_rows("opening", rows)
    put_table("opening", table(rows))


if __name__ == "__main__":
    main()
