"""Check the arguments of a compression before any work is done with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.batches import (
    Batch,
    Loss,
    evaluating,
    output_tensors,
    run_model,
)
from flyweight.errors import DataError, FlyweightError, ModelError, RecipeError
from flyweight.modules import overrides_by_name, select_weights
from flyweight.recipes import Recipe

__all__ = [
    "Evaluate",
    "check_callable",
    "check_loss",
    "check_recipe_fits",
    "check_training_fits",
    "outputs",
    "score",
]

Evaluate = Callable[[nn.Module], float]
"""A metric of a model; higher is better."""


def check_callable(function: Any, name: str, signature: str) -> None:
    """Raise DataError where an argument is no function.

    Example:
        >>> check_callable(0.9, "evaluate", "evaluate(model) -> float")
        Traceback (most recent call last):
        flyweight.errors.DataError: evaluate is a float; give a function evaluate(model) -> float
    """
    if function is not None and not callable(function):
        raise DataError(f"{name} is a {type(function).__name__}; give a function {signature}")


def outputs(model: nn.Module, batch: Batch) -> Any:
    """Run a model on a batch in evaluation mode, without gradients.

    Raises:
        ModelError: the model fails on the batch, or its outputs cannot be compared.
    """
    with torch.no_grad(), evaluating(model):
        try:
            found = run_model(model, batch)
        except FlyweightError:
            raise
        except Exception as error:  # a user's module may raise anything
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"the model fails on the first batch of data with {type(error).__name__}: "
                f"{reason}; give batches that model(inputs) or model(**batch) takes"
            ) from error
    output_tensors(found)
    return found


def check_loss(model: nn.Module, batch: Batch, loss: Loss) -> None:
    """Raise DataError where the loss of a batch is not a finite scalar with a gradient.

    Raises ModelError where no parameter requires one.

    Example:
        >>> check_loss(nn.Linear(2, 1), torch.ones(3, 2), lambda model, batch: model(batch))
        Traceback (most recent call last):
        flyweight.errors.DataError: loss gives a tensor of shape (3, 1); return a scalar, ...
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("no parameter of the model requires a gradient; unfreeze some to train")
    with evaluating(model):
        try:
            value = loss(model, batch)
        except FlyweightError:
            raise
        except Exception as error:  # a user's function may raise anything
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"loss fails on the first batch of data with {type(error).__name__}: {reason}; "
                "give a function loss(model, batch) -> scalar"
            ) from error
    if not isinstance(value, Tensor):
        raise DataError(
            f"loss gives a {type(value).__name__}; return a scalar tensor that has a gradient"
        )
    if value.numel() != 1:
        raise DataError(
            f"loss gives a tensor of shape {tuple(value.shape)}; return a scalar, its mean() say"
        )
    if not bool(torch.isfinite(value)):
        raise DataError(
            f"loss gives {float(value.detach())} on the first batch of data; give a finite loss"
        )
    if not value.requires_grad:
        raise DataError("loss gives a tensor without a gradient; leave out detach() and no_grad()")


def score(evaluate: Evaluate, model: nn.Module, which: str) -> float:
    """Return the metric of a model in evaluation mode.

    Args:
        evaluate: the metric.
        model: its mode is put back afterwards.
        which: names the model in errors.

    Raises:
        DataError: the metric is no finite number.
    """
    with evaluating(model):
        found = evaluate(model)
    try:
        value = float(found)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"evaluate gives a {type(found).__name__} for {which}; return one number, higher is "
            "better"
        ) from None
    if not math.isfinite(value):
        raise DataError(f"evaluate gives {value} for {which}; return a finite number")
    return value


def check_training_fits(recipe: Recipe, batch: Batch, loss: Loss | None) -> None:
    """Raise RecipeError where a setting of any stage of training has no effect on these data.

    Example:
        >>> from flyweight.pruning import PruningConfig
        >>> from flyweight.training import TrainingConfig
        >>> smooth = TrainingConfig(label_smoothing=0.1)
        >>> recipe = Recipe(pruning=PruningConfig(), retraining=smooth)
        >>> check_training_fits(recipe, {}, None)
        Traceback (most recent call last):
        flyweight.errors.RecipeError: retraining.label_smoothing has no effect on a loss that ...
    """
    own = loss is not None or isinstance(batch, Mapping)
    for stage in ("retraining", "fine_tuning"):
        training = getattr(recipe, stage)
        if own and training in recipe.stages and training.label_smoothing:
            raise RecipeError(
                f"{stage}.label_smoothing has no effect on a loss that is not the default "
                "cross-entropy; set it to 0"
            )


def check_recipe_fits(model: nn.Module, recipe: Recipe) -> None:
    """Raise ModelError where a glob or layer type of a recipe matches nothing in the model.

    Example:
        >>> from flyweight.pruning import PruningConfig
        >>> check_recipe_fits(nn.Linear(2, 2), Recipe(pruning=PruningConfig(include=("conv*",))))
        Traceback (most recent call last):
        flyweight.errors.ModelError: ...'conv*' matches no parameter of the model
    """
    for stage in (recipe.pruning, recipe.quantization, recipe.post_training):
        if stage is None:
            continue
        types = getattr(stage, "layer_types", ())
        weights = select_weights(
            model, include=stage.include, exclude=stage.exclude, layer_types=types
        )
        for overrides in ("overrides", "bits_overrides", "steps"):
            overrides_by_name(model, weights, getattr(stage, overrides, {}))
