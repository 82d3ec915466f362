"""Your own training loop: prepare a model, train it as you like, finalize it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flyweight.batch_norm import check_unfolded
from flyweight.compressed import CompressedModel
from flyweight.errors import CheckpointError, ModelError
from flyweight.modules import select_weights
from flyweight.recipes import (
    PruningConfig,
    Recipe,
    QuantizationConfig,
    load_recipe,
)
from flyweight.pruning import Pruning
from flyweight.quantization import Quantization
from flyweight.modules import check_model
from flyweight.compressed import finish

__all__ = ["Preparation", "QuantizationPreparation", "prepare", "prepare_quantizer_old"]


class Preparation:
    """A model whose layers see pruned weights while you train it; made by `prepare`.

    A moving average of it (`torch.optim.swa_utils.AveragedModel`) keeps the zeros too: load its
    state into ``model`` before `finalize`.

    Attributes:
        model: to be trained, by any optimiser, on any device and wrapped in whatever is liked.
        number: how many steps were made.

    Example:
        >>> recipe = PruningConfig(sparsity=0.5, schedule="one-shot")
        >>> first, second = (prepare(nn.Linear(8, 4), recipe, steps=10) for _ in "ab")
        >>> first.step()
        >>> second.model.load_state_dict(first.model.state_dict())
        <All keys matched successfully>
        >>> second.load_state_dict(first.state_dict())
        >>> second.number, second.sparsity
        (1, 0.5)
    """

    def __init__(self, model: nn.Module, pruning: Pruning) -> None:
        self.model = model
        self.number = 0
        self._pruning: Pruning | None = pruning

    @property
    def _open(self) -> Pruning:
        if self._pruning is None:
            raise ModelError("this preparation was finalized; prepare the model again")
        return self._pruning

    def step(self) -> None:
        """Tell that the optimiser made a step; the masks follow the schedule."""
        pruning = self._open
        self.number += 1
        pruning.at(self.number)

    @property
    def sparsity(self) -> float:
        """Fraction of the chosen weights that are zero for the layers now."""
        return self._open.sparsity

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """A copy of the masks, bool and of the shape of each weight, by its name."""
        return self._open.chosen

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; to be saved beside the states of model and optimiser."""
        return {"step": self.number, **self._open.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was saved.

        Raises CheckpointError where it is of another model or recipe, or no state.
        """
        pruning, step = self._open, _step_of(state)
        pruning.load_state_dict(state)
        pruning.resume(step)
        self.number = step

    def finalize(self) -> nn.Module:
        """Leave plain weights with exact zeros in ``model``, and return it.

        Warns where the sparsity reached is not what was asked for, after too few steps say.
        """
        self._open.finish_()
        self._pruning = None
        return self.model


def _step_of(state: Any) -> int:
    step = state.get("step") if isinstance(state, Mapping) else None
    if not isinstance(step, int) or step < 0:
        raise CheckpointError(
            "this is not the state of a preparation, which has the number of its step; give what "
            "state_dict() returned"
        )
    return step


def prepare(
    model: nn.Module,
    recipe: PruningConfig | Recipe | str | Path = "quick",
    *,
    steps: int,
    epochs: int = 0,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
    seed: int = 0,
) -> Preparation:
    """Get a copy of ``model`` ready to be pruned in your own training loop; ``model`` stays.

    Weights that are zero stay so, those of layers that the recipe leaves as they are included.

    Arguments:
        model: any module.
        recipe: what to prune, and when; of a `Recipe` the pruning. What it says of training is
            left to you.
        steps: that the optimiser will make.
        epochs: in these steps; needed where the recipe counts in epochs.
        batches: gives calibration batches (inputs, targets) for saliency, as often as called, on
            any device.
        seed: of what is pruned at random.

    Raises ModelError where there is nothing to prune or would be nothing left, RecipeError where
    there is no such recipe, DataError where ``batches`` gives none.

    Example:
        >>> import torch
        >>> prepared = prepare(nn.Linear(8, 4), PruningConfig(sparsity=0.5), steps=10)
        >>> optimizer = torch.optim.AdamW(prepared.model.parameters())
        >>> for _ in range(10):
        ...     prepared.model(torch.randn(2, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     prepared.step()
        >>> int((prepared.finalize().weight == 0).sum())
        16
    """
    if steps < 1:
        raise ModelError(f"a run has at least one step; found {steps}")
    recipe = load_recipe(recipe).pruning
    check_model(model)
    check_unfolded(model)
    copied = copy.deepcopy(model)
    pruning = Pruning(copied, recipe, steps=steps, epochs=epochs, batches=batches, seed=seed)
    pruning.at(0)
    return Preparation(copied, pruning)


class QuantizationPreparation:
    """A model whose layers see few values while you train it; made by `prepare_quantizer_old`.

    Attributes:
        model: to be trained, by any optimiser, on any device and wrapped in whatever is liked.
        number: how many steps were made.
    """

    def __init__(self, model: nn.Module, quantization: Quantization, recipe: Recipe) -> None:
        self.model = model
        self.number = 0
        self._recipe = recipe
        self._quantization: Quantization | None = quantization

    @property
    def _open(self) -> Quantization:
        if self._quantization is None:
            raise ModelError("this preparation was finalized; prepare the model again")
        return self._quantization

    def step(self) -> None:
        """Tell that the optimiser made a step; bits and shared values follow the recipe."""
        quantization = self._open
        self.number += 1
        quantization.at(self.number)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; to be saved beside the states of model and optimiser."""
        return {"step": self.number, **self._open.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was saved, after the state of the model was loaded.

        Raises CheckpointError where it is of another model or recipe, of a model with other zeros,
        or no state.
        """
        quantization, step = self._open, _step_of(state)
        quantization.load_state_dict(state)
        quantization.resume(step)
        self.number = step

    def finalize(self) -> CompressedModel:
        """The compressed model, for `save`; ``model`` is left with plain weights of few values.

        Raises ModelError where a zero was lost.
        """
        compressed = self._open.finish_()
        self._quantization = None
        return finish(copy.deepcopy(self.model), compressed, self._recipe, metadata={})


def prepare_quantizer_old(
    model: nn.Module,
    recipe: QuantizationConfig | Recipe | str | Path = "quick",
    *,
    steps: int,
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
    seed: int = 0,
) -> QuantizationPreparation:
    """Get a copy of ``model`` ready to be quantised in your own training loop; ``model`` stays.

    Weights that are zero stay so: prune before, finalize, and go on with what that gives.

    Arguments:
        model: any module.
        recipe: how its weights of two and more dimensions take few values; of a `Recipe` the
            sharing, and how other tensors are kept. What it says of training is left to you.
        steps: that the optimiser will make.
        batches: gives calibration batches (inputs, targets), where the recipe's ``importance`` is
            "fisher".
        seed: of k-means, where its start is drawn.

    Raises ModelError where there is nothing to quantise, RecipeError where there is no such recipe.

    Example:
        >>> import torch
        >>> recipe = QuantizationConfig(scheme="learned-step", bits=3)
        >>> prepared = prepare_quantizer_old(nn.Linear(8, 4), recipe, steps=10)
        >>> optimizer = torch.optim.SGD(prepared.model.parameters(), 0.1)
        >>> for _ in range(10):
        ...     prepared.model(torch.randn(2, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     prepared.step()
        >>> compressed = prepared.finalize()
        >>> len(compressed["weight"].levels) <= 8
        True
    """
    if steps < 1:
        raise ModelError(f"a run has at least one step; found {steps}")
    recipe = load_recipe(recipe)
    check_model(model)
    check_unfolded(model)
    copied = copy.deepcopy(model)
    names = select_weights(copied)
    quantization = Quantization(
        copied, names, recipe.sharing, steps=steps, batches=batches, seed=seed
    )
    return QuantizationPreparation(copied, quantization, recipe)
