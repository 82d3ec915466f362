"""The solvers: what each of them does in one step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flyweight.proximal import soft_threshold, top_k, trimmed_l1
from flyweight.sparse_regression.problem import (
    History,
    Problem,
    Vector,
    check,
    check_counts,
)

__all__ = [
    "fista",
    "gradient_descent",
    "ista",
    "projected_gradient",
    "subgradient",
    "trimmed_ista",
]


def gradient_descent(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """Steps of the gradient alone: w ← w − μ·2Xᵀ(Xw − y).

    From zero it comes to the least-squares solution of smallest norm, which is not sparse.

    Example:
        >>> history = gradient_descent([[1.0, 1.0]], [2.0], step=0.2, steps=30)
        >>> history.weights[-1].round(6).tolist()
        [1.0, 1.0]
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 2)
    return problem.descend(steps, tolerance, lambda w: w - step * problem.gradient(w))


def projected_gradient(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    nonzeros: int = 2,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """After each step of the gradient only the ``nonzeros`` largest weights are kept.

    Also known as iterative hard thresholding; a gradient step and pruning in turns. Steps up to
    1 / L let the loss fall always; which support it ends with depends on the way.

    Example:
        >>> history = projected_gradient([[1.0, 0.9]], [2.0], step=0.2, steps=60, nonzeros=1)
        >>> history.weights[-1].round(6).tolist()
        [2.0, 0.0]

    Source: Blumensath & Davies 2009, "Iterative hard thresholding for compressed sensing".
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 1)
    check_counts(nonzeros=nonzeros)
    return problem.descend(
        steps,
        tolerance,
        lambda w: _apply(lambda v: top_k(v, nonzeros), w - step * problem.gradient(w)),
    )


def subgradient(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    strength: float,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """Steps on L + λ·‖w‖₁ with λ·sign(w) for the gradient of the penalty, and sign(0) = 0.

    At a fixed step it never settles: a weight that should be zero jumps about it by up to μ·λ, and
    none becomes exactly zero. ``strength`` is λ, in units of loss per unit of weight.

    Example:
        >>> history = subgradient([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.exact_zeros, bool(abs(history.weights[-1, 1]) < 0.1)
        (0, True)
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 2)
    check(strength=strength)
    return problem.descend(
        steps,
        tolerance,
        lambda w: w - step * (problem.gradient(w) + strength * np.sign(w)),
    )


def ista(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    strength: float,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """Proximal gradient on L + λ·‖w‖₁: a step of the gradient, then a soft threshold of μ·λ.

    ``strength`` is λ, in units of loss per unit of weight. The objective falls as 1/k.

    Example:
        >>> history = ista([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.weights[-1].round(6).tolist()
        [0.75, 0.0]

    Source: Daubechies et al. 2004, "An iterative thresholding algorithm"; Tibshirani 1996 (lasso).
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 2)
    check(strength=strength)
    return problem.descend(
        steps,
        tolerance,
        lambda w: _apply(
            lambda v: soft_threshold(v, strength, step=step), w - step * problem.gradient(w)
        ),
    )


def fista(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    strength: float,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """As `ista`, each step from a point beyond the last weights, in the direction of their move.

    The objective falls as 1/k², though not at every step. Needs a step of 1 / L at most.

    Example:
        >>> history = fista([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.weights[-1].round(6).tolist()
        [0.75, 0.0]

    Source: Beck & Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm", §4.
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 1)
    check(strength=strength)
    before, momentum = problem.start, 0.0

    def advance(w: Vector) -> Vector:
        nonlocal before, momentum
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        # Momentum is 1 from the second step on; before the first there was no move to go on from.
        beyond = w + (momentum - 1) / grown * (w - before)
        before, momentum = w, grown
        stepped = beyond - step * problem.gradient(beyond)
        return _apply(lambda v: soft_threshold(v, strength, step=step), stepped)

    return problem.descend(steps, tolerance, advance)


def trimmed_ista(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    step: float,
    steps: int,
    strength: float,
    nonzeros: int = 2,
    start: npt.ArrayLike | None = None,
    tolerance: float = 0.0,
) -> History:
    """As `ista` with a penalty on all weights but the ``nonzeros`` largest, which have no bias so.

    Those that are spared are chosen on the stepped vector: that is the exact proximal operator.
    The objective falls always for steps up to 1 / L; it is not convex, and where it ends depends
    on the way.
    ``strength`` is λ, in units of loss per unit of weight.

    Example:
        >>> history = trimmed_ista(
        ...     [[1.0, 0.2]], [1.0], step=0.1, steps=200, strength=0.5, nonzeros=1
        ... )
        >>> history.weights[-1].round(6).tolist()
        [1.0, 0.0]

    Source: Yun et al. 2019, "Trimming the ℓ1 regularizer", algorithm 1 with all steps full.
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 1)
    check(strength=strength)
    check_counts(nonzeros=nonzeros)
    return problem.descend(
        steps,
        tolerance,
        lambda w: _apply(
            lambda v: trimmed_l1(v, strength, nonzeros=nonzeros, step=step),
            w - step * problem.gradient(w),
        ),
    )


def _apply(operator: Callable[[Tensor], Tensor], vector: Vector) -> Vector:
    found: Vector = operator(torch.from_numpy(vector)).numpy()
    return found
