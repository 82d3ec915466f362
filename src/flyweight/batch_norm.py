"""Batch normalisation at inference is one scale and one bias per channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.errors import DataError, ModelError
from flyweight.batches import evaluating

__all__ = [
    "batch_norm_drift",
    "check_unfolded",
    "fold_batch_norms_",
    "folded_batch_norms",
    "reestimate_batch_norms_",
    "unfold_batch_norms_",
]


@torch.no_grad()
def fold_batch_norms_(model: nn.Module) -> None:
    """Rewrite each batch normalisation so that two of its four vectors say everything.

    Scale γ/√(σ² + ε) and bias β − μ·scale become its weight and bias; mean and variance become 0
    and 1 − ε, the count of batches 0. In evaluation mode it computes what it did before, up to
    rounding. Layers without running statistics, without weights, or with weights that they share
    stay as they are.

    Example:
        >>> norm = nn.BatchNorm1d(1, eps=0.0).eval()
        >>> _ = norm.running_mean.fill_(3), norm.running_var.fill_(4)
        >>> fold_batch_norms_(norm)
        >>> norm.weight.tolist(), norm.bias.tolist()
        ([0.5], [-1.5])
        >>> norm.running_mean.tolist(), norm.running_var.tolist()
        ([0.0], [1.0])

    Source: Ioffe & Szegedy 2015, "Batch normalization", algorithm 2.
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
def unfold_batch_norms_(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give folded batch normalisations the statistics of batches, so that the model can train.

    What `fold_batch_norms_` leaves, and a ``.fly`` file holds, computes something else in training
    mode, where statistics of the batch take the place of those in the weights. Here mean and
    variance become those of what each folded layer sees, weight and bias what goes with them: in
    evaluation mode the model computes what it did before, up to rounding. Other layers stay as they
    are, and so does the mode of every module.

    Arguments:
        model: changes in its folded batch normalisations only.
        batches: inputs of the model, on its device, augmented as in training; some hundreds of
            examples or more. Labels are not needed.

    Layers that no batch reaches stay folded. Raises DataError where none of them is reached, or by
    one value a channel.

    Example:
        >>> norm = nn.BatchNorm1d(1, eps=0.0).eval()
        >>> _ = norm.running_mean.fill_(3), norm.running_var.fill_(4)
        >>> fold_batch_norms_(norm)
        >>> unfold_batch_norms_(norm, [torch.tensor([[1.0], [5.0]])])
        >>> norm.running_mean.tolist(), norm.running_var.tolist()
        ([3.0], [8.0])
        >>> norm(torch.tensor([[5.0]])).tolist()  # (5 - 3) / 2, as before
        [[1.0]]
    """
    layers = folded_batch_norms(model)
    if not layers:
        return
    seen: dict[str, tuple[int, Tensor, Tensor]] = {}
    number = 0

    def look(name: str, inputs: Tensor) -> None:
        values = inputs.transpose(0, 1).flatten(1).double()
        count, total, squares = seen.get(name, (0, values.new_zeros(()), values.new_zeros(())))
        count += values.shape[1]
        seen[name] = (count, total + values.sum(1), squares + values.square().sum(1))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, inputs, named, name=name: look(name, (*inputs, *named.values())[0]),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model):
            for inputs in batches:
                model(inputs)
                number += 1
    finally:
        for handle in handles:
            handle.remove()
    for name in seen or layers:
        if name not in seen or seen[name][0] < 2:
            raise DataError(
                f"batch normalisation {name!r} was folded, and no batches of two values or more "
                "reached it, so there are no statistics to train it with; give more examples"
            )
    for name, (count, total, squares) in seen.items():
        layer = layers[name]
        mean = total / count
        variance = (squares - count * mean**2).clamp(min=0) / (count - 1)
        scale = layer.weight.double()
        layer.bias.copy_(layer.bias.double() + scale * mean)
        layer.weight.copy_(scale * (variance + layer.eps).sqrt())
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(number)


def folded_batch_norms(model: nn.Module) -> dict[str, Any]:
    """Batch normalisations that are as `fold_batch_norms_` leaves them, by name.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> _ = norm.running_mean.fill_(3)
        >>> model = nn.Sequential(norm)
        >>> [*folded_batch_norms(model)]
        []
        >>> fold_batch_norms_(model)
        >>> [*folded_batch_norms(model)]
        ['0']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _is_folded(module)
    }


def check_unfolded(model: nn.Module) -> None:
    """Raise ModelError for a model with folded batch normalisation, which cannot train so.

    Example:
        >>> check_unfolded(nn.BatchNorm1d(2))
    """
    for name in folded_batch_norms(model):
        raise ModelError(
            f"batch normalisation {name!r} was folded to one scale and one bias per channel, as in "
            "a network read from a .fly file, and would train as another function; give it "
            "statistics first, by flyweight.batch_norm.unfold_batch_norms_(model, batches), or run "
            "a batch in training mode if it is a new one"
        )


Statistics = dict[str, tuple[Tensor, Tensor]]
"""Of each batch normalisation, by its name: what belongs to the means, and to the variances."""


