"""Shrink any checkpoint: no architecture, no data, one tensor in memory at a time.

Each large float tensor is reduced to few values (see `quantize`) or kept bit for bit; everything
else is kept bit for bit.

Example:
    >>> compress_checkpoint("model.safetensors", "model.fly", bits=4)  # doctest: +SKIP
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
from typing import Any, cast

from flyweight.checkpoints.safetensors_files import (
    Checkpoint,
    TensorEntry,
    open_checkpoint,
    read_values,
)
from flyweight.coding import (
    CodedTensor,
    Effort,
    encode_alias,
    encode_lossless,
)
from flyweight.coding.threads import cores
from flyweight.format import check_target, open_writer
from flyweight.errors import ModelError
from flyweight.checkpoints.histogram_quantization import FLOATS, Grid, quantized

__all__ = ["METADATA_PREFIX", "CheckpointReport", "compress_checkpoint"]

Progress = Callable[[str, int, int | None], None]

METADATA_PREFIX = "checkpoint."
"""Stands in the file before each key of the checkpoint's own metadata."""

_LEAST = 4096  # elements; smaller tensors are kept bit for bit
_SAMPLE = 1 << 16  # bytes at either end that tell most tensors apart


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
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


def compress_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bits: int | None = None,
    grid: str = "kmeans",
    effort: str = "balanced",
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckpointReport:
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
    done = few = 0
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
                tensor = encode_alias(entry.name, coded[target], target=target)
            else:
                tensor = next(results)
                outline = dataclasses.replace(tensor, parts={})
                coded[places[entry.name]] = outline
            few += tensor.encoding == "shared"
            writer.add(tensor)
            done += entry.length
            if progress is not None:
                rate = done / 1e6 / (time.perf_counter() - start)
                progress(f"shrink, {rate:.0f} MB/s", done, checkpoint.tensor_bytes)
    file_bytes = Path(output).stat().st_size
    return CheckpointReport(
        tensor_bytes=checkpoint.tensor_bytes,
        file_bytes=file_bytes,
        ratio=checkpoint.tensor_bytes / file_bytes,
        tensors=len(checkpoint.entries),
        quantized=few,
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
    if bits is not None and entry.dtype in FLOATS and values.ndim > 1 and values.size >= _LEAST:
        tensor = quantized(entry.name, values, entry.dtype, bits, grid, effort)
        if tensor is not None:
            return tensor
    storage = entry.dtype if values.size > _LEAST else None  # narrowing pays for small ones only
    return encode_lossless(entry.name, values, dtype=entry.dtype, storage=storage)
