"""The names that a course notebook uses, over flyweight: they change the network given.

    from labs.course import prune_by_std, prune_by_percentage, finetune_after_prune, summary

``q`` is in per cent, as in the course; zeros stay zeros while the network trains on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight import load_cifar10
from flyweight.parametrizations import MaskedWeight, attach_, detach_
from flyweight.pruning import (
    Summary,
    global_magnitude_masks,
    percentile_mask,
    select_weights,
    std_mask,
)
from flyweight.pruning import summary as counted
from flyweight.training import TrainingConfig, fit_

__all__ = [
    "finetune_after_prune",
    "global_prune_by_percentage",
    "prune_by_percentage",
    "prune_by_std",
    "summary",
]


def prune_by_percentage(net: nn.Module, q: float = 70.0) -> nn.Module:
    """Set the ``q`` per cent smallest weights of each layer to zero. ``net`` may be one layer.

    Example:
        >>> layer = prune_by_percentage(nn.Linear(10, 10), q=30)
        >>> int((layer.weight == 0).sum())
        30
    """
    return _multiply_(net, lambda weight: percentile_mask(weight, q))


def prune_by_std(net: nn.Module, s: float = 0.25) -> nn.Module:
    """Set the weights of each layer below ``s`` of its standard deviations to zero."""
    return _multiply_(net, lambda weight: std_mask(weight, s))


def global_prune_by_percentage(net: nn.Module, q: float = 70.0) -> nn.Module:
    """Set the ``q`` per cent smallest weights of the whole network to zero, by one threshold."""
    weights = select_weights(net)
    for name, mask in global_magnitude_masks(weights, q / 100).items():
        weights[name].data.mul_(mask)
    return net


def _multiply_(net: nn.Module, mask_of: Callable[[Tensor], Tensor]) -> nn.Module:
    for weight in select_weights(net).values():
        weight.data.mul_(mask_of(weight))
    return net


def finetune_after_prune(
    net: nn.Module,
    trainloader: Iterable[tuple[Tensor, Tensor]] | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    prune: bool = True,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    lr: float = 0.01,
    reg: float = 5e-4,
    seed: int = 0,
) -> nn.Module:
    """Train on for some epochs; with ``prune``, what is zero stays zero.

    With a ``trainloader`` and an ``optimizer`` of the network's parameters, these are used;
    without, the 45,000 training images of CIFAR-10 and SGD with momentum of rate ``lr`` and
    weight decay ``reg``.
    """
    weights = select_weights(net)
    masks = {name: MaskedWeight(weight.detach() != 0) for name, weight in weights.items()}
    if prune:
        attach_(net, masks)
    try:
        if trainloader is None or optimizer is None:
            config = TrainingConfig(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=lr,
                weight_decay=reg,
                ema_decay=0.0,
            )
            images = load_cifar10().split("train45k").to(next(net.parameters()).device)
            fit_(net, images, config, seed=seed)
        else:
            net.train()
            for _ in range(epochs):
                for inputs, targets in trainloader:
                    optimizer.zero_grad()
                    criterion(net(inputs), targets).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    finally:
        if prune:
            detach_(net, masks)
    return net


def summary(net: nn.Module) -> Summary:
    """Print layer, type, parameters, non-zeros and sparsity of each layer, and the totals."""
    found = counted(net)
    print(found)
    return found
