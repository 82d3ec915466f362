"""Batch normalisation at inference is one scale and one bias per channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flyweight.errors import DataError
from flyweight.modes import evaluating

__all__ = ["fold_batch_norms_", "reestimate_batch_norms_"]


@torch.no_grad()
def fold_batch_norms_(model: nn.Module) -> None:
    """Rewrite each batch normalisation so that two of its four vectors say everything.

    Scale γ/√(σ² + ε) and bias β − μ·scale become its weight and bias; mean and variance become 0
    and 1 − ε, the count of batches 0. In evaluation mode it computes what it did before, up to
    rounding. Layers without running statistics, without weights, or with weights that they share
    stay as they are.
    """
    owners = Counter(
        id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)
    )
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.running_mean is None or module.running_var is None or not module.affine:
            continue
        if owners[id(module.weight)] > 1 or owners[id(module.bias)] > 1:
            continue
        scale = module.weight / torch.sqrt(module.running_var + module.eps)
        module.bias.sub_(module.running_mean * scale)
        module.weight.copy_(scale)
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()


@torch.no_grad()
def reestimate_batch_norms_(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of each batch normalisation anew; labels are not needed.

    ``batches`` are inputs of the model, on its device; each counts the same, so let them be of one
    size and large (some thousands of examples in all), and augmented as in training: networks lose
    accuracy by the statistics of images that are not. Weights that were quantised shift what the
    layers after them see, and this puts mean and variance right. The mode of every module is put
    back. A batch normalisation that was folded has to be measured before it is.

    Raises DataError where there are no batches.

    Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias
    correction", §4.2 (what it corrects); Sun et al. 2019, "Hybrid 8-bit floating point", §3.2.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    momenta = [layer.momentum for layer in layers]
    states = [{n: b.clone() for n, b in layer.named_buffers()} for layer in layers]
    number = 0
    try:
        with evaluating(model):
            for layer in layers:
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over all batches
            for inputs in batches:
                model(inputs)
                number += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if layers and not number:
        for layer, state in zip(layers, states, strict=True):
            layer.load_state_dict(state, strict=False)
        raise DataError("there are no calibration batches to measure the statistics with")
