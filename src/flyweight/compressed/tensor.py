"""Quantized tensors as symbols and levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flyweight.coding import MAX_LEVELS
from flyweight.coding.channels import SCALED_DTYPES
from flyweight.compressed.conversion import dtype_name, gradual_underflow
from flyweight.errors import ModelError

__all__ = ["CompressedTensor", "by_channel"]

_BLOCK = 1 << 20  # elements with scales that are dequantized at a time


def by_channel(levels: Tensor, scales: Tensor, offsets: Tensor | None) -> Tensor:
    """Multiply levels by the scales of their channels and add the offsets.

    ``levels`` has any shape; ``scales`` and ``offsets`` are 1-D, one for each place along its first
    axis, and of its dtype.

    Example:
        >>> by_channel(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 0.5]), None).tolist()
        [[3.0], [1.0]]
    """
    along = (-1, *[1] * (levels.ndim - 1))
    wide = torch.promote_types(levels.dtype, torch.float32)
    values = levels.to(wide) * scales.to(wide).view(along)
    if offsets is not None:
        values = values + offsets.to(wide).view(along)
    return values.to(levels.dtype)


@dataclass(frozen=True, eq=False)
class CompressedTensor:
    """A quantized tensor: symbols, levels, and optional scales and offsets of its channels.

    Attributes:
        symbols: integers of the tensor's shape: 0 is an exact zero, k ≥ 1 is ``levels[k − 1]``.
        levels: 1-D, of the tensor's dtype.
        scales: where the channels, along the first axis, have scales: 1-D, one for each, of the
            tensor's dtype. The value is then ``levels[k − 1] * scales[channel]``.
        offsets: the same, added to that; only with scales. An exact zero stays one.

    Scales and offsets are applied in float32, or float64 if that is the dtype, each operation
    rounded to nearest; values of 16 bits are rounded again at the end.

    Raises:
        ModelError: scales or offsets are of another length or dtype, or belong to values of a dtype
            other than float16, bfloat16, float32 and float64.

    Example:
        >>> CompressedTensor(torch.tensor([[0, 2]]), torch.tensor([-1.5, 0.5])).dequantize()
        tensor([[0.0000, 0.5000]])
        >>> symbols, scales = torch.tensor([[1, 2], [0, 2]]), torch.tensor([1.0, 0.25])
        >>> CompressedTensor(symbols, torch.tensor([-1.0, 1.0]), scales).dequantize()
        tensor([[-1.0000,  1.0000],
                [ 0.0000,  0.2500]])
    """

    symbols: Tensor
    levels: Tensor
    scales: Tensor | None = None
    offsets: Tensor | None = None

    def __post_init__(self) -> None:
        if self.scales is None and self.offsets is not None:
            raise ModelError("a compressed tensor has offsets of its channels and no scales")
        for what, table in (("scales", self.scales), ("offsets", self.offsets)):
            if table is None:
                continue
            if dtype_name(self.dtype) not in SCALED_DTYPES or table.dtype != self.dtype:
                raise ModelError(f"values of {self.dtype} cannot have {what} of {table.dtype}")
            if not self.shape or table.shape != self.shape[:1]:
                raise ModelError(
                    f"a tensor of shape {tuple(self.shape)} has one of the {what} for each place "
                    f"along its first axis; found shape {tuple(table.shape)}"
                )

    @staticmethod
    @gradual_underflow()
    def from_values(values: Tensor) -> CompressedTensor:
        """Represent a tensor by symbols and its distinct non-zero values in ascending order.

        Raises:
            ModelError: it has more distinct values than a file can hold, or one is not finite.

        Example:
            >>> CompressedTensor.from_values(torch.tensor([0.5, 0.0, -1.0, 0.5])).symbols
            tensor([2, 0, 1, 2], dtype=torch.int32)
        """
        values = values.detach()
        if not bool(torch.isfinite(values).all()):
            raise ModelError("values hold NaN or infinity and cannot be levels")
        nonzero = values != 0
        levels, numbers = torch.unique(values[nonzero], return_inverse=True)
        if levels.numel() > MAX_LEVELS:
            raise ModelError(
                f"a compressed tensor has at most {MAX_LEVELS} levels; found {levels.numel()}"
            )
        symbols = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
        symbols[nonzero] = (numbers + 1).to(torch.int32)
        return CompressedTensor(symbols, levels)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.symbols.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.levels.dtype

    @property
    def sparsity(self) -> float:
        """Fraction of the elements that are exactly zero, by their symbol or by their value."""
        by_symbol = self.scales is None and bool((self.levels != 0).all())
        zeros = self.symbols == 0 if by_symbol else self.dequantize() == 0
        return float(zeros.double().mean()) if zeros.numel() else 0.0

    def dequantize(self) -> Tensor:
        """Return the values, in the shape and dtype of the tensor."""
        table = torch.cat([self.levels.new_zeros(1), self.levels])
        with gradual_underflow():
            if self.scales is None:
                return _looked_up(table, self.symbols)
            values = torch.empty(self.shape, dtype=self.dtype, device=self.symbols.device)
            rows = max(1, _BLOCK * self.shape[0] // max(1, values.numel()))
            for start in range(0, self.shape[0], rows):
                block = slice(start, start + rows)
                symbols = self.symbols[block]
                levels = _looked_up(table, symbols)
                offsets = None if self.offsets is None else self.offsets[block]
                scaled = by_channel(levels, self.scales[block], offsets)
                values[block] = torch.where(symbols == 0, levels, scaled)
        return values

    def with_tables(self, function: Callable[[Tensor], Tensor]) -> CompressedTensor:
        """Apply a function to the levels, to the scales and to the offsets; keep the symbols.

        Example:
            >>> tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor([0.3, 0.5]))
            >>> tensor.with_tables(torch.neg).dequantize()
            tensor([-0.3000, -0.5000])
        """
        return CompressedTensor(
            self.symbols,
            function(self.levels),
            None if self.scales is None else function(self.scales),
            None if self.offsets is None else function(self.offsets),
        )


def _looked_up(table: Tensor, symbols: Tensor) -> Tensor:
    """Return the levels of symbols, without a copy of the symbols as wider integers."""
    if table.dtype.itemsize == 1 and table.dtype.is_floating_point:  # torch cannot select these
        return _looked_up(table.view(torch.uint8), symbols).view(table.dtype)
    return table.index_select(0, symbols.reshape(-1).int()).reshape(symbols.shape)
