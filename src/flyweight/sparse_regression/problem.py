"""A regression problem, and the history of solving it by steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from flyweight.errors import DataError, ModelError

__all__ = ["History", "Problem", "Vector", "check", "check_counts", "lipschitz_constant"]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """The weights before the first step and after each, with their losses.

    Attributes:
        weights: (steps + 1) × n; the first row is the start.
        loss: steps + 1 numbers, L alone without any penalty.
    """

    weights: Vector
    loss: Vector

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return len(self.loss) - 1

    @property
    def support(self) -> npt.NDArray[np.bool_]:
        """Which weights are not zero: (steps + 1) × n."""
        found: npt.NDArray[np.bool_] = self.weights != 0
        return found

    @property
    def exact_zeros(self) -> int:
        """How many of the last weights are exactly zero."""
        return int((self.weights[-1] == 0).sum())

    @property
    def support_changes(self) -> list[tuple[int, tuple[int, ...]]]:
        """Each step after which the support was another than before, with the new one.

        Example:
            >>> weights = np.array([[0.0, 0.0], [0.2, 0.0], [0.3, 0.0]])
            >>> History(weights, np.array([1.0, 0.6, 0.5])).support_changes
            [(1, (0,))]
        """
        support = self.support
        changed = (support[1:] != support[:-1]).any(1).nonzero()[0] + 1
        return [(int(k), tuple(map(int, support[k].nonzero()[0]))) for k in changed]


def lipschitz_constant(X: npt.ArrayLike) -> float:
    """Of the gradient of L: twice the largest eigenvalue of XᵀX.

    Gradient descent is stable for steps below two divided by it.

    Example:
        >>> lipschitz_constant([[3.0, 0.0], [0.0, 1.0]])
        18.0
    """
    return float(2 * np.linalg.norm(_numbers("X", X, 2), 2) ** 2)


def check(**numbers: float) -> None:
    """Raise ModelError for a number that is negative, infinite or none."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or not (math.isfinite(number) and number >= 0):
            raise ModelError(f"the {name} is a finite number from 0 on; got {number!r}")


def check_counts(**numbers: int) -> None:
    """Raise ModelError for a number that is not a whole one from 0 on."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 0:
            raise ModelError(f"{name} takes a whole number from 0 on; got {number!r}")


def _numbers(name: str, values: npt.ArrayLike, dimensions: int) -> Vector:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is made of numbers; {error}") from error
    if found.ndim != dimensions or not found.size:
        raise DataError(
            f"{name} has {dimensions} dimension{'s' * (dimensions > 1)} and is not empty; "
            f"its shape is {found.shape}"
        )
    if not np.isfinite(found).all():
        raise DataError(f"{name} holds NaN or infinity; leave these rows out")
    return found


class Problem:
    """X, y and the first weights, checked."""

    def __init__(self, X: npt.ArrayLike, y: npt.ArrayLike, start: npt.ArrayLike | None) -> None:
        self.X = _numbers("X", X, 2)
        self.y = _numbers("y", y, 1)
        rows, columns = self.X.shape
        if len(self.y) != rows:
            raise DataError(
                f"X has {rows} rows and y {len(self.y)} numbers; they are to be as many"
            )
        self.start = np.zeros(columns) if start is None else _numbers("start", start, 1).copy()
        if len(self.start) != columns:
            raise DataError(f"X has {columns} columns and start {len(self.start)} numbers")

    def check_step(self, step: float, limit: int) -> None:
        """Warn of a step from which ``limit`` over the Lipschitz constant on nothing is sure."""
        if not isinstance(step, Real) or not (math.isfinite(step) and step > 0):
            raise ModelError(f"the step is a finite number above 0; got {step!r}")
        constant = lipschitz_constant(self.X)
        # Gradient descent at 2 / L itself goes round for ever; at 1 / L all is well.
        if step * constant > limit or (limit == 2 and step * constant == limit):
            warnings.warn(
                f"a step of {step:g} need not converge: the Lipschitz constant of the gradient is "
                f"{constant:.6g}, so take one below {limit / constant:.6g}",
                stacklevel=3,
            )

    def gradient(self, w: Vector) -> Vector:
        """Of the loss: 2Xᵀ(Xw − y)."""
        found: Vector = 2 * self.X.T @ (self.X @ w - self.y)
        return found

    def loss(self, w: Vector) -> float:
        """Σ (Xᵢw − yᵢ)²."""
        return float(((self.X @ w - self.y) ** 2).sum())

    def descend(self, steps: int, tolerance: float, advance: Callable[[Vector], Vector]) -> History:
        """The history of making steps until they are made or no weight moves any more."""
        check_counts(steps=steps)
        check(tolerance=tolerance)
        weights, losses = [self.start], [self.loss(self.start)]
        for number in range(1, steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                found = advance(weights[-1])
                losses.append(self.loss(found))
            if not math.isfinite(losses[-1]):
                raise ModelError(
                    f"the loss grew beyond all numbers in {number} steps; take a smaller step"
                )
            weights.append(found)
            if tolerance and np.abs(found - weights[-2]).max() <= tolerance:
                break
        return History(np.stack(weights), np.array(losses))
