"""Search for the loss per bit at which the file of a rounded model has the bytes asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.quantization.layer_rounding import LayerRounding
from flyweight.quantization.rate_distortion import LARGEST_CODE

__all__ = ["ByteSearch", "Trial"]

_TOLERANCE = 0.004  # below the bytes looked for
_LEAST_TOLERANCE = 8  # bytes
_FACTOR = 8.0  # of the loss per bit, until one is too low and one too high
_LARGEST_FACTOR = 2.0**40
_NEAR = 1.03  # ratio of the losses per bit between which steps stay
_TRIALS, _FINE_TRIALS = 16, 12
_WIDEST = 64.0  # loss per bit over the one that fits the steps


@dataclass(frozen=True)
class Trial:
    """All weights rounded.

    Args:
        loss_per_bit: at which they are.
        size: bytes of the file with them.
        tensors: symbols and levels by name.
        errors: squared error of each, by name.
    """

    loss_per_bit: float
    size: int
    tensors: Mapping[str, CompressedTensor]
    errors: Mapping[str, float]


class ByteSearch:
    """Round all weights until the file has so many bytes.

    Steps and codes follow from one loss per bit. Bytes jump where a step does, so that between
    two losses per bit that are near, the steps of the lower stay, and only that of the codes rises.

    Args:
        rounding: of the weights.
        weights: by name.
        file_bytes: size of the file with given tensors.
        tried: called with the number of trials so far.
    """

    def __init__(
        self,
        rounding: LayerRounding,
        weights: Mapping[str, Tensor],
        file_bytes: Callable[[Mapping[str, CompressedTensor]], int],
        tried: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._rounding = rounding
        self._weights = weights
        self._file_bytes = file_bytes
        self._tried = tried
        self._trials = self._least = 0

    def check(self, target: int, sensitivities: Mapping[str, float]) -> None:
        """Refuse a target that no loss per bit gives.

        Raises:
            ModelError: it is not above the bytes with all weights zero, or above those at the
                finest steps.
        """
        zeros = {
            name: CompressedTensor.from_values(torch.zeros_like(weight.detach()))
            for name, weight in self._weights.items()
        }
        least = self._file_bytes(zeros)
        if target <= least:
            raise _refusal(target, least, self._finest(sensitivities).size)
        self._least = least

    def near(self, goal: int, sensitivities: Mapping[str, float], start: float) -> Trial:
        """Return a trial at a loss per bit whose file has about so many bytes."""
        low, high = self._bracket(goal, sensitivities, start, 0.1)
        return min((low, high), key=lambda trial: abs(math.log(trial.size / goal)))

    def within(self, goal: int, sensitivities: Mapping[str, float], start: float) -> Trial:
        """Return a trial whose file has at most ``goal`` bytes, and hardly fewer.

        Raises:
            ModelError: the goal is above the bytes at the finest steps.
        """
        tolerance = _tolerance(goal)
        low, best = self._bracket(goal, sensitivities, start, 0.0)
        if low.size <= goal or best.size >= goal - tolerance:
            return low if low.size <= goal else best
        cheap, dear = (1.0, low.size), (math.nan, 0)
        for _ in range(_FINE_TRIALS):
            if dear[1]:
                share = _share(cheap[1], dear[1], goal - tolerance / 2)
                wider = cheap[0] * (dear[0] / cheap[0]) ** share
            else:
                wider = 1.25 * cheap[0] ** 2  # 1.25, 1.95, 4.8, ...
            if wider > _WIDEST:
                break
            trial = self._trial(sensitivities, low.loss_per_bit, wider)
            if trial.size > goal:
                cheap = (wider, trial.size)
                continue
            dear = (wider, trial.size)
            best = max(best, trial, key=lambda one: one.size)
            if trial.size >= goal - tolerance:
                break
        return best

    def _bracket(
        self, goal: int, sensitivities: Mapping[str, float], start: float, accuracy: float
    ) -> tuple[Trial, Trial]:
        """Trials above the goal and not above it, that are near each other or one of them the goal.

        A trial within ``accuracy``, or within the tolerance, is given twice.
        """
        low = high = None
        trial = self._trial(sensitivities, start)
        factor = _FACTOR
        finest = _finest_loss_per_bit(self._weights, sensitivities)
        for _ in range(10 * _TRIALS):
            fits = goal - _tolerance(goal) <= trial.size <= goal
            if fits or abs(math.log(trial.size / goal)) <= accuracy:
                return trial, trial
            if trial.size > goal:
                low = trial
            else:
                high = trial
            if low is None:
                if trial.loss_per_bit <= finest:
                    raise _refusal(goal, self._least, trial.size)
                loss_per_bit = max(finest, trial.loss_per_bit / factor)
                factor *= 2
            elif high is None:
                if factor > _LARGEST_FACTOR:
                    raise _refusal(goal, trial.size, self._finest(sensitivities).size)
                loss_per_bit = trial.loss_per_bit * factor
                factor *= 2
            else:
                ratio = high.loss_per_bit / low.loss_per_bit
                if ratio <= _NEAR:
                    break
                share = _share(low.size, high.size, goal - _tolerance(goal) / 2)
                loss_per_bit = low.loss_per_bit * ratio**share
            trial = self._trial(sensitivities, loss_per_bit)
        assert low is not None
        assert high is not None
        return low, high

    def _finest(self, sensitivities: Mapping[str, float]) -> Trial:
        return self._trial(sensitivities, _finest_loss_per_bit(self._weights, sensitivities))

    def _trial(
        self, sensitivities: Mapping[str, float], loss_per_bit: float, wider: float = 1.0
    ) -> Trial:
        tensors, errors = self._rounding.round(sensitivities, loss_per_bit, wider=wider)
        trial = Trial(loss_per_bit, self._file_bytes(tensors), tensors, errors)
        self._trials += 1
        self._tried(self._trials)
        return trial


def _tolerance(goal: int) -> float:
    return max(_LEAST_TOLERANCE, _TOLERANCE * goal)


def _share(more: int, fewer: int, goal: float) -> float:
    """Where to look between two sizes: as if bytes fell evenly, but never close to an end."""
    share = (more - goal) / max(1, more - fewer)
    return min(0.85, max(0.15, share))


def _finest_loss_per_bit(
    weights: Mapping[str, Tensor], sensitivities: Mapping[str, float]
) -> float:
    """A loss per bit at which each tensor has as many levels as a file holds."""
    found = [
        sensitivities[name] * (float(weight.detach().abs().max()) / LARGEST_CODE) ** 2 / 16
        for name, weight in weights.items()
    ]
    return max(1e-300, min((value for value in found if value), default=1e-300))


def _refusal(target: int, least: int, most: int) -> ModelError:
    return ModelError(
        f"a file of {target:,} bytes cannot be had by post-training quantization: it takes this "
        f"model from about {least:,} bytes, where all quantized weights are zero, to {most:,}; "
        "choose a target between"
    )
