"""Masks from weights. True keeps a weight, False prunes it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.errors import ModelError

__all__ = ["global_magnitude_masks"]


def global_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Prune the smallest magnitudes of all tensors together, under one threshold.

    ``sparsity`` is the fraction of all weights to prune, from 0 to 1; exactly
    ``round(sparsity · N)`` of N weights go. Among equal magnitudes the earlier tensor and the
    earlier place in it goes first. Returns a bool mask of the same shape and device per tensor.

    Raises ModelError for a sparsity outside 0…1, no weights at all, or one that is not finite.

    Example:
        >>> w = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([[0.5], [-2.0]])}
        >>> {name: mask.flatten().tolist() for name, mask in global_magnitude_masks(w, 0.5).items()}
        {'a': [True, False], 'b': [False, True]}

    Source: Han et al. 2015, "Learning both weights and connections", with one global threshold.
    """
    if not 0 <= sparsity <= 1:
        raise ModelError(f"sparsity is a fraction from 0 to 1; {sparsity} was asked for")
    if not weights:
        raise ModelError("there are no weights to prune; check the layer patterns of the recipe")
    magnitudes = torch.cat([w.detach().abs().flatten().float() for w in weights.values()])
    if not bool(torch.isfinite(magnitudes).all()):
        raise ModelError("weights hold NaN or infinity and cannot be ranked; repair the checkpoint")
    pruned = round(sparsity * magnitudes.numel())
    order = torch.sort(magnitudes, stable=True).indices
    keep = torch.ones_like(magnitudes, dtype=torch.bool)
    keep[order[:pruned]] = False
    parts = torch.split(keep, [w.numel() for w in weights.values()])
    return {
        name: part.view(weight.shape)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }
