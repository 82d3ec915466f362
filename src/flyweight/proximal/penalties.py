"""Proximal operators of penalties that are sums over single weights.

The operator of a penalty P returns, for weights v after a gradient step, the minimizer of

    ½·‖w − v‖² + step·P(w)

``values`` are v, a tensor of any shape and floating-point type; the result is w, of the same shape,
type and device, with exact zeros (never −0.0). ``strength`` is λ, in units of the loss per unit of
weight unless stated otherwise, and ``step`` the size of the gradient step; the threshold is their
product. A ``step`` of the shape of ``values`` gives the operator in the diagonal metric
½·Σ(wᵢ − vᵢ)²/stepᵢ, which optimizers such as Adam need. NaN stays NaN.

Every function raises ModelError for a number that is negative or infinite, and for values that are
not floats.

Sources: Parikh & Boyd 2014, "Proximal algorithms", §6; and those of each penalty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flyweight.errors import ModelError
from flyweight.proximal.checks import (
    Step,
    check_penalty,
    masked,
    threshold_of,
)
from flyweight.pruning import check_finite, keep_highest

__all__ = ["elastic_net", "hard_threshold", "mcp", "scad", "soft_threshold", "trimmed_l1"]


def soft_threshold(values: Tensor, strength: float, *, step: Step = 1.0) -> Tensor:
    """Apply the proximal operator of λ·‖w‖₁: move each value toward 0 by step·λ, at most to 0.

    Example:
        >>> soft_threshold(torch.tensor([-2.0, 0.5, 1.5]), 1.0)
        tensor([-1.0000,  0.0000,  0.5000])

    Source: Donoho 1995, "De-noising by soft-thresholding"; Daubechies et al. 2004.
    """
    check_penalty(values, step, strength=strength)
    threshold = threshold_of(values, strength, step)
    return values - values.clamp(-threshold, threshold) + 0.0


def hard_threshold(values: Tensor, strength: float, *, step: Step = 1.0) -> Tensor:
    """Apply the proximal operator of λ·‖w‖₀: set values of magnitude up to √(2·step·λ) to 0.

    ``strength`` is in units of the loss per non-zero weight.

    Example:
        >>> hard_threshold(torch.tensor([-2.0, 0.5, 1.5]), 0.5)
        tensor([-2.0000,  0.0000,  1.5000])

    Source: Blumensath & Davies 2008, "Iterative thresholding for sparse approximations", §3.
    """
    check_penalty(values, step, strength=strength)
    threshold = threshold_of(values, 2 * strength, step).sqrt()
    return masked(values, ~(values.abs() <= threshold))


def elastic_net(values: Tensor, strength: float, *, ridge: float, step: Step = 1.0) -> Tensor:
    """Apply the proximal operator of λ·‖w‖₁ + ½·ridge·‖w‖²: soft threshold, then scaling.

    ``ridge`` is in units of the loss per unit of weight squared.

    Example:
        >>> elastic_net(torch.tensor([-3.0, 0.5]), 1.0, ridge=1.0)
        tensor([-1.,  0.])

    Source: Zou & Hastie 2005, "Regularization and variable selection via the elastic net".
    """
    check_penalty(values, step, strength=strength, ridge=ridge)
    return soft_threshold(values, strength, step=step) / (1 + threshold_of(values, ridge, step))


def trimmed_l1(values: Tensor, strength: float, *, nonzeros: int, step: Step = 1.0) -> Tensor:
    """Apply the proximal operator of λ·Σ|w| over all weights but the ``nonzeros`` largest.

    The weights without penalty are the largest of ``values`` itself, which makes the operator
    exact; choosing them from the weights before the gradient step finds wrong supports. Of equal
    magnitudes the later is without penalty. With a step for each weight, those are without penalty
    on which it would cost most.

    Raises:
        ModelError: as above, or ``nonzeros`` is below 0, or a value is not finite.

    Example:
        >>> trimmed_l1(torch.tensor([-2.0, 0.5, 1.5]), 1.0, nonzeros=1)
        tensor([-2.0000,  0.0000,  0.5000])

    Source: Yun et al. 2019, "Trimming the ℓ1 regularizer", §2.
    """
    if nonzeros < 0:
        raise ModelError(f"the number of weights without penalty is {nonzeros}; give 0 or more")
    soft = soft_threshold(values, strength, step=step)
    check_finite(values)
    cost = values.abs()
    if isinstance(step, Tensor):
        distance = (values - soft).square() / (2 * step)
        cost = torch.where(step > 0, distance, 0.0) + strength * soft.abs()
    unpenalized = keep_highest(cost, values.numel() - nonzeros)
    return torch.where(unpenalized, values, soft) + 0.0


def scad(values: Tensor, strength: float, *, a: float = 3.7, step: Step = 1.0) -> Tensor:
    """Apply the proximal operator of SCAD (smoothly clipped absolute deviation).

    The derivative of the penalty is λ up to |w| = λ, (a·λ − |w|)/(a − 1) up to a·λ, and 0 beyond:
    large weights are not shrunk. ``strength`` is λ, here also in units of the weights; ``a`` is
    above 2.

    Example:
        >>> scad(torch.tensor([0.5, 1.5, 3.0, -5.0]), 1.0)
        tensor([ 0.0000,  0.5000,  2.5882, -5.0000])

    Source: Fan & Li 2001, "Variable selection via nonconcave penalized likelihood", eq. 2.8.
    """
    if not (math.isfinite(a) and a > 2):
        raise ModelError(f"a of SCAD is {a}; give a finite number above 2")
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
    """Apply the proximal operator of the minimax concave penalty, constant from gamma·λ on.

    The derivative of the penalty falls linearly from λ at 0 to 0 at |w| = gamma·λ. ``strength`` is
    λ, here also in units of the weights; ``gamma`` is above 0.

    Example:
        >>> mcp(torch.tensor([0.5, 1.5, -2.0, 4.0]), 1.0)
        tensor([ 0.0000,  0.7500, -1.5000,  4.0000])

    Source: Zhang 2010, "Nearly unbiased variable selection under minimax concave penalty", §2.
    """
    if not (math.isfinite(gamma) and gamma > 0):
        raise ModelError(
            f"gamma of the minimax concave penalty is {gamma}; give a finite number above 0"
        )
    soft = soft_threshold(values, strength, step=step)
    steps = threshold_of(values, 1.0, step)
    size = values.abs()
    convex = steps < gamma
    firm = soft / torch.where(convex, 1 - steps / gamma, 1.0)
    firm = torch.where(size > gamma * strength, values, firm)
    hard = masked(values, ~(size <= strength * (gamma * steps).sqrt()))
    return torch.where(convex, firm, hard) + 0.0
