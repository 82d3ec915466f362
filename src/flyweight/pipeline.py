"""From a trained network to a compressed or a pruned one, in memory."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from flyweight.batch_norm import reestimate_batch_norms_
from flyweight.calibration import checked_batches
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.data import Cifar10, load_cifar10
from flyweight.errors import DataError, ModelError
from flyweight.models import add_network_, load_pretrained
from flyweight.pruning import matching_parameters, select_weights
from flyweight.quantization import check_price
from flyweight.recipes import PruningRecipe, Recipe, load_recipe
from flyweight.stages import (
    check_model,
    correct_biases_,
    drift_measured,
    finish,
    prune_,
    quantize_,
    quantize_post_training_,
)
from flyweight.training import Progress, choose_device, memory_format_for

__all__ = ["compress", "compress_post_training", "prune"]


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
    matching_parameters(model, recipe.sharing.keep)  # refuses before training what it would after
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
    inputs: Iterable[Tensor],
    *,
    price: float,
    layers: Sequence[str] = ("*",),
    examples: int = 256,
    dense: Literal["bfloat16", "float16", "float32"] = "bfloat16",
) -> CompressedModel:
    """Quantise without training and without labels; return a new compressed model.

    ``model`` stays as it is. Zeros that it has stay zeros.

    Arguments:
        model: a classifier, logits N×K out with K of 2 and more, or the name of a pretrained
            network. It may be frozen.
        inputs: calibration batches on the device of the model, of one size, augmented as in
            training; some thousands of examples in all.
        price: loss, in nats of an example, that a bit of the file is worth, above 0; the larger,
            the smaller the file. Try 1e-8 to 1e-6 for 300,000 weights.
        layers: globs of the names of weights to quantise. Others stay floats, and so do weights
            that no answer depends on for the examples that weights are chosen by, as those of a
            head for training only.
        examples: of the inputs, from the first on, that the weights are chosen by. All of them
            correct batch normalisation and biases.
        dense: how the other floats are kept in the file.

    In linear layers and convolutions of one and two dimensions, in groups too, the weights still to
    be rounded make up for the error so far; in other layers each is rounded alone.

    Raises ModelError for a model that cannot be quantised so, no examples and a price that is not
    above 0, RecipeError for an unknown ``dense``, DataError without inputs and for inputs that are
    empty, not finite, or too few for batch normalisation.

    Example:
        >>> batches = [torch.randn(256, 3, 32, 32)]
        >>> compressed = compress_post_training("resnet20", batches, price=1e-7)  # doctest: +SKIP

    Source: as of `flyweight.stages.quantize_post_training_`.
    """
    recipe = Recipe(name="post-training", dense=dense)
    check_price(price)
    if examples < 1:
        raise ModelError(f"weights are chosen by at least 1 example; found {examples}")
    batches = checked_batches(inputs, "quantise with")
    few = _parts(batches, examples)
    metadata = {"recipe": "post-training"}
    if isinstance(model, str):
        metadata["architecture"] = model
        model = load_pretrained(model)
    check_model(model)
    student = copy.deepcopy(model).eval()
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    names = select_weights(student, layers=layers)
    drift = drift_measured(student, batches)
    found = quantize_post_training_(student, names, few, price=price)
    reestimate_batch_norms_(student, batches, drift=drift)
    correct_biases_(student, model, batches)
    return finish(student.cpu(), _on_cpu(found), recipe, metadata=metadata)


def _parts(batches: Sequence[Tensor], examples: int) -> Sequence[Tensor]:
    """The first examples, in parts of up to 64 whose sizes differ by one at most."""
    first: list[Tensor] = []
    for number, batch in enumerate(batches):
        if batch.shape[1:] != batches[0].shape[1:]:
            raise DataError(
                f"calibration batch {number} holds examples of shape {tuple(batch.shape[1:])}, and "
                f"the first of {tuple(batches[0].shape[1:])}; give examples of one shape"
            )
        if examples > 0:
            first.append(batch[:examples])
            examples -= len(batch)
    together = torch.cat(first)
    return together.tensor_split(math.ceil(len(together) / 64))


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