@torch.no_grad()
def reestimate_batch_norms_(
    model: nn.Module, batches: Iterable[Tensor], *, drift: Statistics | None = None
) -> None:
    """Measure the running statistics of each batch normalisation anew; labels are not needed.

    Weights that were quantised shift what the layers after them see, and this puts mean and
    variance right. The mode of every module is put back. Where a batch cannot be run, statistics
    are as they were, and so are those of layers that no batch reaches.

    Arguments:
        model: changes in these statistics only.
        batches: inputs of the model, on its device; each counts the same, so let them be of one
            size, and augmented as in training: networks lose accuracy by the statistics of images
            that are not. Some thousands of examples in all, or some hundreds with ``drift``.
        drift: what `batch_norm_drift` says of the network before and the same batches. Statistics
            then change by as much as the quantisation changes them on these batches, and by
            nothing that is of the choice of batches alone.

    Raises DataError where there are no batches, or one of a single example tells no variance,
    ModelError for a batch normalisation that was folded, as in a network read from a ``.fly`` file:
    its weights hold the statistics already; for a new one that cannot be told from that; and for a
    drift of other layers.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> reestimate_batch_norms_(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean.tolist(), norm.running_var.tolist()
        ([2.0], [2.0])

    Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias
    correction", §4.2 (what it corrects); Sun et al. 2019, "Hybrid 8-bit floating point", §3.2. The
    drift is a control variate.
    """
    layers = _layers(model)
    measured = _measured(model, layers, batches)
    if drift is not None and drift.keys() != measured.keys():
        raise ModelError(
            "the drift is of a network with other batch normalisations; measure it in this one, "
            "before quantisation and with these batches"
        )
    for name, (mean, variance) in measured.items():
        if drift is not None:
            shift, factor = drift[name]
            mean = mean + shift
            variance = ((variance + layers[name].eps) * factor - layers[name].eps).clamp(min=0)
        layers[name].running_mean.copy_(mean)
        layers[name].running_var.copy_(variance)


@torch.no_grad()
def batch_norm_drift(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """How far the statistics that a network has are from those that batches have in it.

    For each batch normalisation the difference of the means, and the factor between the variances
    with ε. Arguments and errors are those of `reestimate_batch_norms_`, which takes what is
    returned; ``model``, the network before quantisation, stays as it is.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> batches = [torch.tensor([[1.0], [3.0]])]
        >>> batch_norm_drift(norm, batches)
        {'': (tensor([-2.]), tensor([0.5000]))}
        >>> reestimate_batch_norms_(norm, batches, drift=batch_norm_drift(norm, batches))
        >>> norm.running_mean, norm.running_var  # nothing was quantised
        (tensor([0.]), tensor([1.]))
    """
    layers = _layers(model)
    found: Statistics = {}
    for name, (mean, variance) in _measured(model, layers, batches).items():
        layer = layers[name]
        factor = (layer.running_var + layer.eps) / (variance + layer.eps)
        # A channel that is constant tells no factor.
        factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
        found[name] = (layer.running_mean - mean, factor)
    return found


def _layers(model: nn.Module) -> dict[str, Any]:
    """Batch normalisations with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def _measured(model: nn.Module, layers: dict[str, Any], batches: Iterable[Tensor]) -> Statistics:
    """Means and variances of what the batches reach; the model is left as it was.

    Raises ModelError where they reach a layer that was folded, DataError where one example alone
    tells no variance.
    """
    folded = folded_batch_norms(model)
    momenta = {name: layer.momentum for name, layer in layers.items()}
    states = {
        name: {key: buffer.clone() for key, buffer in layer.named_buffers()}
        for name, layer in layers.items()
    }
    number = 0
    try:
        with evaluating(model):
            for layer in layers.values():
                layer.train()
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over all batches
            for inputs in batches:
                try:
                    model(inputs)
                except ValueError as error:
                    if len(inputs) > 1:
                        raise
                    raise DataError(
                        "one example in a calibration batch tells batch normalisation no variance; "
                        "give batches, and examples to choose the weights by, of two or more "
                        f"({error})"
                    ) from error
                number += 1
        found = {
            name: (layer.running_mean.clone(), layer.running_var.clone())
            for name, layer in layers.items()
            if layer.num_batches_tracked
        }
    finally:
        for name, layer in layers.items():
            layer.momentum = momenta[name]
            layer.load_state_dict(states[name], strict=False)
    if layers and not number:
        raise DataError("there are no calibration batches to measure the statistics with")
    for name in (name for name in folded if name in found):
        raise ModelError(
            f"batch normalisation {name!r} was folded to one scale and one bias per channel, "
            "or saw no batch yet, and a folded one has its statistics in its weights; measure "
            "statistics before that, or run a batch in training mode first"
        )
    return found


def _is_folded(layer: nn.modules.batchnorm._BatchNorm) -> bool:
    """May mean and variance be what `fold_batch_norms_` leaves, or what a file makes of that?"""
    mean, variance = layer.running_mean, layer.running_var
    if not layer.affine or mean is None or variance is None or bool(mean.any()):
        return False
    # A file may hold 1 - ε with 8 bits. A layer that saw no batch yet has a variance of 1 too, but
    # a bias of 0; or a weight of 0, which no statistics make a difference to.
    near = bool((variance == variance[:1]).all() & ((variance - 1 + layer.eps).abs() < 2**-8).all())
    first = (layer.weight == 0) | (layer.bias == 0)
    return near and not bool(((variance == 1) & first).all())
