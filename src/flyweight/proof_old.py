"""From a checkpoint to a file whose every figure is proven, and back to a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flyweight.checkpoints import SafetensorsWriter
from flyweight.coding import code_lengths, decode_tensor
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.format import (
    MAGIC,
    Reader,
    check_target,
    replacing,
)
from flyweight.cifar import load_cifar10
from flyweight.errors import ModelError
from flyweight.io import (
    load,
    materialize,
    save,
    skeleton,
)
from flyweight.size_report import SizeReport
from flyweight.size_report import inspect as account
from flyweight.modules import Architecture, build, fill_
from flyweight.cifar import architectures, load_pretrained
from flyweight.checkpoints import read_state_dict
from flyweight.compression import compress
from flyweight._provenance import source_commit
from flyweight.recipes import Recipe, load_recipe
from flyweight.checkpoints import METADATA_PREFIX
from flyweight.modules import check_model
from flyweight.training import (
    Progress,
    accuracy,
    choose_device,
    describe_device,
    is_main_process,
    predict,
    wait_for_all,
)

__all__ = [
    "CompressionReport",
    "compress_to_file",
    "course_ratio",
    "decompress_to_file",
    "evaluate",
    "inspect",
]


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """What a compression reached; sizes in bytes and accuracies as fractions of the test set.

    ``compression_ratio`` is ``dense_bytes`` (4 a parameter) over ``file_bytes`` (the file on disk,
    whole); ``course_ratio`` leaves out positions, codebooks, tables, batch normalisation and
    biases. ``accuracy_after`` is measured on the network loaded from the file, and
    ``reload_identical`` tells whether its logits are those of the network that was saved.
    """

    dense_bytes: int
    file_bytes: int
    compression_ratio: float
    course_ratio: float
    sparsity: float
    accuracy_before: float
    accuracy_after: float
    reload_identical: bool
    recipe: str
    epochs: int
    seed: int
    device: str
    commit: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def compress_to_file(
    model: str | Path,
    path: str | Path,
    recipe: Recipe | str | Path = "quick",
    *,
    architecture: Architecture | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress a network into a file and prove it: every figure is measured on what the file gives.

    ``model`` is the name of a pretrained network, or a checkpoint whose ``architecture`` is given.
    A run that is stopped leaves its state in ``<path>.partial`` and goes on from there next time.
    Under ``accelerate launch`` the first process writes, and all read the file, which so has to be
    in a folder that they share.

    Raises the errors of `compress`, and CheckpointError for a checkpoint that does not fit.
    """
    commit = source_commit()  # of the code that runs, whatever is edited meanwhile
    path = Path(path)
    check_target(path)
    recipe = load_recipe(recipe)
    original, named = _open_model(model, architecture)
    check_model(original)
    target = choose_device(device)
    dataset = load_cifar10(data, progress=progress)
    test = dataset.split("test").to(target)
    accuracy_before = accuracy(original.to(target), test)
    partial = path.with_name(path.name + ".partial")
    compressed = compress(
        original,
        recipe,
        data=dataset,
        device=device,
        seed=seed,
        resume_folder=partial,
        progress=progress,
    )
    if isinstance(named, str) and ":" not in named:
        compressed = dataclasses.replace(
            compressed, metadata={**compressed.metadata, "architecture": named}
        )
    saved = materialize(compressed, named, "the compressed model").to(target)
    logits = predict(saved, test.images)
    if is_main_process():
        save(compressed, path)
    wait_for_all()
    file_bytes = path.stat().st_size
    reloaded = load(path, architecture=named).to(target)
    reloaded_logits = predict(reloaded, test.images)
    coded = [t for t in compressed.tensors.values() if isinstance(t, CompressedTensor)]
    dense_bytes = 4 * sum(p.numel() for p in original.parameters())
    report = CompressionReport(
        dense_bytes=dense_bytes,
        file_bytes=file_bytes,
        compression_ratio=dense_bytes / file_bytes,
        course_ratio=course_ratio(compressed),
        sparsity=sum(round(t.sparsity * t.symbols.numel()) for t in coded)
        / max(1, sum(t.symbols.numel() for t in coded)),
        accuracy_before=accuracy_before,
        accuracy_after=float((reloaded_logits.argmax(dim=1) == test.labels).double().mean()),
        reload_identical=torch.equal(logits, reloaded_logits),
        recipe=recipe.name,
        epochs=recipe.pruning.training.epochs + recipe.sharing.training.epochs,
        seed=seed,
        device=describe_device(target),
        commit=commit,
    )
    if is_main_process():
        shutil.rmtree(partial, ignore_errors=True)
    return report


def course_ratio(compressed: CompressedModel) -> float:
    """32 bits × weights over the Huffman bits of the non-zero ones, in the pruned tensors alone.

    This is the ratio of the course exercises; it leaves out positions, codebooks, tables, batch
    normalisation, biases and the header, so that no file is that small.
    """
    weights = bits = 0
    for tensor in compressed.tensors.values():
        if isinstance(tensor, CompressedTensor):
            indices = tensor.symbols[tensor.symbols > 0].flatten() - 1
            counts = torch.bincount(indices, minlength=tensor.levels.numel()).numpy()
            weights += tensor.symbols.numel()
            bits += int((counts * code_lengths(counts)).sum())
    return 32 * weights / bits if bits else float("inf")


def evaluate(
    source: str | Path,
    *,
    architecture: Architecture | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy on the 10,000 test images of a ``.fly`` file, a checkpoint or a network by name.

    Returns ``accuracy`` (a fraction), ``file_bytes`` (None for a network by name) and ``device``.
    """
    if _is_fly_file(Path(source)):
        model = load(source, architecture=architecture)
    else:
        model, _ = _open_model(source, architecture)
    target = choose_device(device)
    test = load_cifar10(data, progress=progress).split("test").to(target)
    return {
        "accuracy": accuracy(model.to(target), test),
        "file_bytes": Path(source).stat().st_size if Path(source).is_file() else None,
        "device": describe_device(target),
    }


def decompress_to_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the tensors of a ``.fly`` file as ``.safetensors``, whole or not at all.

    One tensor is in memory at a time; tied tensors are written once for each name. Returns
    ``tensors``, ``bytes`` and ``path``.
    """
    target = Path(output)
    check_target(target)
    find = functools.partial(skeleton, architecture=architecture)
    with Reader(path, skeleton=find) as reader:
        reader.verify()
        metadata = {
            key.removeprefix(METADATA_PREFIX): text
            for key, text in reader.metadata.items()
            if key.startswith(METADATA_PREFIX)
        }
        outlines = reader.outlines
        told = [(outline.name, outline.dtype, outline.shape) for outline in outlines]
        with replacing(target) as file:
            writer = SafetensorsWriter(file, told, metadata)
            for done, outline in enumerate(outlines):
                source = outline if outline.target is None else outlines[outline.target]
                writer.add(outline.name, decode_tensor(reader.tensor(source.name)))
                if progress is not None:
                    progress("decompress", done + 1, len(outlines))
    return {"path": str(target), "tensors": len(outlines), "bytes": target.stat().st_size}


def inspect(
    path: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    peers: bool = False,
) -> SizeReport:
    """Where every byte of a ``.fly`` file went, beside the least that the entropy allows.

    Every tensor is decoded. ``architecture`` as for `load`; it is needed only for a file that
    leaves names and shapes to one that flyweight does not know. With ``peers`` it also says what
    the same tensors take as fp32 and fp16, and what zstd and xz make of the same symbols. Raises
    FormatError if the file is damaged.
    """
    find = functools.partial(skeleton, architecture=architecture)
    return account(path, skeleton=find, peers=peers)


def _is_fly_file(path: Path) -> bool:
    if path.suffix == ".fly" or not path.is_file():
        return path.suffix == ".fly"
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _open_model(
    model: str | Path, architecture: Architecture | None
) -> tuple[nn.Module, Architecture]:
    if str(model) in architectures():
        return load_pretrained(str(model)), str(model)
    state = read_state_dict(model)
    if architecture is None:
        raise ModelError(f"{model} is a checkpoint; name its network with --architecture")
    network = build(architecture)
    fill_(network, state, where=str(model))
    return network.eval(), architecture
