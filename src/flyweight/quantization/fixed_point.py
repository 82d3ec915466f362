"""Fixed-point quantization: evenly spaced levels over the range of the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor, by_channel
from flyweight.errors import ModelError
from flyweight.modules import nonzero_mask

__all__ = ["SCHEMES", "FixedPoint", "Grid", "Scheme", "quantize_fixed_point"]

#: Scheme of fixed point: the position of its levels.
Scheme = Literal["uniform", "symmetric", "symmetric-no-zero"]
#: The names of `Scheme`.
SCHEMES: tuple[str, ...] = get_args(Scheme)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced levels of a tensor, or of each of its channels.

    With ``integers``, code q of ``lowest`` to ``highest`` is the value (q − origin)·scale; without,
    codes run from 0 to ``highest`` and scale is the whole span: q is origin + scale·q/highest.
    For channels it is (q − highest/2)·scale/highest plus origin + scale/2, which a file holds as a
    level, a scale and an offset.

    Attributes:
        scale: distance of levels or span, a scalar or one for each channel.
        origin: code of zero or value of code 0, likewise.
        lowest: least code.
        highest: largest code.
        integers: whether zero is a level, at code ``origin``.

    Example:
        >>> grid = Grid(torch.tensor(0.5), torch.tensor(0.0), -3, 3, integers=True)
        >>> codes = grid.codes(torch.tensor([-9.0, 0.1, 0.9]))
        >>> codes.tolist(), grid.values(codes).tolist()
        ([-3.0, 0.0, 2.0], [-1.5, 0.0, 1.0])
    """

    scale: Tensor
    origin: Tensor
    lowest: int
    highest: int
    integers: bool

    def codes(self, weight: Tensor) -> Tensor:
        """Return the codes of the nearest levels (the even one on a tie), as floats."""
        if self.integers:
            codes = torch.round(weight * (1 / self.scale)) + self.origin
        else:
            # Weights that are all the same have code 0, whatever they are divided by.
            span = torch.where(self.scale > 0, self.scale, torch.ones_like(self.scale))
            codes = torch.round((weight - self.origin) / span * self.highest)
        return codes.clamp(self.lowest, self.highest)

    def levels(self, codes: Tensor) -> Tensor:
        """Return the factors of the scales of channels: integers, or halves of odd ones."""
        return codes - self.origin if self.integers else codes - self.highest / 2

    def channels(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return scales and offsets of the channels, 1-D; None for offsets that are all 0."""
        if self.integers:
            return self.scale.flatten().to(dtype), None
        offsets = (self.origin + self.scale / 2).flatten().to(dtype)
        scales = (self.scale / self.highest).flatten().to(dtype)
        return scales, offsets if bool(offsets.any()) else None

    def values(self, codes: Tensor) -> Tensor:
        """Return the values of codes, of one range for all weights."""
        if self.integers:
            return (codes - self.origin) * self.scale
        return self.scale * (codes / self.highest) + self.origin


@dataclass(frozen=True)
class FixedPoint:
    """Settings of fixed-point quantization; the range is that of the weights each time.

    Attributes:
        bits: 1 to 8; 2 and more for "symmetric".
        scheme: "uniform" has 2^bits levels from the least to the largest weight;
            "symmetric-no-zero" has as many from −m to m, where m is the largest magnitude, and none
            at zero; "symmetric" has 2^(bits−1) − 1 on either side of a level at zero.
        per_channel: a range for each slice along the first axis: an output of a linear layer or a
            convolution, a row of an embedding.
        power_of_two: round the distance of levels up to a power of two.
        zero_level: "uniform" with zero among the 2^bits levels, and in the range.

    Raises:
        ModelError: a value is unknown or out of range.

    Example:
        >>> weight = torch.tensor([-1.0, 0.1, 0.8, 3.0])
        >>> kept = torch.tensor([True, True, True, False])
        >>> FixedPoint(3, "symmetric", power_of_two=True).quantize(weight, kept).tolist()
        [-1.0, 0.0, 1.0, 0.0]
    """

    bits: int
    scheme: Scheme = "uniform"
    per_channel: bool = False
    power_of_two: bool = False
    zero_level: bool = False

    def __post_init__(self) -> None:
        least = 2 if self.scheme == "symmetric" else 1
        if self.scheme not in SCHEMES:
            raise ModelError(
                f"scheme {self.scheme!r} is unknown; choose one of {', '.join(SCHEMES)}"
            )
        if not least <= self.bits <= 8:
            raise ModelError(
                f"fixed point, {self.scheme}, takes {least} to 8 bits; found {self.bits}"
            )
        if self.zero_level and self.scheme != "uniform":
            raise ModelError(f"zero_level is for the scheme 'uniform'; {self.scheme!r} has its own")

    @torch.no_grad()
    def grid(self, weight: Tensor, kept: Tensor) -> Grid:
        """Return the levels for the weights of a tensor where the bool mask ``kept`` is True."""
        steps = 2**self.bits - 1
        low, high = _range(weight, kept, per_channel=self.per_channel)
        if self.scheme == "symmetric" or self.zero_level:
            side = 2 ** (self.bits - 1) - 1
            if self.scheme == "symmetric":
                low, high = 0 * high, torch.maximum(high, -low)
                lowest, highest, steps = -side, side, side
            else:
                low, high = low.clamp(max=0), high.clamp(min=0)
                lowest, highest = 0, steps
            scale = self._distance((high - low) / steps)
            return Grid(scale, torch.round(-low / scale), lowest, highest, True)
        if self.scheme == "symmetric-no-zero":
            high = torch.maximum(high, -low)
            low = -high
        span = high - low
        if self.power_of_two:
            span = self._distance(span / steps) * steps
            low = -span / 2 if self.scheme == "symmetric-no-zero" else low
        return Grid(span, low, 0, steps, False)

    def _distance(self, distance: Tensor) -> Tensor:
        distance = distance.clamp(min=torch.finfo(distance.dtype).tiny)
        if not self.power_of_two:
            return distance
        mantissa, exponent = torch.frexp(distance)
        power = torch.ldexp(torch.ones_like(distance), exponent - (mantissa == 0.5).to(torch.int32))
        return torch.where(torch.isinf(distance), distance, power)  # infinity has no exponent

    @torch.no_grad()
    def quantize(self, weight: Tensor, kept: Tensor) -> Tensor:
        """Return the nearest levels, and 0 where the bool mask ``kept`` is False.

        The result has the shape and dtype of ``weight``; it is not finite if the range is too wide
        for that dtype.
        """
        exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        grid = self.grid(exact, kept)
        codes = grid.codes(exact)
        if grid.scale.ndim:
            levels = grid.levels(codes).to(weight.dtype)
            values = by_channel(levels, *grid.channels(weight.dtype))
        else:
            values = grid.values(codes).to(weight.dtype)
        return torch.where(kept, values, torch.zeros_like(values))

    @torch.no_grad()
    def compressed(self, weight: Tensor, kept: Tensor) -> CompressedTensor:
        """Return what `quantize` gives as symbols and levels, with scales and offsets of channels.

        Raises:
            ModelError: weights are not finite, or their range is too wide for their dtype.
        """
        nonzero_mask(weight, kept)  # raises for weights that are not finite
        values = self.quantize(weight, kept)
        if not bool(torch.isfinite(values).all()):
            low, high = (float(end) for end in _range(weight, kept, per_channel=False))
            raise ModelError(
                f"weights from {low:g} to {high:g} are too far apart for {self.bits} bits in "
                f"{weight.dtype}, which ends at {torch.finfo(weight.dtype).max:g}; scale them "
                "down or take a wider type"
            )
        exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        grid = self.grid(exact, kept)
        if not grid.scale.ndim:  # one range, or no weights
            return CompressedTensor.from_values(values)
        levels = grid.levels(grid.codes(exact)) * kept
        scales, offsets = grid.channels(weight.dtype)
        tensor = CompressedTensor.from_values(levels.to(weight.dtype))
        return replace(tensor, scales=scales, offsets=offsets)


def _range(weight: Tensor, kept: Tensor, *, per_channel: bool) -> tuple[Tensor, Tensor]:
    """Least and largest weight that is kept, of all or of each slice; 0 if there is none."""
    if per_channel and weight.ndim < 2:
        raise ModelError(
            f"a range for each channel needs two dimensions; the shape is {tuple(weight.shape)}"
        )
    dims = tuple(range(1, weight.ndim)) if per_channel else tuple(range(weight.ndim))
    if not weight.numel():
        return weight.new_zeros(()), weight.new_zeros(())
    ends = []
    for pick, worst in ((torch.amin, torch.inf), (torch.amax, -torch.inf)):
        end = pick(torch.where(kept, weight, worst), dims, keepdim=per_channel)
        ends.append(torch.where(torch.isinf(end), torch.zeros_like(end), end))
    return ends[0], ends[1]


def quantize_fixed_point(
    weight: Tensor,
    *,
    bits: int,
    scheme: Scheme = "uniform",
    per_channel: bool = False,
    mask: Tensor | None = None,
    power_of_two: bool = False,
    zero_level: bool = False,
) -> CompressedTensor:
    """Quantize the nonzero weights of a tensor to fixed point; zeros stay exactly zero.

    Args:
        weight: of any shape and float type.
        bits: 1 to 8; 2 and more for "symmetric".
        scheme: levels, as of `FixedPoint`.
        per_channel: a range for each slice along the first axis. For transposed convolutions,
            whose first axis is their inputs, leave it off.
        mask: bool, of the shape of ``weight``, True for weights that are not pruned; default: those
            that are not zero.
        power_of_two: round the distance of levels up to a power of two.
        zero_level: "uniform" with zero among the levels.

    Returns:
        Symbols and the levels in use. With ``per_channel`` levels are integers, or halves of odd
        ones, and each channel has a scale and, for "uniform", an offset.

    Raises:
        ModelError: bits or scheme are impossible, the mask has another shape, or weights are not
            finite or have a range too wide for their type.

    Example:
        >>> quantize_fixed_point(torch.tensor([0.0, -1.0, 0.1, 2.0]), bits=2).dequantize().tolist()
        [0.0, -1.0, 0.0, 2.0]

    Source: the straight-through quantizer with dynamic scaling of Zhou et al. 2016, "DoReFa-Net",
    on the weights that are not pruned.
    """
    settings = FixedPoint(bits, scheme, per_channel, power_of_two, zero_level)
    weight = weight.detach()
    return settings.compressed(weight, nonzero_mask(weight, mask))
