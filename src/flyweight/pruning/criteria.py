"""Masks from the weights of a tensor, or of several. True keeps a weight, False prunes it.

The definitions are those of the usual course exercise: per layer by percentile, per layer by
standard deviation, and under one threshold for all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.pruning.ranking import check_finite, keep_highest, masks_by_score

__all__ = ["global_magnitude_masks", "percentile_mask", "random_mask", "std_mask"]


def percentile_mask(weight: Tensor, q: float) -> Tensor:
    """Keep the weights whose magnitude is above the ``q``-th percentile of all magnitudes.

    ``q`` is in per cent, from 0 (prunes nothing) to 100 (prunes all); between two magnitudes the
    percentile is interpolated linearly, as in `numpy.percentile`: of N weights
    ``floor(q/100 · (N − 1)) + 1`` go, within one of q per cent. Among magnitudes equal to it the
    earlier ones go, as many as if all were distinct. (A sparsity, as `global_magnitude_masks` and
    recipes have it, is counted otherwise: ``round(s · N)`` go, which is at most one fewer or more.)

    ``weight`` has any shape. Raises ModelError for q outside 0…100 and for values that are not
    finite.

    Example:
        >>> percentile_mask(torch.tensor([0.1, -0.4, 0.3, 0.2]), 50)
        tensor([False,  True,  True, False])

    Source: Han et al. 2015, "Learning both weights and connections", §3.1, with the threshold set
    by its percentile.
    """
    if not 0 <= q <= 100:
        raise ModelError(f"a percentile is from 0 to 100 per cent; {q} was asked for")
    check_finite(weight, kind="weights")
    place = q / 100 * (weight.numel() - 1)
    nearest = round(place)
    below = nearest if abs(place - nearest) < 1e-9 * max(1.0, place) else math.floor(place)
    pruned = min(below + 1, weight.numel()) if q > 0 else 0
    return keep_highest(weight.detach().abs(), pruned)


def std_mask(weight: Tensor, sensitivity: float) -> Tensor:
    """Keep the weights of magnitude ``sensitivity`` standard deviations and more.

    The standard deviation is that of the signed weights, over the population: on Gaussian weights
    a sensitivity of 1 prunes 68.27 %. ``weight`` has any shape.

    Raises ModelError for a sensitivity below 0 and for values that are not finite.

    Example:
        >>> std_mask(torch.tensor([-2.0, 0.0, 0.5, 2.0]), 1)
        tensor([ True, False, False,  True])

    Source: Han et al. 2015, "Learning both weights and connections", §3.1: "a quality parameter
    multiplied by the standard deviation of a layer's weights".
    """
    if not (sensitivity >= 0 and math.isfinite(sensitivity)):
        raise ModelError(f"a sensitivity is a number from 0 on; {sensitivity} was asked for")
    check_finite(weight, kind="weights")
    weight = weight.detach()
    if not weight.numel():
        return torch.ones_like(weight, dtype=torch.bool)
    # In double precision: a threshold at zero deviation is exactly 0, and prunes nothing.
    threshold = sensitivity * weight.double().std(correction=0)
    return weight.double().abs() >= threshold


def random_mask(
    weight: Tensor, sparsity: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Prune weights at random: the baseline that every criterion has to beat.

    ``sparsity`` is the fraction to prune, from 0 to 1; exactly ``round(sparsity · N)`` of N
    weights go. ``generator`` is one of the CPU, so that every device gives the same mask.

    Raises ModelError for a sparsity outside 0…1.

    Example:
        >>> int(random_mask(torch.ones(4, 5), 0.25).sum())
        15
    """
    drawn = torch.rand(weight.shape, generator=generator)  # as a recipe's criterion "random" does
    return masks_by_score({"": drawn}, sparsity)[""].to(weight.device)


def global_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Prune the smallest magnitudes of all tensors together, under one threshold.

    ``sparsity`` is the fraction of all weights to prune, from 0 to 1; exactly
    ``round(sparsity · N)`` of N weights go, at most one fewer or more than are at and below the
    percentile that `numpy.percentile` gives. Among equal magnitudes the earlier tensor and the
    earlier place in it goes first. Returns a bool mask of the same shape and device per tensor.

    Raises ModelError for a sparsity outside 0…1, no weights at all, or one that is not finite.

    Example:
        >>> w = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([[0.5], [-2.0]])}
        >>> {name: mask.flatten().tolist() for name, mask in global_magnitude_masks(w, 0.5).items()}
        {'a': [True, False], 'b': [False, True]}

    Source: Han et al. 2015, "Learning both weights and connections", with one global threshold.
    """
    magnitudes = {name: weight.detach().abs() for name, weight in weights.items()}
    return masks_by_score(magnitudes, sparsity, kind="weights")
