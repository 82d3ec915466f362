"""From a trained network to a file and back: compress, save, load, decompress."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.coding import code_lengths
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.container import MAGIC, read, write
from flyweight.data import Cifar10, load_cifar10
from flyweight.errors import CheckpointError, ModelError
from flyweight.models import (
    Architecture,
    architectures,
    build,
    fill_,
    load_pretrained,
    read_state_dict,
    write_state_dict,
)
from flyweight.provenance import source_commit
from flyweight.recipes import Recipe, load_recipe
from flyweight.stages import check_model, finish, prune_, share_
from flyweight.training import (
    Progress,
    accuracy,
    choose_device,
    describe_device,
    memory_format_for,
    predict,
)

__all__ = [
    "CompressionReport",
    "compress",
    "compress_to_file",
    "course_ratio",
    "decompress",
    "decompress_to_file",
    "evaluate",
    "load",
    "save",
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


def compress(
    model: nn.Module | str,
    recipe: Recipe | str | Path = "quick",
    *,
    data: Cifar10 | str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    resume_folder: Path | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Prune, retrain, share and tune; return a new compressed model. ``model`` stays as it is.

    ``model`` is a module that takes N×3×32×32 images and gives N×10 logits, or the name of a
    pretrained network. ``data`` is CIFAR-10 or its folder (None: found or downloaded); the 45,000
    training images are used. With ``resume_folder``, the state of training is kept there after
    each epoch, and a run that was stopped goes on from it.

    Raises ModelError for a model that cannot be compressed, RecipeError and DataError.

    Example:
        >>> compressed = compress("resnet20", "quick")  # doctest: +SKIP
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    metadata = {"recipe": recipe.name}
    if isinstance(model, str):
        metadata["architecture"] = model
        model = load_pretrained(model)
    check_model(model)
    dataset = data if isinstance(data, Cifar10) else load_cifar10(data, progress=progress)
    target = choose_device(device)
    student = copy.deepcopy(model).to(target)
    teacher = _teacher(model, target) if _distils(recipe) else None
    training = dataset.split("train45k").to(target)
    states = None if resume_folder is None else resume_folder / _digest(model, recipe, seed)

    names = prune_(
        student,
        recipe.pruning,
        training,
        seed=seed,
        teacher=teacher,
        checkpoint=None if states is None else states / "prune.pt",
        progress=progress,
    )
    shared = share_(
        student,
        names,
        recipe.sharing,
        training,
        seed=seed + 1,
        teacher=teacher,
        checkpoint=None if states is None else states / "share.pt",
        progress=progress,
    )
    return finish(student.cpu(), _on_cpu(shared), recipe, metadata=metadata)


def _distils(recipe: Recipe) -> bool:
    return max(recipe.pruning.training.distillation, recipe.sharing.training.distillation) > 0


def _teacher(model: nn.Module, device: torch.device) -> nn.Module:
    form = memory_format_for(model)
    teacher = copy.deepcopy(model).to(device=device, memory_format=form)  # type: ignore[call-overload]
    frozen: nn.Module = teacher.eval().requires_grad_(False)
    return frozen


def _digest(model: nn.Module, recipe: Recipe, seed: int) -> str:
    digest = hashlib.sha256(f"{recipe!r} {seed}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _on_cpu(shared: dict[str, CompressedTensor]) -> dict[str, CompressedTensor]:
    return {n: CompressedTensor(t.symbols.cpu(), t.levels.cpu()) for n, t in shared.items()}


def save(compressed: CompressedModel, path: str | os.PathLike[str]) -> int:
    """Write a ``.fly`` file, whole or not at all; return its size in bytes."""
    return write(compressed.to_container(), path)


def decompress(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict that a ``.fly`` file holds. Raises FormatError if it is damaged."""
    return CompressedModel.from_container(read(path)).state_dict()


def decompress_to_file(
    path: str | os.PathLike[str], output: str | os.PathLike[str]
) -> dict[str, Any]:
    """Write the tensors of a ``.fly`` file as ``.safetensors``, whole or not at all.

    Tied tensors are written once for each name. Returns ``tensors``, ``bytes`` and ``path``.
    """
    target = Path(output)
    _check_target(target)
    state = decompress(path)
    write_state_dict(state, target)
    return {"path": str(target), "tensors": len(state), "bytes": target.stat().st_size}


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


def load(path: str | os.PathLike[str], *, architecture: Architecture | None = None) -> nn.Module:
    """A fresh module in evaluation mode with the weights of a ``.fly`` file.

    ``architecture`` is a name, ``package.module:factory`` or a function that builds the module;
    None takes the name in the file. The file itself never makes anything be imported or run.

    Raises FormatError if the file is damaged, ModelError without a known architecture, and
    CheckpointError if the file holds the weights of another one.

    Example:
        >>> model = load("resnet20.fly")  # doctest: +SKIP
    """
    compressed = CompressedModel.from_container(read(path))
    return _materialize(compressed, architecture, str(path))


def _materialize(
    compressed: CompressedModel, architecture: Architecture | None, where: str
) -> nn.Module:
    if architecture is None:
        architecture = compressed.metadata.get("architecture")
        if architecture is None or ":" in architecture:
            raise ModelError(
                f"{where} does not name a network that flyweight knows; give --architecture"
            )
    model = build(architecture)
    fill_(model, compressed.state_dict(), where=where)
    return model.eval()


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

    Raises the errors of `compress`, and CheckpointError for a checkpoint that does not fit.
    """
    commit = source_commit()  # of the code that runs, whatever is edited meanwhile
    path = Path(path)
    _check_target(path)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
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
    saved = _materialize(compressed, named, "the compressed model").to(target)
    logits = predict(saved, test.images)
    file_bytes = save(compressed, path)
    reloaded = load(path, architecture=named).to(target)
    reloaded_logits = predict(reloaded, test.images)
    coded = [t for t in compressed.tensors.values() if isinstance(t, CompressedTensor)]
    dense_bytes = 4 * sum(p.numel() for p in original.parameters())
    report = CompressionReport(
        dense_bytes=dense_bytes,
        file_bytes=path.stat().st_size,
        compression_ratio=dense_bytes / file_bytes,
        course_ratio=course_ratio(compressed),
        sparsity=sum(int((t.symbols == 0).sum()) for t in coded)
        / sum(t.symbols.numel() for t in coded),
        accuracy_before=accuracy_before,
        accuracy_after=float((reloaded_logits.argmax(dim=1) == test.labels).double().mean()),
        reload_identical=torch.equal(logits, reloaded_logits),
        recipe=recipe.name,
        epochs=recipe.pruning.training.epochs + recipe.sharing.training.epochs,
        seed=seed,
        device=describe_device(target),
        commit=commit,
    )
    shutil.rmtree(partial, ignore_errors=True)
    return report


def _is_fly_file(path: Path) -> bool:
    if path.suffix == ".fly" or not path.is_file():
        return path.suffix == ".fly"
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _check_target(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file to write")
    if not path.absolute().parent.is_dir():
        raise CheckpointError(f"the folder {path.absolute().parent} does not exist; create it")
    if not os.access(path.absolute().parent, os.W_OK):
        raise CheckpointError(f"the folder {path.absolute().parent} cannot be written to")


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
