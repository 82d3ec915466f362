"""From a trained network to a file and back: compress, save, load, decompress."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor, nn

from flyweight.batch_norm import batch_norm_drift, reestimate_batch_norms_
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.container import Container, Reader, read, write
from flyweight.data import Cifar10, load_cifar10
from flyweight.errors import ModelError
from flyweight.models import (
    Architecture,
    add_network_,
    architectures,
    build,
    fill_,
    load_pretrained,
)
from flyweight.pruning import select_weights
from flyweight.recipes import PruningRecipe, Recipe, load_recipe
from flyweight.stages import (
    check_model,
    correct_biases_,
    finish,
    prune_,
    quantize_,
    quantize_post_training_,
)
from flyweight.training import (
    Progress,
    choose_device,
    memory_format_for,
)

__all__ = [
    "compress",
    "compress_post_training",
    "decompress",
    "load",
    "materialize",
    "prune",
    "save",
    "skeleton",
]


def compress(
    model: nn.Module | str,
    recipe: Recipe | str | Path = "quick",
    *,
    data: Cifar10 | str | Path | None = None,
    teacher: nn.Module | None = None,
    device: str = "auto",
    seed: int = 0,
    resume_folder: Path | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Prune, retrain, share and tune; return a new compressed model. ``model`` stays as it is.

    ``model`` is a module that takes N×3×32×32 images and gives N×10 logits, or the name of a
    pretrained network. ``data`` is CIFAR-10 or its folder (None: found or downloaded); the 45,000
    training images are used. Where the recipe distils, soft labels come from ``teacher``, or from
    the model as it is given; where that has lost accuracy already, name a teacher that has not.
    With ``resume_folder``, the state of training is kept there after each epoch, and a run that was
    stopped goes on from it.

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
    master = _teacher(teacher or model, target) if _distils(recipe) else None
    training = dataset.split("train45k").to(target)
    states = _states(resume_folder, model, master, recipe, seed)

    names = prune_(
        student,
        recipe.pruning,
        training,
        seed=seed,
        teacher=master,
        checkpoint=None if states is None else states / "prune.pt",
        progress=progress,
    )
    shared = quantize_(
        student,
        names,
        recipe.sharing,
        training,
        seed=seed + 1,
        teacher=master,
        checkpoint=None if states is None else states / "share.pt",
        progress=progress,
    )
    return finish(student.cpu(), _on_cpu(shared), recipe, metadata=metadata)


def compress_post_training(
    model: nn.Module | str,
    inputs: Sequence[Tensor],
    *,
    price: float,
    layers: Sequence[str] = ("*",),
    examples: int = 256,
    dense: Literal["bfloat16", "float16", "float32"] = "bfloat16",
) -> CompressedModel:
    """Quantise without training and without labels; return a new compressed model.

    ``model`` stays as it is. Zeros that it has stay zeros.

    Arguments:
        model: a classifier, logits N×K out, or the name of a pretrained network.
        inputs: calibration batches on the device of the model, of one size, augmented as in
            training; some thousands of examples in all.
        price: loss, in nats of an example, that a bit of the file is worth, above 0; the larger,
            the smaller the file. Try 1e-8 to 1e-6 for 300,000 weights.
        layers: globs of the names of weights to quantise; others stay floats.
        examples: of the inputs, from the first on, that the weights are chosen by. All of them
            correct batch normalisation and biases.
        dense: how the other floats are kept in the file.

    Raises ModelError for a model that cannot be quantised so, DataError without inputs.

    Example:
        >>> batches = [torch.randn(256, 3, 32, 32)]
        >>> compressed = compress_post_training("resnet20", batches, price=1e-7)  # doctest: +SKIP

    Source: as of `flyweight.stages.quantize_post_training_`.
    """
    metadata = {"recipe": "post-training"}
    if isinstance(model, str):
        metadata["architecture"] = model
        model = load_pretrained(model)
    check_model(model)
    student = copy.deepcopy(model).eval()
    drift = batch_norm_drift(student, inputs)
    few = torch.split(torch.cat([*_first(inputs, examples)]), 64)
    names = select_weights(student, layers=layers)
    found = quantize_post_training_(student, names, few, price=price)
    reestimate_batch_norms_(student, inputs, drift=drift)
    correct_biases_(student, model, inputs)
    recipe = Recipe(name="post-training", dense=dense)
    return finish(student.cpu(), _on_cpu(found), recipe, metadata=metadata)


def _first(batches: Sequence[Tensor], examples: int) -> Iterator[Tensor]:
    for batch in batches:
        if examples <= 0:
            return
        yield batch[:examples]
        examples -= len(batch)


def prune(
    model: nn.Module | str,
    recipe: PruningRecipe | Recipe | str | Path = "quick",
    *,
    data: Cifar10 | str | Path | None = None,
    teacher: nn.Module | None = None,
    device: str = "auto",
    seed: int = 0,
    resume_folder: Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Prune and retrain in flyweight's own loop; return a new network with exact zeros.

    Arguments and errors are those of `compress`; of a `Recipe` the pruning counts. Retraining of
    no epochs prunes once. The network that comes back is on the CPU, in evaluation mode.

    Example:
        >>> pruned = prune("resnet20", "quick")  # doctest: +SKIP
    """
    if not isinstance(recipe, PruningRecipe):
        recipe = (recipe if isinstance(recipe, Recipe) else load_recipe(recipe)).pruning
    if isinstance(model, str):
        model = load_pretrained(model)
    check_model(model)
    dataset = data if isinstance(data, Cifar10) else load_cifar10(data, progress=progress)
    target = choose_device(device)
    student = copy.deepcopy(model).to(target)
    master = _teacher(teacher or model, target) if recipe.training.distillation else None
    states = _states(resume_folder, model, master, recipe, seed)
    prune_(
        student,
        recipe,
        dataset.split("train45k").to(target),
        seed=seed,
        teacher=master,
        checkpoint=None if states is None else states / "prune.pt",
        progress=progress,
    )
    return student.cpu().eval()


