"""Masks of weights by magnitude or at random. True for the weights that stay.

The definitions are those of common course exercises: by percentile of a layer, by its standard
deviation, and by one threshold for all layers.
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
    """Prune the weights whose magnitude is at or below the ``q``-th percentile of all magnitudes.

    Between two magnitudes the percentile is interpolated linearly, as in `numpy.percentile`: of N
    weights ``floor(q/100 · (N − 1)) + 1`` are pruned, and none for q = 0. Of magnitudes equal to
    the percentile the earlier are pruned, as many as if all were distinct. A sparsity, as
    `global_magnitude_masks` and `PruningConfig` take it, counts ``round(s · N)``, which differs by
    one at most.

    Args:
        weight: of any shape.
        q: percentile in per cent, from 0, which prunes nothing, to 100, which prunes all.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: q is not from 0 to 100, or a weight is not finite.

    Example:
        >>> percentile_mask(torch.tensor([0.1, -0.4, 0.3, 0.2]), 50)
        tensor([False,  True,  True, False])

    Source: Han et al. 2015, "Learning both weights and connections", §3.1, with the threshold set
    by its percentile.
    """
    if not 0 <= q <= 100:
        raise ModelError(f"the percentile is {q}; give one from 0 to 100 per cent")
    check_finite(weight, kind="weights")
    place = q / 100 * (weight.numel() - 1)
    nearest = round(place)
    below = nearest if abs(place - nearest) < 1e-9 * max(1.0, place) else math.floor(place)
    pruned = min(below + 1, weight.numel()) if q > 0 else 0
    return keep_highest(weight.detach().abs(), pruned)


def std_mask(weight: Tensor, sensitivity: float) -> Tensor:
    """Prune the weights whose magnitude is below ``sensitivity`` standard deviations.

    The standard deviation is that of the signed weights, over the population: of Gaussian weights
    a sensitivity of 1 prunes 68.27 %.

    Args:
        weight: of any shape.
        sensitivity: number of standard deviations, from 0.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: the sensitivity is below 0 or not finite, or a weight is not finite.

    Example:
        >>> std_mask(torch.tensor([-2.0, 0.0, 0.5, 2.0]), 1)
        tensor([ True, False, False,  True])

    Source: Han et al. 2015, "Learning both weights and connections", §3.1: "a quality parameter
    multiplied by the standard deviation of a layer's weights".
    """
    if not (sensitivity >= 0 and math.isfinite(sensitivity)):
        raise ModelError(f"the sensitivity is {sensitivity}; give a finite number from 0")
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
    """Prune weights at random, as a baseline for other criteria.

    Args:
        weight: of any shape.
        sparsity: fraction from 0 to 1; of N weights exactly ``round(sparsity · N)`` are pruned.
        generator: on the CPU, so that every device gives the same mask.

    Returns:
        A bool mask of the shape of ``weight``, False where it is pruned.

    Raises:
        ModelError: the sparsity is not from 0 to 1.

    Example:
        >>> int(random_mask(torch.ones(4, 5), 0.25).sum())
        15
    """
    drawn = torch.rand(weight.shape, generator=generator)  # as the criterion "random" does
    return masks_by_score({"": drawn}, sparsity)[""].to(weight.device)


def global_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Prune the smallest magnitudes of all tensors together, under one threshold.

    Of N weights exactly ``round(sparsity · N)`` are pruned: within one of the number at and below
    the percentile that `numpy.percentile` gives. Of equal magnitudes those of the earlier tensor,
    and the earlier in it, are pruned first.

    Args:
        weights: tensors by name.
        sparsity: fraction of all weights to prune, from 0 to 1.

    Returns:
        A bool mask for each tensor, of its shape, False where it is pruned.

    Raises:
        ModelError: the sparsity is not from 0 to 1, there are no weights, or one is not finite.

    Example:
        >>> w = {"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([[0.5], [-2.0]])}
        >>> {name: mask.flatten().tolist() for name, mask in global_magnitude_masks(w, 0.5).items()}
        {'a': [True, False], 'b': [False, True]}

    Source: Han et al. 2015, "Learning both weights and connections", with one global threshold.
    """
    magnitudes = {name: weight.detach().abs() for name, weight in weights.items()}
    return masks_by_score(magnitudes, sparsity, kind="weights")
