"""Quantized weights with learned levels: learned step size (LSQ), and ternary with two scales."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import WeightParametrization

__all__ = ["LearnedStepWeight", "TernaryWeight"]

_LEAST_STEP = 1e-8
_LEAST_SHARE = 1e-6  # of the smallest step at the start


def _least_step(steps: Tensor) -> float:
    """A floor for steps that training takes to zero, far below those at the start."""
    info = torch.finfo(steps.dtype)
    least = max(_LEAST_STEP, info.tiny)
    used = steps[steps > 0]
    if used.numel():
        least = min(least, _LEAST_SHARE * float(used.min()))
    return max(least, info.tiny * info.eps)  # the smallest number above 0


class _LearnedStep(torch.autograd.Function):
    """Multiples of a step, clipped; gradients to the weight and to the step."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, step: Tensor, mask: Tensor, lowest: int, highest: int
    ) -> Tensor:
        ratio = weight / step
        codes = ratio.round().clamp(lowest, highest)
        ctx.save_for_backward(ratio, codes, mask, step)
        ctx.ends = (lowest, highest)
        return torch.where(mask, codes * step, torch.zeros_like(codes))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,) = gradients
        ratio, codes, mask, step = ctx.saved_tensors
        lowest, highest = ctx.ends
        inside = mask & (ratio >= lowest) & (ratio <= highest)
        zero = torch.zeros_like(gradient)  # not a product, which makes NaN of an infinite gradient
        by_step = torch.where(mask, torch.where(inside, codes - ratio, codes) * gradient, zero)
        dims = [dim for dim in range(by_step.ndim) if step.ndim == 0 or step.shape[dim] == 1]
        kept = mask.sum(dims, keepdim=step.ndim > 0).clamp(min=1)
        share = 1 / (kept * max(1, highest)).sqrt()
        total = by_step.sum(dims, keepdim=step.ndim > 0) * share
        return torch.where(inside, gradient, zero), total, None, None, None


