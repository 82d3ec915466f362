"""Size and speed of lossless coding of floating-point weights against others.

    python -m benchmarks.lossless [--values 16777216] [--repeats 7]

Tensor by tensor, as float32 and rounded to bfloat16: the shipped ResNet-20 (many small tensors),
all-MiniLM-L6-v2, and one tensor of Gaussian numbers. "flyweight planes" is the coder of byte planes
alone; "flyweight lossless" is `flyweight.coding.encode_lossless` and `decode_tensor`, which also
look for zeros and repetition. Every row is encoded, decoded and compared; repeats of all alternate,
and the median counts. A codec that would take more than 20 seconds a set is repeated less often.
Each runs on one thread; pin the process to one core. Freed memory is kept for the next run. Writes
``benchmarks/results/lossless.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.codecs import Codec, Timing, measure
from benchmarks.peers import Compressor, general_compressors, zipnn_compressors
from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from benchmarks.weights import floats_of
from flyweight.coding import CodedTensor, decode_tensor, encode_lossless
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.training import keep_freed_memory

Tensors = Sequence[NDArray[Any]]
NETWORKS = ("resnet20", "minilm", "gaussian")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Coded:
    """A coded tensor and its size."""

    tensor: CodedTensor

    def __len__(self) -> int:
        return self.tensor.stored_bytes


def ours(dtype: str) -> list[Codec]:
    """Byte planes alone, and the choice among all lossless forms."""
    return [
        Codec(
            "flyweight planes",
            lambda tensors: [encode_planes(values, dtype) for values in tensors],
            lambda blobs, tensors: [
                decode_planes(blob, values.size, dtype)
                for blob, values in zip(blobs, tensors, strict=True)
            ],
        ),
        Codec(
            "flyweight lossless",
            lambda tensors: [Coded(encode_lossless("", v, dtype=dtype)) for v in tensors],
            lambda blobs, tensors: [decode_tensor(blob.tensor) for blob in blobs],
        ),
    ]


def of_bytes(compressor: Compressor) -> Codec:
    """A compressor, which gets the bytes of each tensor."""
    name, compress, expand = compressor
    return Codec(
        name,
        lambda copies: list(map(compress, copies)),
        lambda blobs, tensors: [np.frombuffer(expand(blob), dtype=np.uint8) for blob in blobs],
        lambda tensors: [bytearray(values) for values in tensors],
    )


def same(tensors: Tensors, decoded: Tensors) -> bool:
    """Whether every bit came back."""
    return all(
        np.array_equal(values.reshape(-1).view(np.uint8), array.reshape(-1).view(np.uint8))
        for values, array in zip(tensors, decoded, strict=True)
    )


def rows_of(name: str, dtype: str, tensors: Tensors, timings: dict[str, Timing]) -> list[Row]:
    """What was measured on one set."""
    raw_bytes = sum(values.nbytes for values in tensors)
    return [
        origin()
        | {
            "set": name,
            "dtype": dtype,
            "tensors": len(tensors),
            "raw_bytes": raw_bytes,
            "coder": coder,
            "bytes": timing.size,
            "saved_percent": f"{100 * (1 - timing.size / raw_bytes):.2f}",
            "encode_mb_s": f"{raw_bytes / timing.encode / 1e6:.0f}",
            "decode_mb_s": f"{raw_bytes / timing.decode / 1e6:.0f}",
            "repeats": timing.repeats,
        }
        for coder, timing in timings.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":weights", ":dtype", ":coder", "saved", "encode, MB/s", "decode, MB/s", "runs"]
    cells = [
        (
            f"{row['set']}, {int(row['raw_bytes']) / 1e6:.1f} MB",
            row["dtype"],
            row["coder"],
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
    parser = argparse.ArgumentParser(description="Lossless coding against others.")
    parser.add_argument("--values", type=int, default=1 << 24, help="of the Gaussian set")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sets", nargs="+", default=NETWORKS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows: list[Row] = []
    for name in options.sets:
        for dtype in DTYPES:
            tensors = floats_of(name, dtype, options.values)
            if tensors is None:
                print(f"set {name} is left out: its package is not installed", flush=True)
                continue
            others = [*zipnn_compressors(dtype), *general_compressors()]
            # Brotli is no better than xz on floats, and slower.
            codecs = [of_bytes(other) for other in others if not other[0].startswith("brotli")]
            timings = measure([*ours(dtype), *codecs], tensors, same, options.repeats)
            rows += rows_of(name, dtype, tensors, timings)
    print(table(rows), flush=True)
    write_rows("lossless", rows)
    put_table("lossless", table(rows))


if __name__ == "__main__":
    main()
