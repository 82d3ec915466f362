"""Weights on few levels that follow from the weights: fixed point, and binary with a scale."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from flyweight.modules import WeightParametrization

from flyweight.compressed import CompressedTensor
from flyweight.modules.parametrize import straight_through
from flyweight.quantization.fixed_point import FixedPoint

__all__ = ["BinaryWeight", "FixedPointWeight"]


class FixedPointWeight(WeightParametrization):
    """The weight a layer sees is in fixed point where ``mask`` is True and exactly 0 elsewhere.

    The range follows the weights at every step. The optimiser keeps the dense weight, which gets
    the gradient straight through; pruned weights get none. ``mask`` is bool, of the shape of the
    weight.

    Example:
        >>> layer = FixedPointWeight(torch.tensor([True, True, True, False]), FixedPoint(1))
        >>> layer(torch.tensor([-1.0, 0.1, 2.0, 3.0])).tolist()
        [-1.0, -1.0, 2.0, 0.0]
    """

    mask: Tensor

    def __init__(self, mask: Tensor, fixed_point: FixedPoint) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.fixed_point = fixed_point

    def set_bits_(self, bits: int) -> None:
        """Go on with another number of bits."""
        self.fixed_point = dataclasses.replace(self.fixed_point, bits=bits)

    def forward(self, weight: Tensor) -> Tensor:
        values = self.fixed_point.quantize(weight, self.mask)
        return straight_through(weight, values, self.mask)

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """What the layer sees, as symbols and levels, with scales and offsets of the channels."""
        return self.fixed_point.compressed(weight, self.mask)


class BinaryWeight(WeightParametrization):
    """The weight a layer sees is ±scale where ``mask`` is True and exactly 0 elsewhere.

    The scale is the mean magnitude of the weights that are kept, of all or of each output, and so
    leaves the least squared error. The gradient goes straight through.

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
        """The mean magnitude of all, or of each output with dimensions of 1 after it."""
        dims = tuple(range(1, weight.ndim)) if self.per_channel else tuple(range(weight.ndim))
        magnitudes = torch.where(self.mask, weight.abs(), torch.zeros_like(weight))
        count = self.mask.sum(dims, keepdim=self.per_channel).clamp(min=1)
        wide = torch.promote_types(weight.dtype, torch.float32)  # 16 bits do not hold the sum
        total = magnitudes.sum(dims, keepdim=self.per_channel, dtype=wide)
        return (total / count).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        scale = self._scale(weight)
        values = torch.where(weight < 0, -scale, scale)
        return straight_through(weight, values, self.mask)

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """What the layer sees, as symbols and levels, with scales of the channels."""
        if not self.per_channel:
            return CompressedTensor.from_values(self(weight))
        signs = torch.where(weight < 0, -torch.ones_like(weight), torch.ones_like(weight))
        tensor = CompressedTensor.from_values(signs * self.mask)
        return dataclasses.replace(tensor, scales=self._scale(weight).flatten())
