"""Masked and shared weights on any module, while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flyweight.compressed import CompressedTensor
from flyweight.errors import ModelError

__all__ = [
    "MaskedWeight",
    "SharedWeight",
    "attach_",
    "attach_shared_",
    "detach_",
    "parametrization_of",
]


class _MaskedProduct(torch.autograd.Function):
    """weight · mask, whose gradient may reach the pruned weights too."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, recovery: bool) -> Tensor:
        ctx.recovery = recovery
        ctx.save_for_backward(mask)
        return torch.where(mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (mask,) = ctx.saved_tensors
        return gradient if ctx.recovery else gradient * mask, None, None


class MaskedWeight(nn.Module):
    """The weight a layer sees is the dense one where ``mask`` is True and exactly 0 elsewhere.

    The optimiser keeps the dense weight, so nothing it does can revive a zero. With ``recovery``
    the gradient reaches the dense weight everywhere, and a weight may return when the mask is
    chosen again (Lin et al. 2020, "Dynamic model pruning with feedback"); without it pruned
    weights get no gradient.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, recovery: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.recovery = recovery

    def forward(self, weight: Tensor) -> Tensor:
        masked: Tensor = _MaskedProduct.apply(weight, self.mask, self.recovery)  # type: ignore[no-untyped-call]
        return masked


class _LookUp(torch.autograd.Function):
    """levels[symbols − 1], or 0 at symbol 0; a level's gradient is the sum over its weights."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, symbols: Tensor) -> Tensor:
        ctx.count = levels.numel()
        ctx.save_for_backward(symbols)
        return torch.cat([levels.new_zeros(1), levels])[symbols]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (symbols,) = ctx.saved_tensors
        sums = gradient.new_zeros(ctx.count + 1)
        sums.scatter_add_(0, symbols.flatten(), gradient.flatten())
        return sums[1:], None


class SharedWeight(nn.Module):
    """The weight a layer sees is looked up in ``levels``, which are trained; symbols stay fixed.

    The gradient of a level is the sum of the gradients of the weights that share it (Han et al.
    2016, "Deep compression", §3.3). Symbol 0 is exactly 0 for ever.
    """

    symbols: Tensor

    def __init__(self, symbols: Tensor) -> None:
        super().__init__()
        self.register_buffer("symbols", symbols.long())

    def forward(self, levels: Tensor) -> Tensor:
        weight: Tensor = _LookUp.apply(levels, self.symbols)  # type: ignore[no-untyped-call]
        return weight


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise ModelError(f"the model has no tensor named {name!r}") from None


def parametrization_of(model: nn.Module, name: str) -> nn.Module:
    """The parametrization that `attach_` put on the parameter ``name``."""
    module, leaf = _owner(model, name)
    parametrizations: Any = module.parametrizations
    found: nn.Module = parametrizations[leaf][0]
    return found


def attach_(model: nn.Module, parametrizations: Mapping[str, nn.Module]) -> None:
    """Put a parametrization on each parameter named. Changes ``model``."""
    for name, parametrization in parametrizations.items():
        module, leaf = _owner(model, name)
        parametrize.register_parametrization(module, leaf, parametrization, unsafe=True)


def attach_shared_(model: nn.Module, tensors: Mapping[str, CompressedTensor]) -> None:
    """Replace each weight named by its levels, looked up by fixed symbols. Changes ``model``."""
    for name, tensor in tensors.items():
        module, leaf = _owner(model, name)
        setattr(module, leaf, nn.Parameter(tensor.levels.clone()))
        parametrize.register_parametrization(
            module, leaf, SharedWeight(tensor.symbols), unsafe=True
        )


def detach_(model: nn.Module, names: Iterable[str]) -> None:
    """Take the parametrizations off; what the layers saw becomes the weight. Changes ``model``."""
    for name in names:
        module, leaf = _owner(model, name)
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
