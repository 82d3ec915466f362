"""Speed and memory of compressing a checkpoint, and of decompressing it.

    python -m benchmarks.checkpoints [--gigabytes 1] [--repeats 3]

The checkpoint is synthetic: the tensors of a decoder-only transformer (two embeddings, and layers
of attention and gated feed-forward matrices) in bfloat16, Gaussian with a scale of its own for each
row, written to a temporary folder. Every run is a fresh process that reads it, writes the other
file, and tells the seconds of the call (imports apart), what memory it held after the imports, and
the most it ever held (``ru_maxrss``). The file is in the page cache. MB/s are of the checkpoint and
are medians. Threads are limited by pinning the process to so many cores. Writes
``benchmarks/results/checkpoints.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight.checkpoints import SafetensorsWriter, compress_checkpoint
from flyweight.coding.threads import cores
from flyweight.io import decompress
from flyweight.training import keep_freed_memory

VOCABULARY, WIDTH, INNER = 32_000, 1536, 4096
EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


class Way(NamedTuple):
    """What is done with the checkpoint: lossless if ``bits`` is None."""

    name: str
    bits: int | None
    effort: str | None


WAYS = (
    Way("--bits 4 --effort fast", 4, "fast"),
    Way("--bits 4", 4, "balanced"),
    Way("--lossless", None, None),
)


def outlines(gigabytes: float) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of about so many gigabytes of bfloat16; one layer at least."""
    layer = {
        **{f"attention.{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "o")},
        "feed_forward.up": (INNER, WIDTH),
        "feed_forward.gate": (INNER, WIDTH),
        "feed_forward.down": (WIDTH, INNER),
        "norm_1": (WIDTH,),
        "norm_2": (WIDTH,),
    }
    bytes_left = 1e9 * gigabytes - 2 * 2 * VOCABULARY * WIDTH
    layers = max(1, round(bytes_left / sum(2 * prod(shape) for shape in layer.values())))
    yield EMBEDDINGS[0], (VOCABULARY, WIDTH)
    for index in range(layers):
        for name, shape in layer.items():
            yield f"layers.{index}.{name}.weight", shape
    yield EMBEDDINGS[1], (VOCABULARY, WIDTH)


def write_checkpoint(path: Path, tensors: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Random weights, the same each time."""
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, [(name, "bfloat16", shape) for name, shape in tensors])
        for name, shape in tensors:
            values = torch.randn(shape, generator=generator)
            scale = 0.02 * torch.rand((shape[0], *[1] * (len(shape) - 1)), generator=generator)
            values *= scale + 0.01
            writer.add(name, values.to(torch.bfloat16).view(torch.uint16).numpy())


def _peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def work(source: str, target: str, way: str) -> None:
    """What the fresh process does; ``way`` is the place in `WAYS`, or "back"."""
    imported = _peak_megabytes()
    keep_freed_memory()  # as the command line does
    start = time.perf_counter()
    if way == "back":
        decompress(source, target)
    else:
        _, bits, effort = WAYS[int(way)]
        compress_checkpoint(source, target, bits=bits, effort=effort)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "imported": imported, "peak": _peak_megabytes()}))


def run(source: Path, target: Path, way: str, threads: int) -> dict[str, float]:
    """A fresh process on the first so many of this one's cores."""
    chosen = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.checkpoints", "--work", source, target, way],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        preexec_fn=lambda: os.sched_setaffinity(0, chosen),
    )
    told_by_it: dict[str, float] = json.loads(done.stdout)
    return told_by_it


def rows_of(folder: Path, gigabytes: float, threads: Sequence[int], repeats: int) -> list[Row]:
    """All ways, there and back."""
    source, small, back = (folder / name for name in ("in.safetensors", "x.fly", "out.safetensors"))
    tensors = list(outlines(gigabytes))
    write_checkpoint(source, tensors)
    largest = max(2 * prod(shape) for _, shape in tensors)
    size = source.stat().st_size
    rows = []
    for number, way in enumerate(WAYS):
        for jobs in threads:
            for start, end, name in ((source, small, str(number)), (small, back, "back")):
                run(start, end, name, jobs)  # warms the page cache
                runs = [run(start, end, name, jobs) for _ in range(repeats)]
                seconds = statistics.median(one["seconds"] for one in runs)
                rows.append(
                    origin()
                    | {
                        "command": "decompress" if name == "back" else "compress",
                        "options": way.name,
                        "threads": jobs,
                        "checkpoint_bytes": size,
                        "largest_tensor_bytes": largest,
                        "file_bytes": small.stat().st_size,
                        "mb_s": f"{size / seconds / 1e6:.0f}",
                        "peak_mb": f"{max(one['peak'] for one in runs):.0f}",
                        "imports_mb": f"{max(one['imported'] for one in runs):.0f}",
                        "repeats": repeats,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    one = rows[0]
    text = (
        f"{int(one['checkpoint_bytes']) / 1e6:,.0f} MB of bfloat16, the largest tensor "
        f"{int(one['largest_tensor_bytes']) / 1e6:.0f} MB; {told(one)}; {one['repeats']} runs "
        f"each. The imports alone take {one['imports_mb']} MB of memory.\n\n"
    )
    columns = [":command", ":options", "threads", "file, MB", "MB/s", "most memory, MB"]
    cells = [
        (
            row["command"],
            f"`{row['options']}`",
            row["threads"],
            f"{int(row['file_bytes']) / 1e6:.1f}",
            row["mb_s"],
            row["peak_mb"],
        )
        for row in rows
    ]
    return text + markdown(columns, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Speed and memory of compressing a checkpoint.")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(*options.work)
        return
    threads = [1, 2] if cores() > 1 else [1]
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), options.gigabytes, threads, options.repeats)
    print(table(rows), flush=True)
    write_rows("checkpoints", rows)
    put_table("checkpoints", table(rows))


if __name__ == "__main__":
    main()
