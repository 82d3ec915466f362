"""A quantized weight with a cost: multiples of a step, and the bits that each would take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flyweight.coding.context import context_costs
from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError
from flyweight.modules import WeightParametrization
from flyweight.quantization.rounded_float import RoundedFloat

__all__ = ["RateWeight"]

_ORDER_ZERO_SHARE = 0.1  # of a cost; the rest is by context
_UNSEEN = 0.1  # of an occurrence: the count of a magnitude that does not occur yet


class _OnGrid(torch.autograd.Function):
    """Codes times a step; the gradient goes straight through, but not further beyond the grid."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, codes: Tensor, step: Tensor, mask: Tensor, largest: int
    ) -> Tensor:
        ctx.save_for_backward(weight, step, mask)
        ctx.largest = largest
        return codes * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,), (weight, step, mask) = gradients, ctx.saved_tensors
        within = weight.abs() <= (ctx.largest + 0.5) * step
        passed = mask & (within | (weight * gradient > 0))
        zero = torch.zeros_like(gradient)
        return torch.where(passed, gradient, zero), None, None, None, None


class _LevelsOfCodes(torch.autograd.Function):
    """Levels of codes; a level gets the gradients of its weights, over the root of their number."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.number = levels.numel()
        return levels[places]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (places,) = gradients, ctx.saved_tensors
        flat, of = places.flatten(), gradient.flatten()
        total = of.new_zeros(ctx.number).index_add_(0, flat, of)
        counts = torch.bincount(flat, minlength=ctx.number).clamp(min=1)
        return total / counts.sqrt(), None


class _Rate(torch.autograd.Function):
    """Bits of magnitudes in steps, interpolated between the costs of codes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, costs: Tensor) -> Tensor:
        most = costs.shape[1] - 1
        magnitudes = torch.nan_to_num(weight.abs().flatten() / step, nan=0.0).clamp(max=most)
        lower = magnitudes.floor().clamp(max=costs.shape[1] - 2)
        places = lower.long()[:, None]
        at = costs.gather(1, places)[:, 0].float()
        slopes = costs.gather(1, places + 1)[:, 0].float() - at
        ctx.save_for_backward(weight, step, slopes)
        return (at + slopes * (magnitudes - lower)).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (weight, step, slopes) = gradients, ctx.saved_tensors
        # Where a larger code is cheaper, nothing pulls: the cost is not to make weights grow.
        pull = slopes.clamp(min=0).view_as(weight) * weight.sign()
        return (gradient / step * pull).to(weight.dtype), None, None