class LearnedStepWeight(WeightParametrization):
    """Quantize a weight to multiples of a learned step (LSQ); pruned weights are exactly 0.

    Of the 2^bits levels one is zero. ``step`` is a parameter, one or one for each channel; it
    starts at 2·mean|w|/√(2^(bits − 1) − 1), and its gradient is scaled as in the source. Where
    ``mask`` is False, neither the weight nor the step gets a gradient.

    Args:
        weight: as it is now, for the first step.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned.
        bits: 2 to 8.
        per_channel: a step for each slice along the first axis.

    Raises:
        ModelError: bits are out of range.

    Example:
        >>> weight, mask = torch.tensor([-1.0, 0.1, 0.4]), torch.tensor([True, True, True])
        >>> layer = LearnedStepWeight(weight, mask, bits=2)
        >>> layer.step.item(), layer(weight).tolist()
        (1.0, [-1.0, 0.0, 0.0])

    Source: Esser et al. 2020, "Learned step size quantization", §2.
    """

    mask: Tensor

    def __init__(
        self, weight: Tensor, mask: Tensor, *, bits: int, per_channel: bool = False
    ) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ModelError(f"a learned step takes 2 to 8 bits; found {bits}")
        self.register_buffer("mask", mask)
        self.bits = bits
        self.per_channel = per_channel and weight.ndim > 1
        dims = tuple(range(1 if self.per_channel else 0, weight.ndim))
        wide = torch.promote_types(weight.dtype, torch.float32)  # 16 bits do not hold the sum
        magnitudes = (weight.detach().abs() * mask).sum(dims, dtype=wide)
        steps = 2 * magnitudes / mask.sum(dims).clamp(min=1) / math.sqrt(self._ends[1])
        steps = steps.to(weight.dtype)
        self._least = _least_step(steps)
        empty = max(_LEAST_STEP, torch.finfo(weight.dtype).tiny)  # of a channel of zeros
        self.step = nn.Parameter(torch.where(steps > 0, steps, empty).clamp(min=self._least))

    @property
    def _ends(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @torch.no_grad()
    def set_bits_(self, bits: int) -> None:
        """Change the number of bits; the range stays about the same."""
        before = self._ends[1]
        self.bits = bits
        self.step.mul_(before / self._ends[1])

    def get_extra_state(self) -> Tensor:
        """Return the number of bits, which belongs to the step."""
        return torch.tensor(self.bits)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the number of bits from a state."""
        self.bits = int(state)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        step = self._step(weight)
        seen: Tensor = _LearnedStep.apply(weight, step, self.mask, *self._ends)  # type: ignore[no-untyped-call]
        return seen

    def _step(self, weight: Tensor) -> Tensor:
        """The step, or that of each channel with dimensions of 1 after it."""
        info = torch.finfo(self.step.dtype)
        step = self.step.abs().clamp(min=max(self._least, info.tiny * info.eps))
        return step.view(-1, *[1] * (weight.ndim - 1)) if self.per_channel else step

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and levels, with scales of the channels."""
        if not self.per_channel:
            return CompressedTensor.from_values(self(weight))
        step = self._step(weight)
        codes = (weight / step).round().clamp(*self._ends) * self.mask
        return dataclasses.replace(CompressedTensor.from_values(codes), scales=step.flatten())


class _Ternary(torch.autograd.Function):
    """+positive, 0 or −negative; gradients to the weight and to both scales."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, positive: Tensor, negative: Tensor, signs: Tensor, mask: Tensor
    ) -> Tensor:
        ctx.save_for_backward(positive, negative, signs, mask)
        values = torch.where(signs > 0, positive, -negative)
        return torch.where(signs == 0, torch.zeros_like(values), values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (gradient,) = gradients
        positive, negative, signs, mask = ctx.saved_tensors
        above, below = signs > 0, signs < 0
        slope = torch.where(above, positive, torch.where(below, negative, 1.0))
        share = 1 / mask.sum().clamp(min=1).sqrt()
        by_scales = (gradient[above].sum() * share, -gradient[below].sum() * share)
        by_weight = torch.where(mask, gradient * slope, torch.zeros_like(gradient))
        return by_weight, *by_scales, None, None


class TernaryWeight(WeightParametrization):
    """Quantize a weight to +p, 0 or −n, with p and n learned (TTQ).

    A weight is always 0 where ``mask`` is False, and for the time being where its magnitude is at
    most ``threshold`` of the largest. ``positive`` and ``negative`` are parameters that start at
    the mean magnitudes. Each gets the sum of the gradients of its side over the square root of the
    number of weights; the sum alone, as in the first source, is that much too large for the
    learning rate of the weights. Weights get their gradient times the scale of their side.

    Args:
        weight: as it is now, for the first scales.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned.
        threshold: a fraction from 0 up to 1.

    Raises:
        ModelError: the threshold is no such fraction.

    Example:
        >>> weight, mask = torch.tensor([-1.0, 0.01, 0.5, 1.5]), torch.ones(4, dtype=torch.bool)
        >>> TernaryWeight(weight, mask)(weight).tolist()
        [-1.0, 0.0, 1.0, 1.0]

    Sources: Zhu et al. 2017, "Trained ternary quantization", §3; the gradient scale is that of
    Esser et al. 2020, §2.2.
    """

    mask: Tensor

    def __init__(self, weight: Tensor, mask: Tensor, *, threshold: float = 0.05) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ModelError(f"the threshold is a fraction from 0 up to 1; found {threshold}")
        self.register_buffer("mask", mask)
        self.threshold = threshold
        signs, dense = self._signs(weight.detach()), weight.detach()
        means = [
            dense[side].abs().mean() if bool(side.any()) else dense.new_ones(())
            for side in (signs > 0, signs < 0)
        ]
        self.positive, self.negative = (nn.Parameter(mean.clone()) for mean in means)

    @torch.no_grad()
    def _signs(self, weight: Tensor) -> Tensor:
        kept = torch.where(self.mask, weight, torch.zeros_like(weight))
        if not kept.numel():
            return kept
        limit = self.threshold * kept.abs().max()
        return kept.sign() * (kept.abs() > limit)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        signs = self._signs(weight)
        seen: Tensor = _Ternary.apply(weight, self.positive, self.negative, signs, self.mask)  # type: ignore[no-untyped-call]
        return seen

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and levels."""
        return CompressedTensor.from_values(self(weight))
