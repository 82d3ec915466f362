"""How much the loss depends on each weight: scores beyond magnitude, from a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.errors import DataError, ModelError
from flyweight.batches import evaluating

__all__ = ["Loss", "fisher_information", "reached_weights", "saliency_scores"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch, given what the network makes of the inputs, and the targets."""


def saliency_scores(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    criterion: Literal["taylor", "fisher"] = "taylor",
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    """Score of each weight: about how much the loss would rise if it were 0.

    "taylor" is the mean over the batches of (g·w)², g being the gradient of the batch's mean loss:
    first order, and the cheaper. "fisher" is ½·w²·E[g²] with g the gradient of the loss of one
    example: the diagonal of the empirical Fisher matrix in place of the Hessian's, as optimal brain
    damage has it; it takes one backward pass for each example.

    Arguments:
        model: stays as it was, in evaluation mode while it is scored.
        weights: parameters of ``model`` to score, by name.
        batches: pairs of inputs (N×…) and targets (N×…) on the device of the model; some hundreds
            of training examples will do.
        criterion: "taylor" or "fisher".
        loss: mean loss of a batch.

    Returns float32 scores (float64 for such weights) of the shape of each weight, to be given to
    `masks_by_score`.

    Raises DataError where there are no batches, ModelError where a weight is frozen, the loss of no
    batch depends on it, or the criterion is unknown.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> scores = saliency_scores(layer, {"weight": layer.weight}, [batch])
        >>> (scores["weight"] > 0).tolist()  # nothing passes through the second column
        [[True, False], [True, False]]

    Sources: LeCun et al. 1990, "Optimal brain damage"; Molchanov et al. 2019, "Importance
    estimation for neural network pruning", eq. 8; Singh & Alistarh 2020, "WoodFisher", §3.
    """
    if criterion not in ("taylor", "fisher"):
        raise ModelError(f"the criterion {criterion!r} is unknown; known are taylor, fisher")
    size = 1 if criterion == "fisher" else None
    squares = _mean_squares(model, weights, batches, loss, size)
    half = 0.5 if criterion == "fisher" else 1.0
    return {
        name: half * weights[name].detach().to(square.dtype) ** 2 * square
        for name, square in squares.items()
    }


def fisher_information(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    """E[g²] of each weight, g being the gradient of the loss of one example.

    The diagonal of the empirical Fisher matrix: how much an error of each weight costs, to second
    order, for `share`. Arguments and errors are those of `saliency_scores`; so are the shapes and
    types returned.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
        >>> found = fisher_information(layer, {"weight": layer.weight}, [batch])
        >>> (found["weight"] > 0).tolist()
        [[True, False], [True, False]]
    """
    return _mean_squares(model, weights, batches, loss, 1)


def reached_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: Loss = F.cross_entropy,
) -> dict[str, Tensor]:
    """Those of the weights, by name, that the loss of some batch depends on.

    Others have no score: a head that takes part in training only, an expert that no example is sent
    to. Arguments and errors are those of `saliency_scores`.

    Example:
        >>> model = nn.ModuleDict({"used": nn.Linear(2, 2), "spare": nn.Linear(2, 2)})
        >>> model.forward = model["used"].forward
        >>> weights = {name: parameter for name, parameter in model.named_parameters()}
        >>> [*reached_weights(model, weights, [(torch.ones(1, 2), torch.tensor([0]))])]
        ['used.weight', 'used.bias']
    """
    found: set[str] = set()
    with evaluating(model):
        for inputs, targets in batches:
            if len(found) == len(weights):
                break
            found |= _gradients(model, weights, inputs, targets, loss).keys()
    return {name: weight for name, weight in weights.items() if name in found}


def _mean_squares(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss,
    size: int | None,
) -> dict[str, Tensor]:
    """Mean squared gradient of the mean loss of ``size`` examples (None: of a batch)."""
    squares = {
        name: torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for name, weight in weights.items()
    }
    number = 0
    reached: set[str] = set()
    with evaluating(model):
        for inputs, targets in batches:
            each = size or max(1, len(inputs))
            pieces = zip(torch.split(inputs, each), torch.split(targets, each), strict=True)
            for few, wanted in pieces:
                number += 1
                gradients = _gradients(model, weights, few, wanted, loss)
                reached |= gradients.keys()
                for name, gradient in gradients.items():
                    squares[name] += gradient.to(squares[name].dtype) ** 2
    if not number:
        raise DataError("there are no calibration batches to score the weights with")
    for name in weights:
        if name not in reached:
            raise ModelError(f"the loss does not depend on {name!r}; leave it out")
    return {name: total / number for name, total in squares.items()}


def _gradients(
    model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, targets: Tensor, loss: Loss
) -> dict[str, Tensor]:
    """By name, of the weights that the loss depends on."""
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise ModelError(f"tensor {name!r} is frozen and has no gradient; leave it out")
    with torch.enable_grad():
        value = loss(model(inputs), targets)
    try:
        gradients = torch.autograd.grad(value, [*weights.values()], allow_unused=True)
    except RuntimeError as error:
        raise ModelError(f"the loss has no gradient by these weights: {error}") from error
    found: dict[str, Tensor | None] = dict(zip(weights, gradients, strict=True))
    return {name: gradient for name, gradient in found.items() if gradient is not None}
