"""Rank the elements of tensors by score, and mask the lowest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["check_finite", "check_fraction", "keep_highest", "masks_by_score"]


def check_fraction(sparsity: float) -> None:
    """Raise ModelError unless ``sparsity`` is a fraction from 0 to 1."""
    if not 0 <= sparsity <= 1:
        raise ModelError(f"the sparsity is {sparsity}; give a fraction from 0 to 1")


def check_finite(values: Tensor, *, name: str = "", kind: str = "values") -> None:
    """Raise ModelError if a value is NaN or infinite, and so has no rank.

    Args:
        values: of any shape.
        name: of the tensor, for the error.
        kind: what the values are, in the plural, for the error.

    Example:
        >>> check_finite(torch.tensor([1.0, float("nan")]), name="a", kind="scores")
        Traceback (most recent call last):
        flyweight.errors.ModelError: scores of tensor 'a' hold NaN or infinity, 1 of 2, and ...
    """
    broken = values.numel() - int(torch.isfinite(values).sum())
    if broken:
        of = f" of tensor {name!r}" if name else ""
        raise ModelError(
            f"{kind}{of} hold NaN or infinity, {broken} of {values.numel()}, and cannot be ranked; "
            "lower the learning rate if a training diverged, or repair the checkpoint"
        )


def keep_highest(scores: Tensor, pruned: int) -> Tensor:
    """Mask the ``pruned`` lowest of ``scores``, of any shape; True for all others.

    Of equal scores the earlier is pruned first. The cost is linear in the number of scores.

    Example:
        >>> keep_highest(torch.tensor([3.0, 1.0, 1.0, 2.0]), 1)
        tensor([ True, False,  True,  True])
    """
    flat = scores.flatten()
    if pruned <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if pruned >= flat.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(pruned).values
    keep = flat > threshold
    equal = flat == threshold
    pruned_of_equal = equal.sum() - (flat.numel() - pruned - keep.sum())
    keep |= equal & (equal.cumsum(0) > pruned_of_equal)
    return keep.view(scores.shape)


def masks_by_score(
    scores: Mapping[str, Tensor], sparsity: float, *, kind: str = "scores"
) -> dict[str, Tensor]:
    """Prune the elements of lowest score of all tensors together, under one threshold.

    Of N elements exactly ``round(sparsity · N)`` are pruned. Of equal scores those of the earlier
    tensor, and the earlier in it, are pruned first.

    Args:
        scores: of any shapes and on one device, higher for what matters more.
        sparsity: fraction of all elements to prune, from 0 to 1.
        kind: what the scores are, in the plural, for errors.

    Returns:
        A bool mask for each tensor, of its shape, False where it is pruned.

    Raises:
        ModelError: the sparsity is not from 0 to 1, there are no scores, or one is not finite.

    Example:
        >>> masks = masks_by_score({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])}, 0.6)
        >>> {name: mask.tolist() for name, mask in masks.items()}
        {'a': [True, False], 'b': [False]}
    """
    check_fraction(sparsity)
    if not scores:
        raise ModelError("there are no weights to prune; check include, exclude and layer_types")
    flat = [score.detach().flatten() for score in scores.values()]
    exact = torch.float64 if any(s.dtype == torch.float64 for s in flat) else torch.float32
    pooled = torch.cat([score.to(exact) for score in flat])
    if not bool(torch.isfinite(pooled).all()):
        for name, score in scores.items():
            check_finite(score, name=name, kind=kind)
    keep = keep_highest(pooled, round(sparsity * pooled.numel()))
    parts = torch.split(keep, [score.numel() for score in flat])
    return {
        name: part.view(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }
