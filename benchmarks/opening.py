"""Milliseconds to import flyweight and to open the smallest ResNet-20 file, in a fresh process.

    python -m benchmarks.opening [--processes 15]

The file holds the shipped network, its batch normalization folded and its weights in 32 values a
layer, each layer by the coder that gives fewest bytes. In each process torch is imported first;
then importing flyweight, with all that `flyweight.load` needs, and ``flyweight.load(path)`` are
timed. The median of the processes counts. Pin the process to one core. Writes
``benchmarks/results/opening.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
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
from flyweight.compressed import compress_module
from flyweight.io import save
from flyweight.modules import select_weights
from flyweight.quantization import quantize_kmeans

PROGRAM = """
import json, sys, time
import torch
start = time.perf_counter()
from flyweight import load
middle = time.perf_counter()
load(sys.argv[1])
print(json.dumps([1000 * (middle - start), 1000 * (time.perf_counter() - middle)]))
"""


def write_file(path: Path) -> int:
    """The shipped network in few values; returns the bytes."""
    model = load_pretrained("resnet20")
    weights = select_weights(model)
    shared = {name: quantize_kmeans(weight, bits=5) for name, weight in weights.items()}
    for name, tensor in shared.items():
        weights[name].data.copy_(tensor.dequantize())
    fold_batch_norms_(model)
    metadata = {"architecture": "resnet20"}
    return save(compress_module(model, shared, float_dtype="float16", metadata=metadata), path)


def run(path: Path) -> tuple[float, float]:
    """One fresh process: the milliseconds of the import and of the load."""
    environment = os.environ.copy()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as an installed package is imported
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    imported, loaded = json.loads(done.stdout)
    return imported, loaded


def rows_of(folder: Path, processes: int) -> list[Row]:
    """What was measured: one row."""
    path = folder / "a.fly"
    size = write_file(path)
    run(path)  # what is read from the disk is in memory from here on
    imports, loads = zip(*(run(path) for _ in range(processes)), strict=True)
    figures = {
        "network": "resnet20",
        "file_bytes": size,
        "import_ms": f"{statistics.median(imports):.1f}",
        "load_ms": f"{statistics.median(loads):.1f}",
        "slowest_import_ms": f"{max(imports):.1f}",
        "slowest_load_ms": f"{max(loads):.1f}",
        "repeats": processes,
    }
    return [origin() | figures]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = ["file, bytes", "import, ms", "load, ms", "slowest import, ms", "slowest load, ms"]
    keys = ("import_ms", "load_ms", "slowest_import_ms", "slowest_load_ms")
    cells = [(f"{int(row['file_bytes']):,}", *(row[key] for key in keys)) for row in rows]
    text = f"{told(rows[0])}; medians of {rows[0]['repeats']} processes.\n\n"
    return text + markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Open a ResNet-20 in a fresh process.")
    parser.add_argument("--processes", type=int, default=15)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), options.processes)
    print(table(rows), flush=True)
    write_rows("opening", rows)
    put_table("opening", table(rows))


if __name__ == "__main__":
    main()
