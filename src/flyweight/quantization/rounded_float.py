"""A float parameter that trains on the values that a file stores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flyweight.compressed import rounded
from flyweight.modules import WeightParametrization

__all__ = ["RoundedFloat"]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, dtype: torch.dtype, mantissa_bits: int) -> Tensor:
        return rounded(value, dtype, mantissa_bits=mantissa_bits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class RoundedFloat(WeightParametrization):
    """Round a parameter to the type and bits of the mantissa that a file stores; train through it.

    Does nothing until ``is_active``.

    Args:
        dtype: as `flyweight.compressed.rounded` takes it.
        mantissa_bits: the same; 0 for all that the type has.

    Example:
        >>> layer = RoundedFloat(torch.float16, mantissa_bits=2)
        >>> layer.is_active = True
        >>> layer(torch.tensor([1.2, -1.3])).tolist()
        [1.25, -1.25]

    Source: Bengio et al. 2013 (straight-through estimator).
    """

    def __init__(self, dtype: torch.dtype, mantissa_bits: int = 0) -> None:
        super().__init__()
        self.dtype = dtype
        self.mantissa_bits = mantissa_bits
        self.is_active = False

    def get_extra_state(self) -> Tensor:
        """Return whether it rounds."""
        return torch.tensor(self.is_active)

    def set_extra_state(self, state: Tensor) -> None:
        """Set from a state whether it rounds."""
        self.is_active = bool(state)

    def rounded(self, value: Tensor) -> Tensor:
        """Return the value as the file stores it, active or not."""
        return rounded(value.detach(), self.dtype, mantissa_bits=self.mantissa_bits)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value as the file stores it."""
        if not self.is_active:
            return value
        seen: Tensor = _Rounded.apply(value, self.dtype, self.mantissa_bits)  # type: ignore[no-untyped-call]
        return seen
