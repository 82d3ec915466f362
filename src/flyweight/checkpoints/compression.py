"""Compress any checkpoint: no model, no data, a tensor at a time in memory.

Each large float tensor is quantized (see `quantize_tensor`) or kept bit for bit; everything else
is kept bit for bit.

Example:
    >>> compress_checkpoint("model.safetensors", "model.fly", bits=4)  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flyweight import _native
from flyweight._files import check_output
from flyweight._progress import Progress
from flyweight.checkpoints.opening import open_checkpoint
from flyweight.checkpoints.tensor_entries import Checkpoint, TensorEntry, bits_metadata
from flyweight.checkpoints.tensor_quantization import (
    GRIDS,
    QUANTIZED_DTYPES,
    Grid,
    quantize_tensor,
)
from flyweight.coding import (
    CodedTensor,
    Effort,
    UncodedTensor,
    encode_alias,
    entropy,
    prepare_lossless,
)
from flyweight.coding.planes import encode_planes
from flyweight.coding.scalars import distinct_words
from flyweight.coding.threads import cores
from flyweight.errors import ModelError
from flyweight.format import open_writer

__all__ = ["METADATA_PREFIX", "CheckpointReport", "compress_checkpoint"]

METADATA_PREFIX = "checkpoint."
"""Begins the keys of the checkpoint's own metadata in the file."""

_EFFORTS = ("fast", "balanced", "smallest")
_MOST_BITS = 8
_LEAST = 4096  # elements; smaller tensors are kept bit for bit
_SAMPLE = 1 << 16  # bytes at either end that tell most tensors apart; values of a sample
_MOST_PIECES = 0.02  # fraction of the pieces of 16 bytes that occur again
_MOST_DISTINCT = 0.4  # fraction of a sample, for values that are tried as symbols
_MOST_REPEATED = 0.9  # times the entropy of the bytes of a sample, for the same
_BLOCK = 1 << 20
_SMALL = 1 << 23  # bytes; so large tensors are encoded side by side in any case


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """Sizes of a checkpoint and of the file made from it.

    Attributes:
        tensor_bytes: of all tensors of the checkpoint.
        file_bytes: of the file, whole.
        tensor_ratio: ``tensor_bytes`` over ``file_bytes``.
        tensors: number of tensors.
        quantized: number of those that are not kept bit for bit.
        seconds: that the compression took.
    """

    tensor_bytes: int
    file_bytes: int
    tensor_ratio: float
    tensors: int
    quantized: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def compress_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bits: int | None = None,
    grid: str | None = None,
    effort: str | None = None,
    threads: int | None = None,
    force: bool = True,
    progress: Progress | None = None,
) -> CheckpointReport:
    """Compress a checkpoint into a ``.fly`` file, written whole or not at all.

    Tensors that are equal bit for bit are stored once. Data types that flyweight lacks are kept as
    their bits. Names are kept as they are, wrapper prefixes such as ``_orig_mod.`` included.

    Memory holds no more tensors at a time than have the bytes of the largest one, or 8 MiB for each
    thread, and with what is made of them about 2.5 times these bytes; 3 with effort "smallest".

    Args:
        source: a ``.safetensors`` file, a torch checkpoint of plain tensors, the index of a
            sharded checkpoint, or a folder with one of them.
        output: the file to write; not one of those that are read.
        bits: 1 to 8 quantizes the float16, bfloat16 and float32 tensors of two and more dimensions
            and at least 4,096 finite values with the precision of 2^bits levels; None loses
            nothing. Warns if there is no such tensor.
        grid: "kmeans" gives each tensor 2^bits levels; "uniform" gives it multiples of a step,
            scaled for each row where that is smaller; "auto", which None stands for, takes for
            each tensor what is smallest at the same error. Only with ``bits``.
        effort: "fast", "balanced", which None stands for, or "smallest". Only with ``bits``.
        threads: that encode at the same time, 1 or more; None for one a core, at most four.
        force: False refuses to replace a file that exists.
        progress: called with a phase, and the bytes done and in all.

    Returns:
        The sizes before and after.

    Raises:
        ModelError: ``bits``, ``grid``, ``effort`` or ``threads`` is impossible, or has no effect.
        CheckpointError: the checkpoint cannot be read, or the output is one of its files or cannot
            be written.
    """
    _check_settings(bits, grid, effort, threads)
    check_output(output, force=force)
    start = time.perf_counter()
    checkpoint = open_checkpoint(source)
    check_output(output, inputs=checkpoint.files, force=force)
    metadata = dict(checkpoint.metadata) | bits_metadata(checkpoint)
    metadata = {METADATA_PREFIX + key: text for key, text in metadata.items()}
    targets = _duplicates(checkpoint)
    places = {entry.name: place for place, entry in enumerate(checkpoint.entries)}
    done = quantized = 0
    workers = threads or min(cores(), 4)

    def encode(entry: TensorEntry, threads: int) -> tuple[CodedTensor, bool]:
        """Encode a tensor; return whether it was quantized."""
        quantized = _quantized(entry, bits, cast(Grid, grid or "auto"), threads)
        if quantized is not None:  # its values are freed by now
            return quantized.encode(effort=cast(Effort, effort or "balanced")), True
        return _encode_losslessly(entry, threads), False

    with open_writer(output, metadata, inputs=checkpoint.files, force=force) as writer:
        entries = [entry for entry in checkpoint.entries if entry.name not in targets]
        results = _in_order(encode, entries, workers)
        outlines: dict[int, CodedTensor] = {}
        for entry in checkpoint.entries:
            if entry.name in targets:
                target = places[targets[entry.name]]
                tensor = encode_alias(entry.name, outlines[target], target=target)
            else:
                tensor, lossy = next(results)
                quantized += lossy
                outlines[places[entry.name]] = dataclasses.replace(tensor, parts={})
            writer.add(tensor)
            del tensor  # before the next is waited for
            done += entry.length
            if progress is not None:
                progress("compress tensors", done, checkpoint.tensor_bytes)
    if bits is not None and not quantized:
        warnings.warn(
            f"no tensor was quantized, and {os.fspath(output)} is lossless; only float16, bfloat16 "
            f"and float32 tensors of 2 or more dimensions and at least {_LEAST:,} elements are "
            "quantized",
            stacklevel=2,
        )
    return CheckpointReport(
        tensor_bytes=checkpoint.tensor_bytes,
        file_bytes=writer.length,
        tensor_ratio=checkpoint.tensor_bytes / writer.length,
        tensors=len(checkpoint.entries),
        quantized=quantized,
        seconds=time.perf_counter() - start,
    )


