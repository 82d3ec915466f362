"""From a trained network to a compressed, a pruned or a quantised one, in memory."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flyweight.batch_norm import (
    batch_norm_drift,
    folded_batch_norms,
    reestimate_batch_norms_,
    unfold_batch_norms_,
)
from flyweight.batches import checked_batches
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.cifar import Cifar10, Split, load_cifar10
from flyweight.errors import DataError, ModelError
from flyweight.modules import add_network_
from flyweight.cifar import load_pretrained
from flyweight.modules import matching_parameters, select_weights
from flyweight.quantization import check_loss_per_bit
from flyweight.recipes import (
    PruningConfig,
    Recipe,
    QuantizationConfig,
    load_recipe,
)
from flyweight.modules import check_model
from flyweight.quantization import correct_biases_, quantize_, quantize_post_training_
from flyweight.compressed import finish
from flyweight.pruning import prune_
from flyweight.training import (
    Progress,
    TrainingConfig,
    choose_device,
    memory_format_for,
)
from flyweight.cifar.augmentation import training_batches

__all__ = ["compress", "compress_post_training", "prune", "quantize"]


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
    pretrained network; that of a file, whose batch normalisation is folded, gets statistics of
    training images first. ``data`` is CIFAR-10 or its folder (None: found or downloaded); the
    45,000 training images are used. All weights of two and more dimensions take few values, but
    for those that the recipe's sharing keeps. Where the recipe distils, soft labels come from
    ``teacher``, or from the model as it is given; where that has lost accuracy already, name a
    teacher that has not. With ``resume_folder``, the state of training is kept there after each
    epoch, and a run that was stopped goes on from it.

    Raises ModelError for a model that cannot be compressed, RecipeError and DataError.

    Example:
        >>> compressed = compress("resnet20", "quick")  # doctest: +SKIP
    """
    recipe = load_recipe(recipe)
    metadata = {"recipe": recipe.name}
    if isinstance(model, str):
        metadata["architecture"] = model
        model = load_pretrained(model)
    check_model(model)
    matching_parameters(model, recipe.sharing.keep)  # refuses before training what it would after
    configs = (recipe.pruning.training, recipe.sharing.training)
    run = _Run.start(model, teacher, recipe, configs, data, device, seed, resume_folder, progress)
    run.prune_(recipe.pruning, seed)
    shared = run.quantize_(recipe.sharing, seed + 1)
    return finish(run.student.cpu(), shared, recipe, metadata=metadata)


def quantize(
    model: nn.Module | str,
    recipe: QuantizationConfig | Recipe | str | Path = "quick",
    *,
    data: Cifar10 | str | Path | None = None,
    teacher: nn.Module | None = None,
    device: str = "auto",
    seed: int = 0,
    resume_folder: Path | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Let weights take few values and train them in flyweight's own loop; zeros stay zeros.

    `compress` without its pruning: arguments and errors are those. Of a `Recipe` the sharing
    counts, and how other tensors are kept; ``seed`` is used as it is.

    Example:
        >>> from flyweight import QuantizationConfig
        >>> recipe = QuantizationConfig(scheme="learned-step", bits=3)
        >>> compressed = quantize("resnet20", recipe)  # doctest: +SKIP
    """
    recipe = load_recipe(recipe)
    metadata = {"recipe": recipe.name}
    if isinstance(model, str):
        metadata["architecture"] = model
        model = load_pretrained(model)
    check_model(model)
    configs = (recipe.sharing.training,)
    run = _Run.start(model, teacher, recipe, configs, data, device, seed, resume_folder, progress)
    shared = run.quantize_(recipe.sharing, seed, state="quantize.pt")
    return finish(run.student.cpu(), shared, recipe, metadata=metadata)


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
    check_loss_per_bit(price)
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
    unfold_batch_norms_(student, batches)
    drift = batch_norm_drift(student, batches)
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
    recipe: PruningConfig | Recipe | str | Path = "quick",
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
    recipe = load_recipe(recipe).pruning
    if isinstance(model, str):
        model = load_pretrained(model)
    check_model(model)
    configs = (recipe.training,)
    run = _Run.start(model, teacher, recipe, configs, data, device, seed, resume_folder, progress)
    run.prune_(recipe, seed)
    return run.student.cpu().eval()


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the stages of a run have in common; they change ``student``."""

    student: nn.Module
    training: Split
    teacher: nn.Module | None
    states: Path | None
    progress: Progress | None

    @staticmethod
    def start(
        model: nn.Module,
        teacher: nn.Module | None,
        recipe: Recipe | PruningConfig,
        configs: Sequence[TrainingConfig],
        data: Cifar10 | str | Path | None,
        device: str,
        seed: int,
        resume_folder: Path | None,
        progress: Progress | None,
    ) -> _Run:
        """With a copy of the model and the training images, both on the device.

        Soft labels, where there is training with some, are those of the teacher named, or of the
        model. Folded batch normalisation that is to train gets statistics.
        """
        master = (teacher or model) if any(config.distillation for config in configs) else None
        dataset = data if isinstance(data, Cifar10) else load_cifar10(data, progress=progress)
        target = choose_device(device)
        student = copy.deepcopy(model).to(target)
        training = dataset.split("train45k").to(target)
        states = _states(resume_folder, model, master, recipe, seed)
        if master is not None:
            form = memory_format_for(master)
            master = copy.deepcopy(master).to(device=target, memory_format=form)  # type: ignore[call-overload]
            master = master.eval().requires_grad_(False)
        if folded_batch_norms(student) and any(config.trains_batch_norm for config in configs):
            generator = torch.Generator().manual_seed(seed)
            drawn = training_batches(training, min(256, len(training.labels)), 32, generator)
            unfold_batch_norms_(student, (inputs for inputs, _ in itertools.islice(drawn, 8)))
        return _Run(student, training, master, states, progress)

    def prune_(self, recipe: PruningConfig, seed: int) -> None:
        prune_(self.student, recipe, self.training, seed=seed, **self._settings("prune.pt"))

    def quantize_(
        self, recipe: QuantizationConfig, seed: int, *, state: str = "share.pt"
    ) -> dict[str, CompressedTensor]:
        """Symbols and levels of all weights but those that the recipe keeps, on the CPU."""
        names = tuple(select_weights(self.student))
        settings = self._settings(state)
        shared = quantize_(self.student, names, recipe, self.training, seed=seed, **settings)
        return _on_cpu(shared)

    def _settings(self, state: str) -> dict[str, Any]:
        checkpoint = None if self.states is None else self.states / state
        return {"teacher": self.teacher, "checkpoint": checkpoint, "progress": self.progress}


def _states(
    folder: Path | None,
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe | PruningConfig,
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