def _distils(recipe: Recipe) -> bool:
    return max(recipe.pruning.training.distillation, recipe.sharing.training.distillation) > 0


def _teacher(model: nn.Module, device: torch.device) -> nn.Module:
    form = memory_format_for(model)
    teacher = copy.deepcopy(model).to(device=device, memory_format=form)  # type: ignore[call-overload]
    frozen: nn.Module = teacher.eval().requires_grad_(False)
    return frozen


def _states(
    folder: Path | None,
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe | PruningRecipe,
    seed: int,
) -> Path | None:
    """Where states of this run are kept, and of no other."""
    if folder is None:
        return None
    digest = hashlib.sha256(f"{recipe!r} {seed}".encode())
    add_network_(digest, model)
    if teacher is not None:
        add_network_(digest, teacher)
    return folder / digest.hexdigest()[:16]


def _on_cpu(shared: dict[str, CompressedTensor]) -> dict[str, CompressedTensor]:
    return {
        name: dataclasses.replace(tensor.with_tables(Tensor.cpu), symbols=tensor.symbols.cpu())
        for name, tensor in shared.items()
    }


def save(compressed: CompressedModel, path: str | os.PathLike[str]) -> int:
    """Write a ``.fly`` file, whole or not at all; return its size in bytes.

    Where the compressed model is of an architecture that flyweight knows by name, the file leaves
    names and shapes of the tensors to it.
    """
    if compressed.metadata.get("architecture") not in architectures():
        return write(compressed.to_container(), path)
    known = skeleton(compressed.metadata)
    place = {name: number for number, name in enumerate(known)}
    ordered = sorted(compressed.tensors, key=lambda name: place.get(name, len(place)))
    tensors = {name: compressed.tensors[name] for name in ordered}
    container = dataclasses.replace(compressed, tensors=tensors).to_container()
    shapes = {tensor.name: tensor.shape for tensor in container.tensors}
    return write(container, path, bare=list(shapes.items()) == list(known.items()))


