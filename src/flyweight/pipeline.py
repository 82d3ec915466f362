"""From a trained network to a file and back: compress, save, load, decompress."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.container import read, write
from flyweight.data import Cifar10, load_cifar10
from flyweight.errors import ModelError
from flyweight.models import (
    Architecture,
    build,
    fill_,
    load_pretrained,
)
from flyweight.recipes import Recipe, load_recipe
from flyweight.stages import check_model, finish, prune_, share_
from flyweight.training import (
    Progress,
    choose_device,
    memory_format_for,
)

__all__ = [
    "compress",
    "decompress",
    "load",
    "materialize",
    "save",
]


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
    return materialize(compressed, architecture, str(path))


def materialize(
    compressed: CompressedModel, architecture: Architecture | None, where: str
) -> nn.Module:
    """A fresh module in evaluation mode with the weights of a compressed model.

    ``architecture`` as for `load`; ``where`` names the compressed model in errors.
    """
    if architecture is None:
        architecture = compressed.metadata.get("architecture")
        if architecture is None or ":" in architecture:
            raise ModelError(
                f"{where} does not name a network that flyweight knows; give --architecture"
            )
    model = build(architecture)
    fill_(model, compressed.state_dict(), where=where)
    return model.eval()
