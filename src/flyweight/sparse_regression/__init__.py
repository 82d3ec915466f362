"""Sparse linear regression: six solvers with their full history.

All minimise L(w) = Σᵢ (Xᵢ·w − yᵢ)², without a factor of ½ or 1/n, by full-batch steps

    w ← w − step·2Xᵀ(Xw − y)

each with its own way to sparse weights. ``X`` is m×n and ``y`` has m numbers; all is computed in
float64. Arguments that the solvers share:

    step: step size μ, in units of weight² per unit of loss.
    steps: how many are made at most.
    start: the first weights, n numbers; zeros if not given.
    tolerance: stop after a step in which no weight moved by more than this; 0 never stops.

There is a warning where a step is too large to be sure of convergence; what counts is the largest
curvature of L, `lipschitz_constant`. Every solver raises DataError for X, y or start that do not
fit each other or are not finite, and ModelError for numbers out of range.

Example:
    >>> X, y = [[2.0, 0.0], [0.0, 1.0]], [2.0, 0.1]
    >>> history = ista(X, y, step=0.1, steps=50, strength=0.4)
    >>> history.weights[-1].round(3).tolist(), history.exact_zeros
    ([0.95, 0.0], 1)

Source: the exercise on sparse optimisation of linear models of ECE 661 (Li 2025); of the
methods, at each of them.
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
