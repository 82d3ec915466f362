"""Proximal operators of penalties that are sums over single weights.

The operator of a penalty P gives, for weights v that a gradient step has reached, the minimiser of

    ½·‖w − v‖² + step·P(w)

``values`` are v, a tensor of any shape and floating-point type; what comes back is w, of the same
shape, type and device, with exact zeros (never −0.0). ``strength`` is λ, in units of the loss per
unit of weight unless said otherwise, and ``step`` the step size of the gradient step; the threshold
is their product. A ``step`` of the shape of ``values`` gives the operator in the diagonal metric
½·Σ(wᵢ − vᵢ)²/stepᵢ, which is what optimisers such as Adam need. NaN stays NaN.

Every function raises ModelError for a number that is negative or infinite, and for values that are
no floats.

Source: Parikh & Boyd 2014, "Proximal algorithms", §6; of each penalty below.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.proximal.checks import (
    Step,
    check_penalty,
    kept,
    threshold_of,
)
from flyweight.pruning.ranking import check_finite, keep_highest

__all__ = ["elastic_net", "hard_threshold", "mcp", "scad", "soft_threshold", "trimmed_l1"]


def soft_threshold(values: Tensor, strength: float, *, step: Step = 1.0) -> Tensor:
    """Proximal operator of λ·‖w‖₁: each value moves to zero by step·λ, and stays there.

    Example:
        >>> soft_threshold(torch.tensor([-2.0, 0.5, 1.5]), 1.0)
        tensor([-1.0000,  0.0000,  0.5000])

    Source: Donoho 1995, "De-noising by soft-thresholding"; Daubechies et al. 2004.
    """
    check_penalty(values, step, strength=strength)
    threshold = threshold_of(values, strength, step)
    return values - values.clamp(-threshold, threshold) + 0.0


def hard_threshold(values: Tensor, strength: float, *, step: Step = 1.0) -> Tensor:
    """Proximal operator of λ·‖w‖₀: values of magnitude √(2·step·λ) and less go, others stay.

    ``strength`` is in units of the loss for each weight that is not zero.

    Example:
        >>> hard_threshold(torch.tensor([-2.0, 0.5, 1.5]), 0.5)
        tensor([-2.0000,  0.0000,  1.5000])

    Source: Blumensath & Davies 2008, "Iterative thresholding for sparse approximations", §3.
    """
    check_penalty(values, step, strength=strength)
    threshold = threshold_of(values, 2 * strength, step).sqrt()
    return kept(values, ~(values.abs() <= threshold))


def elastic_net(values: Tensor, strength: float, *, ridge: float, step: Step = 1.0) -> Tensor:
    """Proximal operator of λ·‖w‖₁ + ½·ridge·‖w‖²: soft threshold, then a shrinking by a factor.

    ``ridge`` is in units of the loss per unit of weight squared.

    Example:
        >>> elastic_net(torch.tensor([-3.0, 0.5]), 1.0, ridge=1.0)
        tensor([-1.,  0.])

    Source: Zou & Hastie 2005, "Regularization and variable selection via the elastic net".
    """
    check_penalty(values, step, strength=strength, ridge=ridge)
    return soft_threshold(values, strength, step=step) / (1 + threshold_of(values, ridge, step))


def trimmed_l1(values: Tensor, strength: float, *, nonzeros: int, step: Step = 1.0) -> Tensor:
    """Proximal operator of λ times the sum of all magnitudes but the ``nonzeros`` largest.

    Those that are spared are the largest of ``values`` itself, which makes this exact; choosing
    them on the weights before the gradient step does not (and finds wrong supports). Among equal
    magnitudes the later place is spared. With a step for each weight, those are spared on which
    the penalty would cost most.

    Raises ModelError also for ``nonzeros`` below 0 and for values that are not finite.

    Example:
        >>> trimmed_l1(torch.tensor([-2.0, 0.5, 1.5]), 1.0, nonzeros=1)
        tensor([-2.0000,  0.0000,  0.5000])

    Source: Yun et al. 2019, "Trimming the ℓ1 regularizer", §2.
    """
    if nonzeros < 0:
        raise ModelError(f"the weights without penalty are 0 and more; got {nonzeros}")
    soft = soft_threshold(values, strength, step=step)
    check_finite(values)
    cost = values.abs()
    if isinstance(step, Tensor):
        distance = (values - soft).square() / (2 * step)
        cost = torch.where(step > 0, distance, 0.0) + strength * soft.abs()
    spared = keep_highest(cost, values.numel() - nonzeros)
    return torch.where(spared, values, soft) + 0.0


def scad(values: Tensor, strength: float, *, a: float = 3.7, step: Step = 1.0) -> Tensor:
    """Proximal operator of SCAD: as λ·‖w‖₁ up to λ, then flatter, and constant from a·λ on.

    The derivative of the penalty is λ up to |w| = λ, (a·λ − |w|)/(a − 1) up to a·λ, and 0 beyond:
    large weights are not shrunk. ``strength`` is λ, here also in units of the weights; ``a`` is a
    number above 2.

    Example:
        >>> scad(torch.tensor([0.5, 1.5, 3.0, -5.0]), 1.0)
        tensor([ 0.0000,  0.5000,  2.5882, -5.0000])

    Source: Fan & Li 2001, "Variable selection via nonconcave penalized likelihood", eq. 2.8.
    """
    if not (math.isfinite(a) and a > 2):
        raise ModelError(f"a of SCAD is a finite number above 2; got {a}")
    soft = soft_threshold(values, strength, step=step)
    steps = threshold_of(values, 1.0, step)
    size = values.abs()
    # Between λ and a·λ the objective is convex for steps below a − 1 and has one minimum there.
    width = torch.where(steps < a - 1, a - 1 - steps, 1.0)
    middle = values.sign() * ((a - 1) * size - steps * a * strength) / width
    smooth = torch.where(size <= strength * (1 + steps), soft, middle)
    smooth = torch.where(size > a * strength, values, smooth)
    # For longer steps it is concave, and the minimum is at one of two places.
    near = soft.abs().clamp(max=strength)
    far = size.clamp(min=a * strength)
    cost_near = (size - near).square() / 2 + steps * strength * near
    cost_far = (size - far).square() / 2 + steps * strength**2 * (a + 1) / 2
    concave = values.sign() * torch.where(cost_near <= cost_far, near, far)
    return torch.where(steps < a - 1, smooth, concave) + 0.0


def mcp(values: Tensor, strength: float, *, gamma: float = 3.0, step: Step = 1.0) -> Tensor:
    """Proximal operator of the minimax concave penalty: constant from gamma·λ on.

    The derivative of the penalty falls from λ at 0 to 0 at |w| = gamma·λ, by a straight line.
    ``strength`` is λ, here also in units of the weights; ``gamma`` is a number above 0.

    Example:
        >>> mcp(torch.tensor([0.5, 1.5, -2.0, 4.0]), 1.0)
        tensor([ 0.0000,  0.7500, -1.5000,  4.0000])

    Source: Zhang 2010, "Nearly unbiased variable selection under minimax concave penalty", §2.
    """
    if not (math.isfinite(gamma) and gamma > 0):
        raise ModelError(f"gamma of the minimax concave penalty is above 0; got {gamma}")
    soft = soft_threshold(values, strength, step=step)
    steps = threshold_of(values, 1.0, step)
    size = values.abs()
    convex = steps < gamma
    firm = soft / torch.where(convex, 1 - steps / gamma, 1.0)
    firm = torch.where(size > gamma * strength, values, firm)
    hard = kept(values, ~(size <= strength * (gamma * steps).sqrt()))
    return torch.where(convex, firm, hard) + 0.0
