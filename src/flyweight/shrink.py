"""Shrink any checkpoint: no architecture, no data, one tensor in memory at a time.

Each large float tensor is reduced to few values, by k-means or on a uniform grid, or kept bit for
bit; everything else is kept bit for bit. The work is done on a histogram of the first 16 bits of
the values: for 16-bit floats those are all values there are, and a float32 is told from its
neighbours to 0.8 %, while the centroids are exact means.

Example:
    >>> shrink("model.safetensors", "model.fly", bits=4)  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from flyweight.checkpoints import Checkpoint, TensorEntry, open_checkpoint, read_values
from flyweight.coding import CodedTensor, Effort, code_alias, code_lossless, code_shared
from flyweight.coding.threads import cores
from flyweight.container import check_target, open_writer
from flyweight.errors import ModelError
from flyweight.quantization import kmeans_1d

__all__ = ["METADATA_PREFIX", "Grid", "ShrinkReport", "shrink"]

Grid = Literal["kmeans", "uniform"]
Progress = Callable[[str, int, int | None], None]

METADATA_PREFIX = "checkpoint."
"""Stands in the file before each key of the checkpoint's own metadata."""

_FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_LEAST = 4096  # elements; smaller tensors are kept bit for bit
_BLOCK = 1 << 21
_SAMPLE = 1 << 16  # bytes at either end that tell most tensors apart


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """What came out: bytes of the tensors before and of the file after, and how many tensors.

    ``ratio`` is ``tensor_bytes`` over ``file_bytes``.
    """

    tensor_bytes: int
    file_bytes: int
    ratio: float
    tensors: int
    quantized: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def shrink(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bits: int | None = None,
    grid: str = "kmeans",
    effort: str = "balanced",
    threads: int | None = None,
    progress: Progress | None = None,
) -> ShrinkReport:
    """Write a checkpoint as a ``.fly`` file, whole or not at all.

    ``source`` is a ``.safetensors`` file, the index of a sharded one, or a folder with either.
    With ``bits`` (1 to 8), the float16, bfloat16 and float32 tensors of two and more dimensions
    and at least 4,096 finite values share 2^bits values each; without, nothing is lost. Tensors
    that are equal bit for bit are stored once.

    ``grid`` is "kmeans" or "uniform" (multiples of a step, 0 among them), ``effort`` "fast",
    "balanced" or "smallest". Memory holds one tensor a thread. ``progress`` is told bytes.

    Raises ModelError for bits, a grid or an effort that cannot be, and CheckpointError for a
    damaged checkpoint.
    """
    if bits is not None and not 1 <= bits <= 8:
        raise ModelError(f"a checkpoint is shrunk to 1 to 8 bits; {bits} were asked for")
    if grid not in ("kmeans", "uniform"):
        raise ModelError(f"grid {grid!r} is unknown; choose 'kmeans' or 'uniform'")
    if effort not in ("fast", "balanced", "smallest"):
        raise ModelError(f"effort {effort!r} is unknown; choose 'fast', 'balanced' or 'smallest'")
    check_target(output)
    start = time.perf_counter()
    checkpoint = open_checkpoint(source)
    metadata = {METADATA_PREFIX + key: text for key, text in checkpoint.metadata.items()}
    targets = _duplicates(checkpoint)
    places = {entry.name: place for place, entry in enumerate(checkpoint.entries)}
    done = quantized = 0
    workers = threads or min(cores(), 4)

    def code(entry: TensorEntry) -> CodedTensor:
        return _code(entry, bits, cast(Grid, grid), cast(Effort, effort))

    with open_writer(output, metadata) as writer:
        entries = [entry for entry in checkpoint.entries if entry.name not in targets]
        results = _in_order(code, entries, workers)
        coded: dict[int, CodedTensor] = {}
        for entry in checkpoint.entries:
            if entry.name in targets:
                target = places[targets[entry.name]]
                tensor = code_alias(entry.name, coded[target], target=target)
            else:
                tensor = next(results)
                outline = dataclasses.replace(tensor, parts={})
                coded[places[entry.name]] = outline
            quantized += tensor.encoding == "shared"
            writer.add(tensor)
            done += entry.length
            if progress is not None:
                rate = done / 1e6 / (time.perf_counter() - start)
                progress(f"shrink, {rate:.0f} MB/s", done, checkpoint.tensor_bytes)
    file_bytes = Path(output).stat().st_size
    return ShrinkReport(
        tensor_bytes=checkpoint.tensor_bytes,
        file_bytes=file_bytes,
        ratio=checkpoint.tensor_bytes / file_bytes,
        tensors=len(checkpoint.entries),
        quantized=quantized,
        seconds=time.perf_counter() - start,
    )


