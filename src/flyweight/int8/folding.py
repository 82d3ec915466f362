"""Fold batch normalization into the convolutions before it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flyweight.batches import Batch, check_batch, output_tensors, run_model
from flyweight.errors import ModelError
from flyweight.modules import check_detached, check_plain
from flyweight.structured import feeding_layers

__all__ = ["added_to", "fold_into_convolutions"]

_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)


def added_to(layer: nn.Module) -> str:
    """Describe what a layer computes beyond the torch layer of its kind; empty for nothing.

    Args:
        layer: a linear layer, convolution or batch normalization, or a subclass of theirs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> added_to(layer)
        ''
        >>> _ = layer.register_forward_hook(lambda layer, inputs, outputs: 2 * outputs)
        >>> added_to(layer)
        'forward hooks'
    """
    known = [kind.forward for kind in _KINDS]
    if "forward" in vars(layer) or type(layer).forward not in known:
        return f"a forward of its own, as a {type(layer).__name__}"
    return "forward hooks" if layer._forward_hooks or layer._forward_pre_hooks else ""


@torch.no_grad()
def fold_into_convolutions(model: nn.Module, batch: Batch) -> nn.Module:
    """Return a copy of a model whose batch normalization is folded into convolutions.

    Batch normalization stays if it follows anything else than a convolution, or an output that was
    changed in place, or if it or its convolution has forward hooks or a forward of its own.

    Args:
        model: any module; it is not changed.
        batch: is run to see which layers follow which.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ModelError: the model cannot be run; the copy does not compute the same, as when the output
            of a convolution is used elsewhere too; batch normalization has no running statistics;
            or a weight has a parametrization.
        DataError: the batch is empty or not finite.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        >>> folded = fold_into_convolutions(model, torch.ones(1, 1, 4, 4))
        >>> [type(layer).__name__ for layer in folded]
        ['Conv2d', 'Identity', 'ReLU']

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", §3.2.
    """
    check_detached(model)
    check_plain(model, [name for name, _ in model.named_parameters()])
    check_batch(batch, "batch")
    folded = copy.deepcopy(model).eval()
    sources = feeding_layers(folded, batch)
    before = output_tensors(run_model(folded, batch))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in before.values()):
        raise ModelError("the model gives NaN or infinity for finite inputs; repair the checkpoint")
    every = list(folded.named_modules(remove_duplicate=False))
    names = {module: name for name, module in reversed(every)}
    replaced: dict[nn.Module, nn.Module] = {}
    for norm, layers in sources.items():
        first = layers[0]
        if set(layers) != {first} or not isinstance(first, nn.Conv2d) or added_to(first):
            continue
        if not isinstance(norm, nn.BatchNorm2d) or added_to(norm):
            continue
        if norm.running_mean is None or norm.running_var is None:
            raise ModelError(
                f"batch normalization {names[norm]!r} has no running statistics, so it cannot be "
                f"folded into {names[first]!r}; train it with track_running_stats"
            )
        replaced[first] = fuse_conv_bn_eval(first, norm)
        replaced[norm] = nn.Identity()
    for name, module in every:
        if module in replaced:
            folded.set_submodule(name, replaced[module])
    found = output_tensors(run_model(folded, batch))
    if not all(_close(found[name], tensor) for name, tensor in before.items()):
        raise ModelError(
            "batch normalization cannot be folded into the convolutions of this model, since the "
            "output of some convolution is used elsewhere too; copy that output"
        )
    return folded


def _close(found: Tensor, before: Tensor) -> bool:
    return torch.allclose(found, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
