"""Saliency: estimate from calibration data how much the loss depends on each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from flyweight.batches import (
    Batch,
    Batches,
    Loss,
    default_loss,
    evaluating,
    examples_in,
    split_batch,
    to_device,
)
from flyweight.errors import DataError, ModelError

__all__ = ["fisher_information", "reached_weights", "saliency_scores"]


def saliency_scores(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    data: Batches,
    *,
    criterion: Literal["taylor", "fisher"] = "taylor",
    loss: Loss = default_loss,
) -> dict[str, Tensor]:
    """Score each weight by an estimate of how much the loss would rise if it were 0.

    "taylor" is the mean over the batches of (g·w)², with g the gradient of the batch's loss: first
    order, and one backward pass per batch. "fisher" is ½·w²·E[g²] with g the gradient of the loss
    of one example: optimal brain damage with the diagonal of the empirical Fisher matrix in place
    of the Hessian's, and one backward pass per example.

    Args:
        model: is in evaluation mode while it is scored, and not changed.
        weights: parameters of ``model`` to score, by name.
        data: batches of some hundreds of training examples.
        criterion: "taylor" or "fisher".
        loss: ``loss(model, batch)``, the mean over the examples of the batch.

    Returns:
        Scores of the shape of each weight for `masks_by_score`, float32 or, of such weights,
        float64.

    Raises:
        DataError: there are no batches.
        ModelError: a weight is frozen, the loss of no batch depends on it, or the criterion is
            unknown.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> scores = saliency_scores(layer, {"weight": layer.weight}, [batch])
        >>> (scores["weight"] > 0).tolist()  # the second input is 0
        [[True, False], [True, False]]

    Sources: LeCun et al. 1990, "Optimal brain damage"; Molchanov et al. 2019, "Importance
    estimation for neural network pruning", eq. 8; Singh & Alistarh 2020, "WoodFisher", §3.
    """
    if criterion not in ("taylor", "fisher"):
        raise ModelError(f"the criterion {criterion!r} is unknown; known are taylor, fisher")
    size = 1 if criterion == "fisher" else None
    squares = _mean_squares(model, weights, data, loss, size)
    factor = 0.5 if criterion == "fisher" else 1.0
    return {
        name: factor * weights[name].detach().to(square.dtype) ** 2 * square
        for name, square in squares.items()
    }


def fisher_information(
    model: nn.Module, weights: Mapping[str, Tensor], data: Batches, *, loss: Loss = default_loss
) -> dict[str, Tensor]:
    """Estimate the diagonal of the empirical Fisher matrix: E[g²] of each weight.

    g is the gradient of the loss of one example. To second order E[g²] is what an error of the
    weight costs, which k-means weight sharing takes as its importance. Arguments, errors, and the
    shapes and types returned are those of `saliency_scores`.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> fisher = fisher_information(layer, {"weight": layer.weight}, [batch])
        >>> (fisher["weight"] > 0).tolist()
        [[True, False], [True, False]]
    """
    return _mean_squares(model, weights, data, loss, 1)


def reached_weights(
    model: nn.Module, weights: Mapping[str, Tensor], data: Batches, *, loss: Loss = default_loss
) -> dict[str, Tensor]:
    """Return those of the weights, by name, that the loss of some batch depends on.

    The others have no score: those of a head that is used in training only, or of an expert that
    no example is routed to. Arguments and errors are those of `saliency_scores`.

    Example:
        >>> model = nn.ModuleDict({"used": nn.Linear(2, 2), "spare": nn.Linear(2, 2)})
        >>> model.forward = model["used"].forward
        >>> weights = {name: parameter for name, parameter in model.named_parameters()}
        >>> [*reached_weights(model, weights, [(torch.ones(1, 2), torch.tensor([0]))])]
        ['used.weight', 'used.bias']
    """
    found: set[str] = set()
    with evaluating(model):
        for batch in data:
            if len(found) == len(weights):
                break
            found |= _gradients(model, weights, batch, loss).keys()
    return {name: weight for name, weight in weights.items() if name in found}


def _mean_squares(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    data: Batches,
    loss: Loss,
    size: int | None,
) -> dict[str, Tensor]:
    """Return the mean squared gradient of the loss of ``size`` examples (None: of a batch)."""
    squares = {
        name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for name, weight in weights.items()
    }
    number = 0
    reached: set[str] = set()
    with evaluating(model):
        for batch in data:
            for part in split_batch(batch, size or max(1, examples_in(batch))):
                number += 1
                gradients = _gradients(model, weights, part, loss)
                reached |= gradients.keys()
                for name, gradient in gradients.items():
                    squares[name] += gradient.to(squares[name].dtype) ** 2
    if not number:
        raise DataError("there are no calibration batches to score the weights with; give data")
    for name in weights:
        if name not in reached:
            raise ModelError(f"the loss does not depend on {name!r}; exclude it")
    return {name: total / number for name, total in squares.items()}


def _gradients(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss
) -> dict[str, Tensor]:
    """Return the gradients by name, of those weights that the loss of a batch depends on."""
    device = None
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise ModelError(f"tensor {name!r} is frozen and has no gradient; exclude it")
        device = weight.device
    with torch.enable_grad():
        value: object = loss(model, batch if device is None else to_device(batch, device))
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise ModelError(
            f"the loss gives a {type(value).__name__}{shape}, not a scalar tensor; return the mean "
            "over the batch"
        )
    try:
        gradients = torch.autograd.grad(value, [*weights.values()], allow_unused=True)
    except RuntimeError as error:
        raise ModelError(f"the loss has no gradient by these weights: {error}") from error
    found: dict[str, Tensor | None] = dict(zip(weights, gradients, strict=True))
    return {name: gradient for name, gradient in found.items() if gradient is not None}
