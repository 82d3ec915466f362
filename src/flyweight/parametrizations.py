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
    "detach_",
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


class _SharedMeans(torch.autograd.Function):
    """Each weight's cluster mean, or 0 at symbol 0; the gradient goes straight to the weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, symbols: Tensor, clusters: int) -> Tensor:
        ctx.save_for_backward(symbols)
        means, _ = _cluster_means(weight, symbols, clusters)
        return torch.cat([means.new_zeros(1), means])[symbols]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (symbols,) = ctx.saved_tensors
        return gradient * (symbols > 0), None, None


def _cluster_means(weight: Tensor, symbols: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Mean (0 where there is none) and count of the weights of each cluster from 1 on."""
    flat = symbols.flatten()
    sums = weight.new_zeros(clusters + 1).scatter_add_(0, flat, weight.flatten())
    counts = torch.bincount(flat, minlength=clusters + 1)
    return (sums / counts.clamp(min=1))[1:], counts[1:]


class SharedWeight(nn.Module):
    """The weight a layer sees is the mean of its cluster: the centroids are trained.

    The optimiser keeps the dense weight, which gets the gradient of the value seen (straight
    through; Bengio et al. 2013); a centroid so moves by the mean gradient of its weights, and
    `reassign_` lets a weight that has moved join another cluster. Symbol 0 is exactly 0 for ever.

    ``symbols`` are integers of the weight's shape: 0 is pruned, k ≥ 1 the cluster k of
    ``clusters``.
    """

    symbols: Tensor

    def __init__(self, symbols: Tensor, clusters: int) -> None:
        super().__init__()
        self.register_buffer("symbols", symbols.long())
        self.clusters = clusters

    def forward(self, weight: Tensor) -> Tensor:
        shared: Tensor = _SharedMeans.apply(weight, self.symbols, self.clusters)  # type: ignore[no-untyped-call]
        return shared

    @torch.no_grad()
    def reassign_(self, weight: Tensor) -> None:
        """Give each weight that is not pruned to the nearest centroid: one round of Lloyd's."""
        means, counts = _cluster_means(weight, self.symbols, self.clusters)
        centroids = means[counts > 0].sort().values
        kept = self.symbols > 0
        middles = (centroids[1:] + centroids[:-1]) / 2
        self.symbols[kept] = torch.searchsorted(middles, weight[kept]) + 1

    @torch.no_grad()
    def compressed(self, weight: Tensor) -> CompressedTensor:
        """What the layer sees, as symbols and ascending levels, as many as are in use."""
        means, counts = _cluster_means(weight, self.symbols, self.clusters)
        used = (counts > 0).nonzero().flatten()
        used = used[means[used].argsort()]
        numbers = torch.zeros_like(counts, dtype=torch.int32)
        numbers[used] = torch.arange(1, used.numel() + 1, dtype=torch.int32, device=used.device)
        numbers = torch.cat([numbers.new_zeros(1), numbers])
        return CompressedTensor(numbers[self.symbols], means[used])


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise ModelError(f"the model has no tensor named {name!r}") from None


def _dense(module: nn.Module, leaf: str) -> Any:
    """The parameter itself, also where a parametrization stands before it."""
    if parametrize.is_parametrized(module, leaf):
        return module.parametrizations[leaf].original  # type: ignore[index,union-attr]
    return getattr(module, leaf, None)


def _holders(model: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Every module that holds the parameter of a name, and what it is called there."""
    owner, leaf = _owner(model, name)
    parameter = _dense(owner, leaf)
    if not isinstance(parameter, nn.Parameter):
        raise ModelError(f"the model has no parameter named {name!r}")
    found = []
    for module in model.modules():
        leaves = [*module._parameters]
        if parametrize.is_parametrized(module):
            leaves += [*module.parametrizations]  # type: ignore[misc]
        found += [(module, other) for other in leaves if _dense(module, other) is parameter]
    return [
        (module, other)
        for module, other in found
        if not isinstance(module, parametrize.ParametrizationList)
    ]


def attach_(model: nn.Module, parametrizations: Mapping[str, nn.Module]) -> None:
    """Put a parametrization on each parameter named. Changes ``model``.

    Where several layers share the parameter, each of them sees the same. Raises ModelError where
    the model has no such parameter.
    """
    for name, parametrization in parametrizations.items():
        for module, leaf in _holders(model, name):
            parametrize.register_parametrization(module, leaf, parametrization, unsafe=True)


def detach_(model: nn.Module, names: Iterable[str]) -> None:
    """Take the parametrizations off; what the layers saw becomes the weight. Changes ``model``."""
    for name in names:
        for module, leaf in _holders(model, name):
            # A copy of the module shares its class, from which torch takes the tensor away.
            shared = type(module)
            own = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(shared.__name__, shared.__bases__, own)
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
