"""Size and speed of byte planes against others, on floating-point weights without loss.

    python -m benchmarks.lossless [--values 16777216] [--repeats 7]

All values of a network in a row, as float32 and rounded to bfloat16: the shipped ResNet-20,
all-MiniLM-L6-v2, and Gaussian numbers. Every row is encoded, decoded and compared; repeats of all
alternate, and the median counts. A codec that would take more than 40 seconds a set is repeated
less often. Each runs on one thread; pin the process to one core. Numba has been started, as it is
in a process that has met a large array, and freed memory is kept for the next run. Writes
``benchmarks/results/lossless.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numba  # noqa: F401
import numpy as np
from numpy.typing import NDArray

from benchmarks.codecs import Codec, Timing, measure
from benchmarks.peers import Compressor, general_compressors, zipnn_compressors
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import floats_of
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.training import keep_freed_memory

OURS = "flyweight planes"
NETWORKS = ("resnet20", "minilm", "gaussian")
DTYPES = ("float32", "bfloat16")


def planes(dtype: str) -> Codec:
    """Ours on one thread."""
    return Codec(
        OURS,
        lambda values: [encode_planes(values, dtype, threads=1)],
        lambda blobs, values: decode_planes(blobs[0], values.size, dtype, threads=1),
    )


def of_bytes(compressor: Compressor) -> Codec:
    """A compressor, which gets the bytes of the values."""
    name, compress, expand = compressor
    return Codec(
        name,
        lambda values: [compress(values.tobytes())],
        lambda blobs, values: np.frombuffer(expand(blobs[0]), dtype=values.dtype),
    )


def same(values: NDArray[Any], decoded: NDArray[Any]) -> bool:
    """Whether every bit came back."""
    return np.array_equal(values.view(np.uint8), np.ascontiguousarray(decoded).view(np.uint8))


def rows_of(name: str, dtype: str, values: NDArray[Any], timings: dict[str, Timing]) -> list[Row]:
    """What was measured on one set."""
    return [
        origin()
        | {
            "set": name,
            "dtype": dtype,
            "raw_bytes": values.nbytes,
            "codec": codec,
            "bytes": timing.size,
            "saved_percent": f"{100 * (1 - timing.size / values.nbytes):.2f}",
            "encode_mb_s": f"{values.nbytes / timing.encode / 1e6:.0f}",
            "decode_mb_s": f"{values.nbytes / timing.decode / 1e6:.0f}",
            "repeats": timing.repeats,
        }
        for codec, timing in timings.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":weights", ":dtype", ":codec", "saved", "encode, MB/s", "decode, MB/s", "runs"]
    cells = [
        (
            f"{row['set']}, {int(row['raw_bytes']) / 1e6:.1f} MB",
            row["dtype"],
            row["codec"],
            f"{row['saved_percent']} %",
            row["encode_mb_s"],
            row["decode_mb_s"],
            row["repeats"],
        )
        for row in rows
    ]
    return f"{told(rows[0])}.\n\n{markdown(columns, cells)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Byte planes against others.")
    parser.add_argument("--values", type=int, default=1 << 24, help="of the Gaussian set")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sets", nargs="+", default=NETWORKS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    for name in options.sets:
        for dtype in DTYPES:
            values = floats_of(name, dtype, options.values)
            if values is None:
                print(f"set {name} is left out: its package is not installed", flush=True)
                continue
            others = [*zipnn_compressors(dtype), *general_compressors()]
            # Brotli is no better than xz on floats, and slower.
            codecs = [of_bytes(other) for other in others if not other[0].startswith("brotli")]
            timings = measure([planes(dtype), *codecs], values, same, options.repeats)
            rows += rows_of(name, dtype, values, timings)
    print(table(rows), flush=True)
    write_rows("lossless", rows)
    put_table("lossless", table(rows))


if __name__ == "__main__":
    main()