def _in_order(
    code: Callable[[TensorEntry], CodedTensor], entries: list[TensorEntry], workers: int
) -> Iterator[CodedTensor]:
    """Code on several threads, no more tensors at a time than there are threads."""
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[CodedTensor]] = deque()
        try:
            for entry in entries:
                if len(running) == workers:
                    yield running.popleft().result()
                running.append(pool.submit(code, entry))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _duplicates(checkpoint: Checkpoint) -> dict[str, str]:
    """Which tensors repeat an earlier one, and which one that is."""
    alike: dict[tuple[object, ...], list[TensorEntry]] = {}
    for entry in checkpoint.entries:
        if entry.size > 1:
            alike.setdefault((entry.dtype, entry.shape), []).append(entry)
    found: dict[str, str] = {}
    for group in alike.values():
        if len(group) < 2:
            continue
        seen: dict[bytes, list[TensorEntry]] = {}
        for entry in group:
            seen.setdefault(_sample(entry), []).append(entry)
        for suspects in seen.values():
            if len(suspects) < 2:
                continue
            first: dict[bytes, str] = {}
            for entry in suspects:
                name = first.setdefault(_digest(entry), entry.name)
                if name != entry.name:
                    found[entry.name] = name
    return found


def _sample(entry: TensorEntry) -> bytes:
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        head = file.read(min(_SAMPLE, entry.length))
        file.seek(entry.offset + max(0, entry.length - _SAMPLE))
        return hashlib.blake2b(head + file.read(min(_SAMPLE, entry.length))).digest()


def _digest(entry: TensorEntry) -> bytes:
    digest = hashlib.blake2b()
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        left = entry.length
        while left:
            block = file.read(min(left, 1 << 20))
            if not block:
                break
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _code(entry: TensorEntry, bits: int | None, grid: Grid, effort: Effort) -> CodedTensor:
    values = read_values(entry)
    if bits is not None and entry.dtype in _FLOATS and values.ndim > 1 and values.size >= _LEAST:
        tensor = _quantized(entry.name, values, entry.dtype, bits, grid, effort)
        if tensor is not None:
            return tensor
    storage = entry.dtype if values.size > _LEAST else None  # narrowing pays for small ones only
    return code_lossless(entry.name, values, dtype=entry.dtype, storage=storage)


def _quantized(
    name: str, values: NDArray[Any], dtype: str, bits: int, grid: Grid, effort: Effort
) -> CodedTensor | None:
    """The tensor with 2^bits values, or None if it holds NaN or infinity."""
    keys = _keys(values.ravel(), dtype)
    counts = np.zeros(1 << 16, dtype=np.int64)
    sums = np.zeros(1 << 16)
    for block in _blocks(keys.size):
        counts += np.bincount(keys[block], minlength=1 << 16)
        if dtype == "float32":
            sums += np.bincount(keys[block], weights=values.ravel()[block], minlength=1 << 16)
    if dtype == "float32":
        means = sums / np.maximum(counts, 1)
    else:
        every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(_FLOATS[dtype])
        means = every.double().numpy()
    means[[0, 0x8000]] = 0.0  # zeros, and float32 below 1e-40
    used = np.flatnonzero(counts)
    if not np.isfinite(means[used]).all():
        return None
    used = used[means[used] != 0]
    if not used.size:
        return None
    points, weights = means[used], counts[used]
    centroids = _kmeans(points, weights, bits) if grid == "kmeans" else None
    levels, symbols_of_points = (
        _nearest(points, centroids) if centroids is not None else _uniform(points, weights, bits)
    )
    table = np.zeros(1 << 16, dtype=np.uint8 if levels.size < 256 else np.uint16)
    table[used] = symbols_of_points
    symbols = np.empty(keys.size, dtype=table.dtype)
    for block in _blocks(keys.size):
        np.take(table, keys[block], out=symbols[block])
    del keys
    rounded = torch.from_numpy(levels).to(_FLOATS[dtype])
    carried = rounded.view(torch.uint16) if dtype == "bfloat16" else rounded
    return code_shared(
        name, symbols.reshape(values.shape), levels=carried.numpy(), dtype=dtype, effort=effort
    )


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _keys(flat: NDArray[Any], dtype: str) -> NDArray[np.uint16]:
    """The sign, the exponent and the first bits of the mantissa of each value."""
    if dtype == "float32":
        halves: NDArray[np.uint16] = flat.view("<u2")[1::2]
        return halves
    return flat.view("<u2")


def _kmeans(points: NDArray[Any], weights: NDArray[Any], bits: int) -> NDArray[np.float64]:
    values = torch.from_numpy(points)
    found = kmeans_1d(values, 1 << bits, init="density", weights=torch.from_numpy(weights))
    centroids: NDArray[np.float64] = found.numpy()
    return centroids


def _nearest(
    points: NDArray[Any], centroids: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    places = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, points)
    return centroids, places + 1


def _uniform(
    points: NDArray[Any], weights: NDArray[Any], bits: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Multiples of the step that leaves the least square error; 0 is one of them."""
    most = 2 ** (bits - 1) - 1 if bits > 1 else 1
    widest = float(np.abs(points).max()) / most
    best: tuple[float, float] | None = None
    for step in widest * np.linspace(1, 0.05, 39):
        error = points - step * np.clip(np.rint(points / step), -most, most)
        cost = float(weights @ error**2)
        if best is None or cost < best[0]:
            best = (cost, float(step))
    assert best is not None
    places = np.clip(np.rint(points / best[1]), -most, most).astype(np.int64)
    present = np.unique(places[places != 0])
    symbols = np.where(places == 0, 0, np.searchsorted(present, places) + 1)
    return best[1] * present, symbols
