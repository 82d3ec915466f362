"""Quantized weights whose levels follow from the weights: fixed point, and binary with a scale."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from flyweight.compressed import CompressedTensor
from flyweight.modules import WeightParametrization, straight_through
from flyweight.quantization.fixed_point import FixedPoint

__all__ = ["BinaryWeight", "FixedPointWeight"]


class FixedPointWeight(WeightParametrization):
    """Quantize a weight to fixed point, with a straight-through gradient; pruned weights are 0.

    The range follows the weights at every step. The optimizer trains the float weight; pruned
    weights get no gradient.

    Args:
        mask: bool, of the shape of the weight, True for weights that are not pruned.
        fixed_point: the grid.

    Example:
        >>> layer = FixedPointWeight(torch.tensor([True, True, True, False]), FixedPoint(1))
        >>> layer(torch.tensor([-1.0, 0.1, 2.0, 3.0])).tolist()
        [-1.0, -1.0, 2.0, 0.0]

    Source: Zhou et al. 2016, "DoReFa-Net".
    """

    mask: Tensor

    def __init__(self, mask: Tensor, fixed_point: FixedPoint) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.fixed_point = fixed_point

    def set_bits_(self, bits: int) -> None:
        """Change the number of bits."""
        self.fixed_point = dataclasses.replace(self.fixed_point, bits=bits)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        values = self.fixed_point.quantize(weight, self.mask)
        return straight_through(weight, values, self.mask)

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and levels, with scales of the channels."""
        return self.fixed_point.compressed(weight, self.mask)


class BinaryWeight(WeightParametrization):
    """Quantize a weight to ±scale, with a straight-through gradient; pruned weights are 0.

    The scale is the mean magnitude of the weights that are not pruned, of all or of each channel,
    which has the least squared error.

    Args:
        mask: bool, of the shape of the weight, True for weights that are not pruned.
        per_channel: a scale for each slice along the first axis.

    Example:
        >>> BinaryWeight(torch.tensor([True, True, False]))(torch.tensor([-1.0, 2.0, 9.0])).tolist()
        [-1.5, 1.5, 0.0]

    Source: Rastegari et al. 2016, "XNOR-Net", §3.1.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, per_channel: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.per_channel = per_channel and mask.ndim > 1

    @torch.no_grad()
    def _scale(self, weight: Tensor) -> Tensor:
        """The mean magnitude of all, or of each channel with dimensions of 1 after it."""
        dims = tuple(range(1, weight.ndim)) if self.per_channel else tuple(range(weight.ndim))
        magnitudes = torch.where(self.mask, weight.abs(), torch.zeros_like(weight))
        count = self.mask.sum(dims, keepdim=self.per_channel).clamp(min=1)
        wide = torch.promote_types(weight.dtype, torch.float32)  # 16 bits do not hold the sum
        total = magnitudes.sum(dims, keepdim=self.per_channel, dtype=wide)
        return (total / count).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        scale = self._scale(weight)
        values = torch.where(weight < 0, -scale, scale)
        return straight_through(weight, values, self.mask)

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """Return the quantized weight as symbols and levels, with scales of the channels."""
        if not self.per_channel:
            return CompressedTensor.from_values(self(weight))
        signs = torch.where(weight < 0, -torch.ones_like(weight), torch.ones_like(weight))
        tensor = CompressedTensor.from_values(signs * self.mask)
        return dataclasses.replace(tensor, scales=self._scale(weight).flatten())
