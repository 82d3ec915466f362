"""A batch normalisation that follows a convolution becomes part of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flyweight.batches import check_batch
from flyweight.errors import ModelError
from flyweight.modules import check_detached, check_plain
from flyweight.structured import feeding_layers

__all__ = ["added_to", "fold_into_convolutions"]

_KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.BatchNorm2d)


def added_to(layer: nn.Module) -> str:
    """What a layer computes beside what torch's own of its kind does, in words; empty for nothing.

    ``layer`` is a linear layer, convolution or batch normalisation, or a subclass of theirs.

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
def fold_into_convolutions(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a model, in evaluation mode, without the batch normalisations after convolutions.

    Which follows which is seen from a run on ``inputs``, a batch. Those that follow anything else
    stay, and an output that was changed in place is something else; so do those that have forward
    hooks or a forward of their own, or whose convolution has. ``model`` stays as it is.

    Raises ModelError where the model cannot be run, where the copy does not compute the same, as
    for a convolution whose output goes elsewhere too, for batch normalisation without running
    statistics, and for masks or quantised weights of a stage that is not over or other
    parametrizations; DataError for inputs that are none or not finite.

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
    check_batch(inputs, "inputs")
    folded = copy.deepcopy(model).eval()
    sources = feeding_layers(folded, inputs)
    wanted = folded(inputs)
    if not isinstance(wanted, Tensor):
        raise ModelError(f"the model gives a {type(wanted).__name__}, not a tensor, for a batch")
    if not bool(torch.isfinite(wanted).all()):
        raise ModelError(
            "the model gives NaN or infinity for inputs that are finite; repair the checkpoint"
        )
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
                f"batch normalisation {names[norm]!r} has no running statistics, so it cannot be "
                f"folded into {names[first]!r}; train it with track_running_stats"
            )
        replaced[first] = fuse_conv_bn_eval(first, norm)
        replaced[norm] = nn.Identity()
    for name, module in every:
        if module in replaced:
            folded.set_submodule(name, replaced[module])
    found = folded(inputs)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
        raise ModelError(
            "batch normalisation cannot be folded into the convolutions of this model: some "
            "convolution's output is used elsewhere too"
        )
    return folded
