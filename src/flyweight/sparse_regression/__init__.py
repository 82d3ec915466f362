"""Sparse linear regression: six first-order solvers that record every iterate.

All minimize L(w) = Σᵢ (Xᵢ·w − yᵢ)², without a factor of ½ or 1/n, by full-batch gradient steps

    w ← w − step·2Xᵀ(Xw − y)

followed by an operation that makes the weights sparse. ``X`` is m×n, ``y`` has m elements; all
arithmetic is float64. Arguments common to the solvers:

    step: step size μ, in units of weight² per unit of loss.
    steps: maximum number of steps.
    start: initial weights, n elements; zeros by default.
    tolerance: stop after a step in which no weight moved by more than this; 0 disables the test.

A step size for which convergence is not guaranteed gives a `UserWarning`; the bound is a multiple
of 1 / `lipschitz_constant`. Every solver raises DataError if X, y or start are not finite or their
shapes do not match, and ModelError for a setting out of range or a loss that diverges.

Example:
    >>> X, y = [[2.0, 0.0], [0.0, 1.0]], [2.0, 0.1]
    >>> history = ista(X, y, step=0.1, steps=50, strength=0.4)
    >>> history.weights[-1].round(3).tolist(), history.exact_zeros
    ([0.95, 0.0], 1)

Source: ECE 661 (Li 2025), exercise on sparse optimization of linear models; each solver cites the
source of its method.
"""

from flyweight.sparse_regression.problem import History, lipschitz_constant
from flyweight.sparse_regression.solvers import (
    fista,
    gradient_descent,
    ista,
    projected_gradient,
    subgradient,
    trimmed_ista,
)

__all__ = [
    "History",
    "fista",
    "gradient_descent",
    "ista",
    "lipschitz_constant",
    "projected_gradient",
    "subgradient",
    "trimmed_ista",
]
