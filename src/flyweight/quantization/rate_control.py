"""Train towards bytes: a loss per bit, its controller, and codes that fit when the run ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.errors import CheckpointError, ModelError
from flyweight.quantization.config import QuantizationConfig
from flyweight.quantization.level_storage import round_tables
from flyweight.quantization.rate_weight import RateWeight

__all__ = ["RateControl", "grid_steps"]

FileBytes = Callable[[Mapping[str, CompressedTensor]], int]
"""Bytes of the file with these quantized tensors."""

_ALL_BITS = 2.0  # loss that all bits of the file are worth before the first step
_FARTHEST = 30.0  # times that, on either side
# The logarithm of the loss per bit follows that of the bytes over the goal, and its change.
_GAIN = 0.4
_DAMPING = 4.0
_MOST_CHANGE = 0.3
_UPDATES = 200  # at least, in a run
_ABOVE_LEAST = 1.5  # times the bytes without weights, where a ratio is asked for
_TOLERANCE = 0.002  # below the target, where codes get smaller
_MOST_MISSING = 0.01  # of the target, before the dead zone gets smaller
_LEAST_DEAD_ZONE = -0.3
_HALVINGS = 14
_ROUNDS, _MOST_ROUNDS = 3, 8  # of choosing codes by costs, and counting the codes
_HIGHEST_EXCHANGE = 4.0  # squared steps a bit


def grid_steps(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], scales: Mapping[str, float]
) -> dict[str, float]:
    """Return the step of each weight: its scale times the root mean square of what is not zero.

    Example:
        >>> weight = torch.tensor([3.0, -4.0, 0.0])
        >>> grid_steps({"a": weight}, {"a": weight != 0}, {"a": 2.0})
        {'a': 7.0710678118654755}
    """
    found = {}
    for name, weight in weights.items():
        kept = weight.detach().double()[masks[name].to(weight.device)]
        square = float(kept.square().mean()) if kept.numel() else 0.0
        found[name] = scales[name] * math.sqrt(square) or 1.0
    return found


@dataclasses.dataclass
class RateControl:
    """Loss per bit of a training run, and the codes that it ends with.

    Args:
        config: with the method "rate".
        steps: of the optimizer in all.
        quantized: the weights by name; codes of all are chosen together.
        file_bytes: size of the file with given tensors.

    Attributes:
        target: bytes to end with; 0 for none.
        loss_per_bit: loss that a bit is worth now.
        size: bytes of the file when they were last counted.
        error: logarithm of these over what was aimed at.

    Source: Wiedemann et al. 2020, "DeepCABAC"; Shoham & Gersho 1988 (one multiplier for all).
    """

    config: QuantizationConfig
    steps: int
    quantized: Mapping[str, RateWeight]
    file_bytes: FileBytes
    target: int = 0
    loss_per_bit: float = 0.0
    start: int = 0
    size: int = 0
    error: float = 0.0

    def __post_init__(self) -> None:
        self.loss_per_bit = self.config.loss_per_bit
        # A short run still follows its target in many small steps.
        self.interval = max(1, min(self.config.cost_interval, self.steps // _UPDATES))
        self.freeze_step = int(self.config.freeze_at * self.steps)

    def begin(self, weights: Mapping[str, Tensor], wish: int = 0) -> None:
        """Count bytes and costs before the first step; refuse a target that cannot be had.

        Args:
            weights: as they are, by name.
            wish: bytes that the ratio of the configuration asks for, if it has one.

        Raises:
            ModelError: the target is above or below the range that the model can have.
        """
        self.start = self.size = self.count(weights)
        self.loss_per_bit = self.first
        for name, quantized in self.quantized.items():
            quantized.update_costs_(weights[name])
        config = self.config
        if not (config.target_bytes or config.target_ratio):
            return
        least = self.bytes_of({n: torch.zeros_like(q.codes) for n, q in self.quantized.items()})
        self.target = config.target_bytes
        if not self.target:
            self.target = max(math.ceil(_ABOVE_LEAST * least), wish)
            self.target = min(self.target, self.start)
        more = " and more" if self.target <= least else ""  # on a finer grid
        if not least < self.target <= self.start:
            raise ModelError(
                f"a file of {self.target:,} bytes cannot be had by the method 'rate': this model "
                f"takes from about {least:,} bytes, where all quantized weights are zero, to "
                f"{self.start:,}{more}; choose a target between these"
            )

    @property
    def first(self) -> float:
        """The loss that a bit is worth before the first step."""
        return self.config.loss_per_bit or _ALL_BITS / (8 * self.start)

    def count(self, weights: Mapping[str, Tensor]) -> int:
        """Return the bytes of the file with the codes that weights have now."""
        return self.bytes_of(self._codes(weights))

    def _codes(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: q.codes_of(weights[name]) for name, q in self.quantized.items()}

    def bytes_of(self, codes: Mapping[str, Tensor]) -> int:
        """Return the bytes of the file with these codes."""
        tensors = {}
        dtype: torch.dtype = getattr(torch, self.config.level_dtype)
        for name, quantized in self.quantized.items():
            levels = quantized.stored_levels()[codes[name].long() + quantized.largest]
            values = torch.where(codes[name] == 0, torch.zeros_like(levels), levels)
            tensors[name] = round_tables(CompressedTensor.from_values(values.cpu()), dtype)
        return self.file_bytes(tensors)

    def goal(self, step: int) -> float:
        """Return the bytes that a step aims at: they fall geometrically from those at the start.

        Example:
            >>> config = QuantizationConfig(method="rate", bits=4, target_bytes=1000)
            >>> control = RateControl(config, 1000, {}, lambda tensors: 0, target=1000, start=4000)
            >>> [round(control.goal(step)) for step in (0, 350, 700, 900)]
            [4000, 2000, 1000, 1000]
        """
        share = min(1.0, step / max(1.0, self.config.target_ramp * self.steps))
        return float(self.start * (self.target / self.start) ** share)

    def update(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Count the bytes; set the loss per bit by what is missing, and those of all codes."""
        if self.target:
            self.size = self.count(weights)
            error = math.log(self.size / self.goal(step))
            change = _GAIN * error + _DAMPING * (error - self.error)
            self.error = error
            change = math.exp(max(-_MOST_CHANGE, min(_MOST_CHANGE, change)))
            # Far dearer bits would throw weights across zero, and those would take more bits.
            limits = self.first / _FARTHEST, self.first * _FARTHEST
            self.loss_per_bit = max(limits[0], min(limits[1], self.loss_per_bit * change))
        if step % (self.config.cost_interval // self.interval * self.interval) == 0:
            for name, quantized in self.quantized.items():
                quantized.update_costs_(weights[name])

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the bits of all weights in units of the loss."""
        rates = [q.rate(weights[name]).float() for name, q in self.quantized.items()]
        return self.loss_per_bit * torch.stack(rates).sum()

    @torch.no_grad()
    def freeze_(self, weights: Mapping[str, Tensor]) -> None:
        """Choose the codes that the model ends with; with a target, so that the file has its bytes.

        They are those that the model has trained with, as far as the bytes allow: a rounding of
        another kind would change many at once. Where the file is too large, codes get smaller
        where squared distance and bits together are least (rate-distortion optimal quantization);
        where it is too small, the dead zone does.
        """
        codes = self._codes(weights)
        if self.target:
            size = self.bytes_of(codes)
            if size > self.target:
                codes = self._lowered(weights, codes)
            elif size < self.target * (1 - _MOST_MISSING):
                codes = self._filled(weights, codes)
        self._keep_(codes)

    @torch.no_grad()
    def lower_(self, weights: Mapping[str, Tensor]) -> None:
        """Bring a file of kept codes that has come above the target within it again.

        What is not quantized may take a few bytes more when a run ends than when codes were kept.
        Codes get smaller or stay, so that no zero returns.
        """
        kept = {name: q.codes for name, q in self.quantized.items()}
        if self.target and self.bytes_of(kept) > self.target:
            self._keep_(self._lowered(weights, kept))

    def _keep_(self, codes: Mapping[str, Tensor]) -> None:
        self.size = self.bytes_of(codes)
        for name, quantized in self.quantized.items():
            quantized.freeze_(codes[name])

    def _lowered(
        self, weights: Mapping[str, Tensor], codes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Codes of a file within the target, none of them larger than the one given."""
        chosen, fitting = dict(codes), None
        for number in range(_MOST_ROUNDS):
            costed = {name: q.costs_at(chosen[name]) for name, q in self.quantized.items()}

            def at(exchange: float, costed: dict[str, Tensor] = costed) -> dict[str, Tensor]:
                return {
                    name: _cheapest(q, weights[name], codes[name], costed[name], exchange)
                    for name, q in self.quantized.items()
                }

            found = self._largest_within_target(at, 0.0, _HIGHEST_EXCHANGE)
            fitting = fitting if found is None else found
            if fitting is not None and number + 1 >= _ROUNDS:
                return fitting
            chosen = at(_HIGHEST_EXCHANGE) if found is None else found

        def with_dead_zone(dead_zone: float) -> dict[str, Tensor]:
            return {
                name: _smaller(q.rounded(weights[name], dead_zone), codes[name])
                for name, q in self.quantized.items()
            }

        ratios = [(weights[n].detach().abs() / q.step).flatten() for n, q in self.quantized.items()]
        most = 1.0 + float(torch.cat(ratios).max())
        found = self._largest_within_target(with_dead_zone, 0.0, most)
        return with_dead_zone(most) if found is None else found

    def _filled(self, weights: Mapping[str, Tensor], codes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Codes with so small a dead zone that the file has hardly less than the target."""

        def with_dead_zone(dead_zone: float) -> dict[str, Tensor]:
            return {name: q.rounded(weights[name], dead_zone) for name, q in self.quantized.items()}

        found = self._largest_within_target(
            with_dead_zone, _LEAST_DEAD_ZONE, self.config.dead_zone, missing=_MOST_MISSING
        )
        return codes if found is None else found

    def _largest_within_target(
        self,
        choose: Callable[[float], dict[str, Tensor]],
        low: float,
        high: float,
        *,
        missing: float = _TOLERANCE,
    ) -> dict[str, Tensor] | None:
        """The codes that take most bytes within the target; they take fewer the higher a number.

        Any that miss no more than this fraction of the target will do.
        """
        target, found = self.target, None
        for number in range(_HALVINGS):
            # Most runs end near the target.
            middle = (low + high) / 2 if number else low + (high - low) / 16
            codes = choose(middle)
            size = self.bytes_of(codes)
            if size > target:
                low = middle
                continue
            high, found = middle, codes
            if size >= target * (1 - missing):
                break
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the plain numbers of the state; costs and codes are in that of the model."""
        names = ("loss_per_bit", "start", "size", "error")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Any) -> None:
        """Continue from a state. Raises CheckpointError where it is none."""
        known = state if isinstance(state, dict) else {}
        numbers = {"loss_per_bit": float, "error": float, "start": int, "size": int}
        found: dict[str, Any] = {name: known.get(name) for name in numbers}
        sound = all(
            isinstance(found[name], kind) and math.isfinite(found[name])
            for name, kind in numbers.items()
        )
        if not sound or found["loss_per_bit"] <= 0 or found["start"] < 1:
            raise CheckpointError(
                "this is not the state of a Quantizer with the method 'rate'; give what its "
                "state_dict() returned"
            )
        for name, value in found.items():
            setattr(self, name, value)


def _cheapest(
    quantized: RateWeight, weight: Tensor, codes: Tensor, bits: Tensor, exchange: float
) -> Tensor:
    """The code of least squared distance plus ``exchange`` times bits, at most the one given.

    The distance is from the middle of the interval of a code, as the dead zone shifts it: without
    bits, each weight keeps its code.
    """
    given = codes.abs().flatten().float()
    magnitudes = (weight.detach().abs() / quantized.step).flatten() - quantized.dead_zone
    magnitudes = magnitudes.clamp(given - 0.5, given + 0.5)[:, None]
    choices = torch.stack([torch.zeros_like(given), (given - 2).clamp(min=0), given - 1, given], 1)
    choices = choices.clamp(min=0)
    costs = (choices - magnitudes) ** 2 + exchange * bits.gather(1, choices.long())
    chosen = choices.gather(1, costs.argmin(1, keepdim=True)).view_as(weight)
    return _smaller(chosen, codes)


def _smaller(magnitudes: Tensor, codes: Tensor) -> Tensor:
    """Codes with the smaller of two magnitudes."""
    return (torch.minimum(magnitudes.abs(), codes.abs()) * codes.sign()).to(torch.int16)