def skeleton(
    metadata: Mapping[str, str], *, architecture: Architecture | None = None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an architecture, in the order in which a file has them.

    ``architecture`` as for `load`. Raises ModelError without one that is known.
    """
    return _names_and_shapes(build(_known(metadata, architecture, "the file")))


def _names_and_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    names = [*first.values(), *(name for name in state if name not in set(first.values()))]
    return {name: tuple(state[name].shape) for name in names}


def _known(
    metadata: Mapping[str, str], architecture: Architecture | None, where: str
) -> Architecture:
    if architecture is None:
        architecture = metadata.get("architecture")
        if architecture is None or ":" in architecture:
            raise ModelError(
                f"{where} does not name a network that flyweight knows; give --architecture"
            )
    return architecture


def decompress(
    path: str | os.PathLike[str],
    *,
    names: Collection[str] | None = None,
    architecture: Architecture | None = None,
) -> dict[str, Tensor]:
    """The state dict that a ``.fly`` file holds; with ``names``, those tensors and no others.

    With ``names`` only what they need is read and checked. ``architecture`` as for `load`; it is
    needed only for a file that leaves names and shapes to one that flyweight does not know.

    Raises FormatError if the file is damaged or lacks a tensor that is named.
    """
    find = functools.partial(skeleton, architecture=architecture)
    if names is None:
        return CompressedModel.from_container(read(path, skeleton=find)).state_dict()
    with Reader(path, skeleton=find) as reader:
        places = {outline.name: outline for outline in reader.outlines}
        sources = {
            name: name
            if name not in places or places[name].target is None
            else reader.outlines[places[name].target or 0].name
            for name in names
        }
        coded = Container(tuple(reader.tensors(set(sources.values()))))
    values = CompressedModel.from_container(coded).state_dict()
    return {name: values[source] for name, source in sources.items()}


@overload
def load(
    path: str | os.PathLike[str], *, architecture: Architecture | None = None, names: None = None
) -> nn.Module: ...


@overload
def load(
    path: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    names: Collection[str],
) -> dict[str, Tensor]: ...


def load(
    path: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    names: Collection[str] | None = None,
) -> nn.Module | dict[str, Tensor]:
    """A fresh module in evaluation mode with the weights of a ``.fly`` file.

    ``architecture`` is a name, ``package.module:factory`` or a function that builds the module;
    None takes the name in the file. The file itself never makes anything be imported or run.
    With ``names`` only the tensors named are read, and returned by name.

    Raises FormatError if the file is damaged, ModelError without a known architecture, and
    CheckpointError if the file holds the weights of another one.

    Example:
        >>> model = load("resnet20.fly")  # doctest: +SKIP
        >>> head = load("resnet20.fly", names=["linear.weight"])  # doctest: +SKIP
    """
    if names is not None:
        return decompress(path, names=names, architecture=architecture)
    built: list[nn.Module] = []  # the one whose names and shapes were asked for, to be filled

    def find(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        built.append(build(_known(metadata, architecture, "the file")))
        return _names_and_shapes(built[-1])

    compressed = CompressedModel.from_container(read(path, skeleton=find))
    if not built:
        return materialize(compressed, architecture, str(path))
    fill_(built[-1], compressed.state_dict(), where=str(path))
    return built[-1].eval()


def materialize(
    compressed: CompressedModel, architecture: Architecture | None, where: str
) -> nn.Module:
    """A fresh module in evaluation mode with the weights of a compressed model.

    ``architecture`` as for `load`; ``where`` names the compressed model in errors.
    """
    model = build(_known(compressed.metadata, architecture, where))
    fill_(model, compressed.state_dict(), where=where)
    return model.eval()
