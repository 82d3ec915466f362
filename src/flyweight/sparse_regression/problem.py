"""Linear regression problem and the history of its iterates."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import numpy.typing as npt

from flyweight.errors import DataError, ModelError

__all__ = [
    "History",
    "Problem",
    "Vector",
    "check_counts",
    "check_nonnegative",
    "lipschitz_constant",
]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """Weights and loss before the first step and after every step.

    Attributes:
        weights: (steps + 1) × n; row 0 is the start.
        loss: steps + 1 values of L, without the penalty.
    """

    weights: Vector
    loss: Vector

    @property
    def steps(self) -> int:
        """Number of steps made."""
        return len(self.loss) - 1

    @property
    def support(self) -> npt.NDArray[np.bool_]:
        """Mask of the non-zero weights, (steps + 1) × n."""
        found: npt.NDArray[np.bool_] = self.weights != 0
        return found

    @property
    def exact_zeros(self) -> int:
        """Number of final weights that are exactly zero."""
        return int((self.weights[-1] == 0).sum())

    @property
    def support_changes(self) -> list[tuple[int, tuple[int, ...]]]:
        """Steps at which the support changed, each with the new support.

        Example:
            >>> weights = np.array([[0.0, 0.0], [0.2, 0.0], [0.3, 0.0]])
            >>> History(weights, np.array([1.0, 0.6, 0.5])).support_changes
            [(1, (0,))]
        """
        support = self.support
        changed = (support[1:] != support[:-1]).any(1).nonzero()[0] + 1
        return [(int(k), tuple(map(int, support[k].nonzero()[0]))) for k in changed]


def lipschitz_constant(X: npt.ArrayLike) -> float:
    """Return the Lipschitz constant of the gradient of L: twice the largest eigenvalue of XᵀX.

    Gradient descent is stable for step sizes below 2 divided by this constant.

    Args:
        X: m×n matrix.

    Raises:
        DataError: X is not a finite, non-empty matrix.

    Example:
        >>> lipschitz_constant([[3.0, 0.0], [0.0, 1.0]])
        18.0
    """
    return float(2 * np.linalg.norm(_numbers("X", X, 2), 2) ** 2)


def check_nonnegative(**numbers: float) -> None:
    """Raise ModelError for a value that is not a finite number >= 0."""
    for name, number in numbers.items():
        if not isinstance(number, Real) or not (math.isfinite(number) and number >= 0):
            raise ModelError(f"{name} must be a finite number >= 0; got {number!r}")


def check_counts(**numbers: int) -> None:
    """Raise ModelError for a value that is not an integer >= 0."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 0:
            raise ModelError(f"{name} must be an integer >= 0; got {number!r}")


def _numbers(name: str, values: npt.ArrayLike, dimensions: int) -> Vector:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numeric; {error}") from error
    if found.ndim != dimensions or not found.size:
        raise DataError(
            f"{name} must have {dimensions} dimension{'s' * (dimensions > 1)} and not be empty; "
            f"got shape {found.shape}"
        )
    if not np.isfinite(found).all():
        raise DataError(f"{name} contains NaN or infinity; remove these rows")
    return found


class Problem:
    """Least-squares problem: X, y and the initial weights, validated."""

    def __init__(self, X: npt.ArrayLike, y: npt.ArrayLike, start: npt.ArrayLike | None) -> None:
        self.X = _numbers("X", X, 2)
        self.y = _numbers("y", y, 1)
        rows, columns = self.X.shape
        if len(self.y) != rows:
            raise DataError(f"X has {rows} rows but y has {len(self.y)} elements; they must match")
        self.start = np.zeros(columns) if start is None else _numbers("start", start, 1).copy()
        if len(self.start) != columns:
            raise DataError(
                f"X has {columns} columns but start has {len(self.start)} elements; they must match"
            )

    def check_step(self, step: float, limit: int) -> None:
        """Warn if the step size is not below ``limit`` / Lipschitz constant."""
        if not isinstance(step, Real) or not (math.isfinite(step) and step > 0):
            raise ModelError(f"step must be a finite number > 0; got {step!r}")
        constant = lipschitz_constant(self.X)
        # At exactly 2 / L gradient descent oscillates; at exactly 1 / L it converges.
        if step * constant > limit or (limit == 2 and step * constant == limit):
            warnings.warn(
                f"step {step:g} may not converge: the Lipschitz constant of the gradient is "
                f"{constant:.6g}; use a step below {limit / constant:.6g}",
                stacklevel=3,
            )

    def gradient(self, w: Vector) -> Vector:
        """Return the gradient of the loss, 2Xᵀ(Xw − y)."""
        found: Vector = 2 * self.X.T @ (self.X @ w - self.y)
        return found

    def loss(self, w: Vector) -> float:
        """Return the loss, Σ (Xᵢw − yᵢ)²."""
        return float(((self.X @ w - self.y) ** 2).sum())

    def descend(self, steps: int, tolerance: float, advance: Callable[[Vector], Vector]) -> History:
        """Iterate ``advance`` for ``steps`` or until no weight moves more than ``tolerance``."""
        check_counts(steps=steps)
        check_nonnegative(tolerance=tolerance)
        weights, losses = [self.start], [self.loss(self.start)]
        for number in range(1, steps + 1):
            with np.errstate(over="ignore", invalid="ignore"):
                found = advance(weights[-1])
                losses.append(self.loss(found))
            if not math.isfinite(losses[-1]):
                raise ModelError(f"the loss diverged after {number} steps; use a smaller step")
            weights.append(found)
            if tolerance and np.abs(found - weights[-2]).max() <= tolerance:
                break
        return History(np.stack(weights), np.array(losses))
