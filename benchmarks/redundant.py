"""Bytes of lossless files of sparse, clustered and repetitive tensors over those of xz.

    python -m benchmarks.redundant [--scale 1]

Each tensor is saved by `flyweight.save` as the only one of a state dict. Beside it stand ``xz -9e``
of its raw bytes, and of the safetensors file that holds it. The tensors are those that general
compressors shrink well and coders of weights do not: made from fixed seeds, in the shapes of real
models divided by ``--scale``. Every file is loaded again and compared. Writes
``benchmarks/results/redundant.csv`` and the table in ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import lzma
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors
from torch import Tensor

from benchmarks.report import Row, markdown, origin, put_table, told, write_rows
from flyweight import load_state_dict, save


def stft_basis(window: int, bins: int) -> Tensor:
    """The fixed kernel of a speech model: cosines and sines under a Hann window."""
    time = torch.arange(window, dtype=torch.float64)
    angles = 2 * torch.pi * torch.arange(bins, dtype=torch.float64)[:, None] * time / window
    basis = torch.cat([angles.cos(), -angles.sin()]) * torch.hann_window(window).double()
    return basis.float()[:, None]


def tensors(scale: int) -> Iterator[tuple[str, Tensor]]:
    """The corpus, tensor by tensor."""
    rng = np.random.default_rng(0)
    rows, columns = 512 // scale, 1024 // scale
    weights = torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32)) * 0.02
    sparse = weights * torch.from_numpy(rng.random((rows, columns)) < 0.1)
    levels = torch.linspace(-0.1, 0.1, 16)
    clustered = levels[torch.from_numpy(rng.integers(0, 16, (rows, columns)))]
    scales = weights.abs().amax(1, keepdim=True) / 7
    half = (weights / scales).round() * scales
    yield "90 % zeros", sparse
    yield "90 % zeros, bfloat16", sparse.bfloat16()
    yield "90 % zeros, 16 values", clustered * (sparse != 0)
    yield "rows of int4", half
    yield "rows of int4, bfloat16", half.bfloat16()
    yield "structured zeros", weights * torch.from_numpy(rng.random((rows, 1)) < 0.3)
    quarters = torch.from_numpy(rng.random((rows, columns // 4, 4)).argsort(-1) < 2)
    yield "2:4 zeros", weights * quarters.view(rows, columns)
    yield "causal mask", torch.full((columns, columns), float("-inf")).triu(1)
    yield "causal mask, bool", torch.ones(columns, columns, dtype=torch.bool).tril()
    yield "random mask, bool", sparse != 0
    yield "identity", torch.eye(columns)
    yield "STFT basis", stft_basis(256 // scale, 129 // scale)
    yield "repeated rows", weights[torch.from_numpy(rng.integers(0, 16, rows))]
    yield "embedding, repeated rows", torch.cat([weights, weights[:1].expand(rows, -1)]).half()
    yield "position ids", torch.arange(columns).expand(1, -1).clone()
    yield "relative positions", torch.arange(rows)[:, None] - torch.arange(rows)
    yield "token counts", torch.from_numpy(rng.geometric(0.02, columns))
    yield "Gaussian", weights


def row_of(name: str, tensor: Tensor, folder: Path) -> Row:
    """What one tensor gives."""
    path = folder / "a.fly"
    tensor = tensor.contiguous()
    size = save({"weight": tensor}, path)
    found = load_state_dict(path)["weight"]
    raw, back = (
        t.reshape(-1).view(torch.uint8 if t.numel() else t.dtype).numpy().tobytes()
        for t in (tensor, found)
    )
    if raw != back or (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
        raise RuntimeError(f"{name} does not come back")
    preset = 9 | lzma.PRESET_EXTREME
    xz = len(lzma.compress(raw, preset=preset))
    return origin() | {
        "tensor": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": "x".join(map(str, tensor.shape)),
        "raw_bytes": len(raw),
        "fly_bytes": size,
        "xz_bytes": xz,
        "xz_safetensors_bytes": len(lzma.compress(safetensors({"weight": tensor}), preset=preset)),
        "over_xz": f"{size / xz:.4f}",
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows."""
    columns = [":tensor", ":dtype", ":shape", "raw", "flyweight", "xz -9e", "of safetensors"]
    keys = ("raw_bytes", "fly_bytes", "xz_bytes", "xz_safetensors_bytes")
    cells = [
        [
            *(row[key] for key in ("tensor", "dtype", "shape")),
            *(f"{int(row[key]):,}" for key in keys),
            row["over_xz"],
        ]
        for row in rows
    ]
    return f"Bytes; {told(rows[0])}.\n\n" + markdown([*columns, "over xz -9e"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write both tables."""
    parser = argparse.ArgumentParser(description="Lossless files of redundant tensors over xz.")
    parser.add_argument("--scale", type=int, default=1, help="divides the extents")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row_of(*each, Path(folder)) for each in tensors(options.scale)]
    print(table(rows), flush=True)
    write_rows("redundant", rows)
    put_table("redundant", table(rows))


if __name__ == "__main__":
    main()