class RateWeight(WeightParametrization):
    """Quantize a weight to multiples of a step with a dead zone; know what that costs in a file.

    The code of a weight w is sign(w)·⌊|w|/step + ½ − dead_zone⌋, at most ``largest`` in magnitude.
    The gradient goes straight through to all weights, also to those whose code is 0, so that these
    may return. `rate` is the number of bits, by the costs of `update_costs_`. After `freeze_`
    the codes stay, and what trains is the level of each code.

    Args:
        weight: as it is now.
        mask: bool, of the shape of ``weight``, False for weights that stay 0.
        step: distance of levels, above 0.
        largest: the largest code, 1 to 127.
        dead_zone: 0 rounds to nearest; up to ½, which rounds down.
        stored: rounds the levels that train after `freeze_` as the file stores them.

    Attributes:
        codes: int16, of the shape of ``weight``; after `freeze_` those that are kept.
        is_frozen: whether the codes are kept.

    Raises:
        ModelError: the step is not above 0 and finite.

    Example:
        >>> weight = torch.tensor([-2.0, 0.6, 0.9])
        >>> layer = RateWeight(weight, weight != 0, step=1.0, largest=3)
        >>> layer(weight).tolist()
        [-2.0, 0.0, 1.0]
        >>> layer.update_costs_(weight)
        >>> layer.freeze_(layer.codes_of(weight))
        >>> layer(torch.zeros(3)).tolist()
        [-2.0, 0.0, 1.0]

    Sources: Bengio et al. 2013 (straight-through estimator); Ballé et al. 2017 (a rate term in
    training); Wiedemann et al. 2020, "DeepCABAC", §III (bits of a context coder as costs).
    """

    mask: Tensor
    step: Tensor
    codes: Tensor
    costs: Tensor

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        *,
        step: float,
        largest: int,
        dead_zone: float = 0.2,
        stored: RoundedFloat | None = None,
    ) -> None:
        super().__init__()
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.register_buffer("mask", mask)
        self.register_buffer("step", torch.tensor(step, dtype=wide, device=weight.device))
        if not 0 < float(self.step) < float("inf"):
            raise ModelError(f"the step of a grid is above 0 and finite; found {step}")
        self.largest = largest
        self.dead_zone = dead_zone
        self.stored = RoundedFloat(torch.float32) if stored is None else stored
        self.is_frozen = False
        self.register_buffer("codes", torch.zeros_like(weight, dtype=torch.int16))
        shape = weight.numel(), largest + 1
        self.register_buffer("costs", torch.zeros(shape, dtype=torch.float16, device=weight.device))
        grid = torch.arange(-largest, largest + 1, device=weight.device)
        self.levels = nn.Parameter((grid * self.step).to(weight.dtype))

    def get_extra_state(self) -> Tensor:
        """Return whether the codes are kept."""
        return torch.tensor(self.is_frozen)

    def set_extra_state(self, state: Tensor) -> None:
        """Set from a state whether the codes are kept."""
        self.is_frozen = bool(state)

    @torch.no_grad()
    def codes_of(self, weight: Tensor) -> Tensor:
        """Return the codes of a weight as it is, or those that are kept; int16."""
        return self.codes if self.is_frozen else self.rounded(weight, self.dead_zone)

    @torch.no_grad()
    def rounded(self, weight: Tensor, dead_zone: float) -> Tensor:
        """Return the codes of a weight with a dead zone, whatever codes are kept; int16."""
        return (self._rounded(weight, dead_zone) * self.mask).to(torch.int16)

    def _rounded(self, weight: Tensor, dead_zone: float) -> Tensor:
        magnitudes = (weight.abs() / self.step + (0.5 - dead_zone)).floor()
        return magnitudes.clamp(min=0, max=self.largest) * weight.sign()

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        seen: Tensor
        if self.is_frozen:
            places = self.codes.long() + self.largest
            values: Tensor = _LevelsOfCodes.apply(self.stored(self.levels), places)  # type: ignore[no-untyped-call]
            seen = torch.where(self.codes == 0, torch.zeros_like(values), values)
            return seen
        codes = torch.where(self.mask, self._rounded(weight.detach(), self.dead_zone), 0.0)
        seen = _OnGrid.apply(weight, codes, self.step, self.mask, self.largest)  # type: ignore[no-untyped-call]
        return seen.to(weight.dtype)

    def stored_levels(self) -> Tensor:
        """Return the level of each code from -largest on as the file stores it."""
        return self.stored.rounded(self.levels)

    def rate(self, weight: Tensor) -> Tensor:
        """Return the bits of a weight, a scalar whose gradient pulls it towards cheaper codes.

        Between two codes the bits are interpolated. 0 after `freeze_`, when nothing can be saved.
        """
        if self.is_frozen:
            return weight.new_zeros(())
        bits: Tensor = _Rate.apply(weight, self.step, self.costs)  # type: ignore[no-untyped-call]
        return bits

    @torch.no_grad()
    def update_costs_(self, weight: Tensor) -> None:
        """Set the cost of each magnitude in the place of each weight to what the coder takes now.

        It is the mean of both signs, nine parts by context and one by the counts of the tensor.
        """
        self.costs.copy_(self.costs_at(self.codes_of(weight)))

    def costs_at(self, codes: Tensor) -> Tensor:
        """Return bits, float32 of the form of ``costs``, where codes are as given."""
        values = codes.to(torch.int32).cpu().numpy()
        by_context = context_costs(values, self.largest).reshape(-1, 2 * self.largest + 1)
        middle = self.largest
        both = (by_context[:, middle:] + by_context[:, middle::-1]) / 2
        counts = np.bincount(np.abs(values).ravel(), minlength=self.largest + 1) + _UNSEEN
        signs = np.arange(self.largest + 1) > 0
        by_counts = (np.log2(counts.sum() / counts) + signs).astype(np.float32)
        costs = both + _ORDER_ZERO_SHARE * (by_counts - both)
        return torch.from_numpy(costs).to(self.costs.device)

    @torch.no_grad()
    def freeze_(self, codes: Tensor) -> None:
        """Keep codes; from now on their levels train."""
        self.codes.copy_(codes * self.mask)
        self.is_frozen = True

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and levels."""
        return CompressedTensor.from_values(self(weight))
