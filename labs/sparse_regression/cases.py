"""The regression of five weights on three points, and every way of the exercise to solve it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flyweight.sparse_regression import (
    History,
    fista,
    gradient_descent,
    ista,
    projected_gradient,
    subgradient,
    trimmed_ista,
)

__all__ = [
    "L1_STRENGTHS",
    "STEP",
    "STEPS",
    "TRIMMED_STRENGTHS",
    "Case",
    "X",
    "Y",
    "cases",
    "converged",
    "lasso_objective",
    "trimmed_on_old",
]

Vector = npt.NDArray[np.float64]

X = np.array([[-2, 2, 1, -1, -1], [-2, 1, -2, 0, 1], [1, 0, -2, 2, -1]], dtype=np.float64)
Y = np.array([5, 1, 1], dtype=np.float64)
STEP, STEPS = 0.02, 200
L1_STRENGTHS = (0.2, 0.5, 1.0, 2.0)
TRIMMED_STRENGTHS = (1.0, 2.0, 5.0, 10.0)
NONZEROS = 2


@dataclass(frozen=True)
class Case:
    """One run of the exercise: its letter, the method in words, λ if it has one, what came out."""

    letter: str
    method: str
    strength: float | None
    history: History

    @property
    def name(self) -> str:
        """Letter, method and strength."""
        strength = "" if self.strength is None else f", λ = {self.strength:g}"
        return f"({self.letter}) {self.method}{strength}"

    @property
    def weights(self) -> Vector:
        """Of the last step."""
        last: Vector = self.history.weights[-1] + 0.0
        return last

    @property
    def swing(self) -> Vector:
        """By how much each weight still moves to and fro in the last 20 steps."""
        tail = self.history.weights[-21:]
        found: Vector = tail.max(0) - tail.min(0)
        return found


def cases() -> list[Case]:
    """(b) to (f), 14 of them."""
    found = [
        Case("b", "gradient descent", None, gradient_descent(X, Y, step=STEP, steps=STEPS)),
        Case(
            "c",
            "projected gradient",
            None,
            projected_gradient(X, Y, step=STEP, steps=STEPS, nonzeros=NONZEROS),
        ),
    ]
    methods = (
        ("d", "L1 by subgradient", subgradient, L1_STRENGTHS),
        ("e", "L1 by proximal gradient", ista, L1_STRENGTHS),
        ("f", "trimmed L1", trimmed_ista, TRIMMED_STRENGTHS),
    )
    for letter, method, solver, strengths in methods:
        for strength in strengths:
            history = solver(X, Y, step=STEP, steps=STEPS, strength=strength)
            found.append(Case(letter, method, strength, history))
    return found


def converged(strength: float) -> Vector:
    """The minimiser of L + λ·‖w‖₁ in closed form: piecewise linear in λ, with w₂ and w₅ alone.

    Up to λ = 7 it is [0, 2 − λ/14, 0, 0, −1 + λ/7]; from there to λ = 22 the second weight is
    alone, 2.2 − λ/10; beyond all are zero.

    Example:
        >>> converged(2.0).round(3).tolist()
        [0.0, 1.857, 0.0, 0.0, -0.714]
    """
    second = 2 - strength / 14 if strength <= 7 else max(0.0, 2.2 - strength / 10)
    return np.array([0.0, second, 0.0, 0.0, min(0.0, -1 + strength / 7)])


def lasso_objective(weights: Vector, strength: float) -> Vector:
    """L + λ·‖w‖₁ of each row of ``weights``."""
    found: Vector = ((weights @ X.T - Y) ** 2).sum(-1) + strength * np.abs(weights).sum(-1)
    return found


def trimmed_on_old(strength: float, steps: int = STEPS) -> History:
    """Trimmed L1 with the spared weights chosen before the gradient step: a common mistake.

    As in `trimmed_ista`, among equal magnitudes the later is spared.
    """
    weights = [np.zeros(X.shape[1])]
    for _ in range(steps):
        old = weights[-1]
        stepped = old - STEP * (2 * X.T @ (X @ old - Y))
        penalized = np.argsort(np.abs(old), kind="stable")[:-NONZEROS]
        threshold = STEP * strength
        stepped[penalized] -= np.clip(stepped[penalized], -threshold, threshold)
        weights.append(stepped)
    path = np.stack(weights)
    return History(path, ((path @ X.T - Y) ** 2).sum(1))


def ista_and_fista(strength: float, steps: int = STEPS) -> tuple[History, History]:
    """Both on the same problem."""
    settings = {"step": STEP, "steps": steps, "strength": strength}
    return ista(X, Y, **settings), fista(X, Y, **settings)  # type: ignore[arg-type]