def _check_settings(
    bits: int | None, grid: str | None, effort: str | None, threads: int | None
) -> None:
    if threads is not None and threads < 1:
        raise ModelError(f"tensors are encoded on 1 thread or more, not {threads}; raise threads")
    if bits is None:
        for what, value in (("grid", grid), ("effort", effort)):
            if value is not None:
                raise ModelError(
                    f"{what} {value!r} has no effect on a lossless checkpoint; "
                    "leave it out or choose the bits"
                )
        return
    if isinstance(bits, bool) or not hasattr(bits, "__index__") or not 1 <= bits <= _MOST_BITS:
        raise ModelError(f"a checkpoint is quantized to 1 to {_MOST_BITS} bits, not to {bits!r}")
    for what, value, known in (("grid", grid, GRIDS), ("effort", effort, _EFFORTS)):
        if value is not None and value not in known:
            raise ModelError(f"{what} {value!r} is unknown; choose {', '.join(map(repr, known))}")


def _in_order(
    encode: Callable[[TensorEntry, int], tuple[CodedTensor, bool]],
    entries: list[TensorEntry],
    workers: int,
) -> Iterator[tuple[CodedTensor, bool]]:
    """Encode on several threads: small tensors side by side, the parts of large ones."""
    room = most = max([entry.length for entry in entries] + [_SMALL * workers])
    running: deque[tuple[int, Future[tuple[CodedTensor, bool]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for entry in entries:
                while len(running) == workers or entry.length > room:
                    length = running[0][0]
                    yield running.popleft()[1].result()  # bound to no name, which would keep it
                    room += length
                threads = max(1, -(-workers * entry.length // most))
                running.append((entry.length, pool.submit(encode, entry, threads)))
                room -= entry.length
            while running:
                yield running.popleft()[1].result()
        finally:
            for _, future in running:
                future.cancel()


def _duplicates(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the names of tensors that repeat an earlier one, each with the name of that."""
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
    end = entry.length
    head = entry.read_bytes(0, min(_SAMPLE, end))
    tail = entry.read_bytes(max(0, end - _SAMPLE), end)
    return hashlib.blake2b(head.tobytes() + tail.tobytes()).digest()


def _digest(entry: TensorEntry) -> bytes:
    digest = hashlib.blake2b()
    for start in range(0, entry.length, _BLOCK):
        digest.update(entry.read_bytes(start, min(start + _BLOCK, entry.length)).data)
    return digest.digest()


def _quantized(
    entry: TensorEntry, bits: int | None, grid: Grid, threads: int
) -> UncodedTensor | None:
    large = len(entry.shape) > 1 and entry.size >= _LEAST
    if bits is None or not large or entry.dtype not in QUANTIZED_DTYPES:
        return None
    return quantize_tensor(entry.name, entry.values(), entry.dtype, bits, grid, threads=threads)


def _encode_losslessly(entry: TensorEntry, threads: int) -> CodedTensor:
    """Encode a tensor bit for bit; large ones of floats that repeat nothing as byte planes."""
    name, dtype, values = entry.name, entry.dtype, entry.values()
    if entry.size > _LEAST and "float" in dtype and not _repeats(values.reshape(-1)):
        planes = encode_planes(values, dtype, threads=threads)
        if len(planes) < values.nbytes:
            return CodedTensor(
                name=name,
                shape=entry.shape,
                dtype=dtype,
                encoding="dense",
                storage=dtype,
                parts={"dense": planes},
                coder="planes",
            )
    storage = dtype if entry.size > _LEAST else None  # narrowing pays for small ones only
    dense = prepare_lossless(name, values, dtype=dtype, storage=storage)
    del values
    return dense.encode(effort="balanced")


def _repeats(values: NDArray[Any]) -> bool:
    """Whether pieces occur again, or whole values tell clearly more than their bytes."""
    step = values.itemsize if values.nbytes <= _SMALL else 16  # rows of large ones are aligned
    selected, repeated = _native.repetition(values, step)
    if repeated > _MOST_PIECES * selected:
        return True
    sample = np.ascontiguousarray(values[:: max(1, values.size // _SAMPLE)])
    found = distinct_words(sample, int(_MOST_DISTINCT * sample.size))
    if found is None:
        return False
    planes = sample.view(np.uint8).reshape(-1, sample.itemsize)
    apart = sum(entropy(np.bincount(plane)) for plane in planes.T)
    return entropy(found[1]) <= _MOST_REPEATED * apart
