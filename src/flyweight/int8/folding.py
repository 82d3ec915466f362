"""A batch normalisation that follows a convolution becomes part of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flyweight.calibration import check_inputs
from flyweight.errors import ModelError
from flyweight.parametrizations import check_detached, check_plain

__all__ = ["fold_into_convolutions"]


@torch.no_grad()
def fold_into_convolutions(model: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a model, in evaluation mode, without the batch normalisations after convolutions.

    Which follows which is seen from a run on ``inputs``, a batch. Those that follow anything else
    stay. ``model`` stays as it is.

    Raises ModelError where the copy does not compute the same, as for a convolution whose output
    goes elsewhere too, for batch normalisation without running statistics, and for masks or
    quantised weights of a stage that is not over or other parametrizations; DataError for inputs
    that are none or not finite.

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
    check_inputs(inputs, "the batch to fold with")
    folded = copy.deepcopy(model).eval()
    names = {module: name for name, module in folded.named_modules()}
    made: dict[int, tuple[str, Tensor]] = {}  # outputs are kept alive, so that no id comes back
    pairs: dict[str, str] = {}

    def note(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (names[module], output)
        elif given and id(given[0]) in made:
            pairs[names[module]] = made[id(given[0])][0]

    kinds = nn.Conv2d | nn.BatchNorm2d
    handles = [m.register_forward_hook(note) for m in folded.modules() if isinstance(m, kinds)]
    wanted = folded(inputs)
    for handle in handles:
        handle.remove()
    if not isinstance(wanted, Tensor):
        raise ModelError(f"the model gives a {type(wanted).__name__}, not a tensor, for a batch")
    if not bool(torch.isfinite(wanted).all()):
        raise ModelError(
            "the model gives NaN or infinity for inputs that are finite; repair the checkpoint"
        )
    for norm, convolution in pairs.items():
        first, then = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(first, nn.Conv2d)
        assert isinstance(then, nn.BatchNorm2d)
        if then.running_mean is None or then.running_var is None:
            raise ModelError(
                f"batch normalisation {norm!r} has no running statistics, so it cannot be folded "
                f"into {convolution!r}; train it with track_running_stats"
            )
        fused = fuse_conv_bn_eval(first, then)
        folded.set_submodule(convolution, fused)
        folded.set_submodule(norm, nn.Identity())
    found = folded(inputs)
    if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
        raise ModelError(
            "batch normalisation cannot be folded into the convolutions of this model: some "
            "convolution's output is used elsewhere too"
        )
    return folded
