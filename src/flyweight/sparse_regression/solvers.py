"""First-order solvers for sparse linear regression."""

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
    check_counts,
    check_nonnegative,
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
    """Minimize the loss by gradient descent: w ← w − μ·2Xᵀ(Xw − y).

    Started at zero, it converges to the least-squares solution of smallest norm, which is dense.

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
    """Minimize the loss under ‖w‖₀ <= ``nonzeros`` by projected gradient descent.

    Also known as iterative hard thresholding: after every gradient step, all but the ``nonzeros``
    largest magnitudes are set to zero. For step sizes up to 1 / Lipschitz constant the loss never
    increases. The problem is not convex; the final support depends on the path.

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
    """Minimize L + λ·‖w‖₁ by subgradient descent, with sign(0) = 0.

    With a fixed step size it does not converge: a weight whose optimum is zero oscillates around
    it by up to μ·λ and never becomes exactly zero. ``strength`` is λ, in units of loss per unit of
    weight.

    Example:
        >>> history = subgradient([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.exact_zeros, bool(abs(history.weights[-1, 1]) < 0.1)
        (0, True)
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 2)
    check_nonnegative(strength=strength)
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
    """Minimize L + λ·‖w‖₁ by proximal gradient descent (ISTA).

    Every gradient step is followed by a soft threshold of μ·λ. The objective converges as 1/k.
    ``strength`` is λ, in units of loss per unit of weight.

    Example:
        >>> history = ista([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.weights[-1].round(6).tolist()
        [0.75, 0.0]

    Source: Daubechies et al. 2004, "An iterative thresholding algorithm"; Tibshirani 1996 (lasso).
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 2)
    check_nonnegative(strength=strength)
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
    """Minimize L + λ·‖w‖₁ by accelerated proximal gradient descent (FISTA).

    `ista` with Nesterov momentum: the gradient is taken at a point extrapolated from the last two
    iterates. The objective converges as 1/k², not monotonically. Needs a step size of at most
    1 / Lipschitz constant. ``strength`` is λ, in units of loss per unit of weight.

    Example:
        >>> history = fista([[1.0, 0.2]], [1.0], step=0.1, steps=99, strength=0.5)
        >>> history.weights[-1].round(6).tolist()
        [0.75, 0.0]

    Source: Beck & Teboulle 2009, SIAM Journal on Imaging Sciences 2(1), §4.
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 1)
    check_nonnegative(strength=strength)
    before, momentum = problem.start, 0.0

    def advance(w: Vector) -> Vector:
        nonlocal before, momentum
        grown = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        # The first step has no previous move, so that its extrapolation is zero.
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
    """Minimize L plus a trimmed L1 penalty by proximal gradient descent.

    The penalty covers all weights but the ``nonzeros`` largest, which therefore have no bias. The
    exact proximal operator selects the exempt weights on the vector after the gradient step. For
    step sizes up to 1 / Lipschitz constant the objective never increases. The problem is not
    convex; the result depends on the path. ``strength`` is λ, in units of loss per unit of weight.

    Example:
        >>> history = trimmed_ista(
        ...     [[1.0, 0.2]], [1.0], step=0.1, steps=200, strength=0.5, nonzeros=1
        ... )
        >>> history.weights[-1].round(6).tolist()
        [1.0, 0.0]

    Source: Yun et al. 2019, "Trimming the ℓ1 regularizer", algorithm 1 with full steps.
    """
    problem = Problem(X, y, start)
    problem.check_step(step, 1)
    check_nonnegative(strength=strength)
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
