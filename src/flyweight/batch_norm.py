"""Batch normalisation at inference is one scale and one bias per channel."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

__all__ = ["fold_batch_norms_"]


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
