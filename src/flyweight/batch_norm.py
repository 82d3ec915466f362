"""Fold, unfold and re-estimate batch normalization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.batches import Batches, evaluating, examples_in, run_model
from flyweight.errors import DataError, ModelError
from flyweight.modules import dense_weight

__all__ = [
    "BatchNormDrift",
    "batch_norm_drift",
    "check_not_training_folded",
    "check_unfolded",
    "fold_batch_norms_",
    "folded_batch_norms",
    "reestimate_batch_norms_",
    "unfold_batch_norms_",
]

BatchNormDrift = dict[str, tuple[Tensor, Tensor]]
"""Shift of the mean and factor of the variance of each batch normalization, by name."""


@torch.no_grad()
def fold_batch_norms_(model: nn.Module) -> None:
    """Fold the statistics of each batch normalization into its weight and bias.

    Scale γ/√(σ² + ε) and bias β − μ·scale become its weight and bias; mean and variance become 0
    and 1 − ε, the count of batches 0. In evaluation mode it computes what it did before, up to
    rounding. Layers without running statistics, without weights, or with weights that they share
    are not changed.

    Raises:
        ModelError: a scale is not finite, as for a variance and ε of 0; nothing is changed then.

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
    folded: list[tuple[Any, Tensor, Tensor]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.running_mean is None or module.running_var is None or not module.affine:
            continue
        weight, offset = dense_weight(module, "weight"), dense_weight(module, "bias")
        if owners[id(weight)] > 1 or owners[id(offset)] > 1:
            continue
        scale = weight / torch.sqrt(module.running_var + module.eps)
        bias = offset - module.running_mean * scale
        if not bool(torch.isfinite(scale).all() & torch.isfinite(bias).all()):
            raise ModelError(
                f"batch normalization {name!r} has a channel of variance "
                f"{float(module.running_var.min()):g} with eps {module.eps:g}, so its scale is not "
                "finite; set a larger eps, or remove the channel"
            )
        folded.append((module, scale, bias))
    for module, scale, bias in folded:
        dense_weight(module, "bias").copy_(bias)
        dense_weight(module, "weight").copy_(scale)
        module.running_mean.zero_()
        module.running_var.fill_(1 - module.eps)
        if module.num_batches_tracked is not None:
            module.num_batches_tracked.zero_()


@torch.no_grad()
def unfold_batch_norms_(model: nn.Module, batches: Batches) -> None:
    """Give folded batch normalization the statistics of batches, so that the model can train.

    A folded layer, as `fold_batch_norms_` leaves it and a ``.fly`` file holds it, computes
    something else in training mode, where statistics of the batch replace those in its weights.
    Here mean and variance become those of its inputs, and weight and bias change accordingly: in
    evaluation mode the model computes what it did before, up to rounding. Other layers and the mode
    of every module are not changed. Layers that no batch reaches stay folded.

    Args:
        model: changes in its folded batch normalization only.
        batches: on the device of the model, augmented as in training; some hundreds of examples
            or more. No targets are needed.

    Raises:
        DataError: no batch reaches a folded layer, or one reaches it with a single value a channel.

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

    def add(name: str, inputs: Tensor) -> None:
        values = inputs.transpose(0, 1).flatten(1).double()
        count, total, squares = seen.get(name, (0, values.new_zeros(()), values.new_zeros(())))
        count += values.shape[1]
        seen[name] = (count, total + values.sum(1), squares + values.square().sum(1))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, inputs, named, name=name: add(name, (*inputs, *named.values())[0]),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        with evaluating(model):
            for batch in batches:
                run_model(model, batch)
                number += 1
    finally:
        for handle in handles:
            handle.remove()
    for name in seen or layers:
        if name not in seen or seen[name][0] < 2:
            raise DataError(
                f"batch normalization {name!r} is folded, and no batches of two values or more "
                "reach it, so there are no statistics to train it with; give more examples"
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
    """Return the batch normalization layers that are folded, by name.

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
    """Raise ModelError for a model with folded batch normalization, which must not train.

    Example:
        >>> check_unfolded(nn.BatchNorm1d(2))
    """
    for name in folded_batch_norms(model):
        raise ModelError(_trains_as_another(name))


def check_not_training_folded(folded: Mapping[str, nn.Module]) -> None:
    """Raise ModelError if a folded batch normalization layer is in training mode.

    Args:
        folded: what `folded_batch_norms` returned before training, which changes the statistics
            by which it finds folded layers.

    Example:
        >>> norm = nn.BatchNorm1d(2).eval()
        >>> _ = norm.running_mean.fill_(3)
        >>> fold_batch_norms_(norm)
        >>> check_not_training_folded(folded_batch_norms(norm))
    """
    for name, layer in folded.items():
        if layer.training:
            raise ModelError(_trains_as_another(name))


def _trains_as_another(name: str) -> str:
    return (
        f"batch normalization {name!r} is folded to one scale and one bias per channel, as in a "
        "model read from a .fly file, and trains as another function; call flyweight.batch_norm."
        "unfold_batch_norms_(model, batches) first, keep the layer in evaluation mode, or run a "
        "batch in training mode before if it is a new one"
    )


@torch.no_grad()
def reestimate_batch_norms_(
    model: nn.Module, batches: Batches, *, drift: BatchNormDrift | None = None
) -> None:
    """Re-estimate the running statistics of each batch normalization.

    Quantized weights shift the inputs of the layers after them; this corrects mean and variance.
    The mode of every module is restored. If a batch cannot be run, the statistics are not changed,
    nor are those of layers that no batch reaches.

    Args:
        model: changes in these statistics only.
        batches: on the device of the model; no targets are needed. Each batch counts the same, so
            use one size, and augment as in training: models lose accuracy by statistics of images
            that are not. Some thousands of examples in all, or some hundreds with ``drift``.
        drift: of `batch_norm_drift`, for the model before quantization and the same batches. The
            statistics then change by as much as quantization changes them on these batches, and
            not by the choice of batches.

    Raises:
        DataError: there are no batches, or one of a single example gives no variance.
        ModelError: a batch normalization is folded, so that its weights hold the statistics; it is
            new and indistinguishable from a folded one; or the drift is of other layers.

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
    found = _statistics(model, layers, batches)
    if drift is not None and drift.keys() != found.keys():
        raise ModelError(
            "the drift is of a model with other batch normalization layers; compute it for this "
            "one, before quantization and on these batches"
        )
    for name, (mean, variance) in found.items():
        if drift is not None:
            shift, factor = drift[name]
            mean = mean + shift
            variance = ((variance + layers[name].eps) * factor - layers[name].eps).clamp(min=0)
        layers[name].running_mean.copy_(mean)
        layers[name].running_var.copy_(variance)


@torch.no_grad()
def batch_norm_drift(model: nn.Module, batches: Batches) -> BatchNormDrift:
    """Compute how the running statistics of a model differ from those on batches.

    For each batch normalization the difference of the means, and the factor between the variances
    with ε. Arguments and errors are those of `reestimate_batch_norms_`, which takes the result;
    ``model``, the one before quantization, is not changed.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> batches = [torch.tensor([[1.0], [3.0]])]
        >>> batch_norm_drift(norm, batches)
        {'': (tensor([-2.]), tensor([0.5000]))}
        >>> reestimate_batch_norms_(norm, batches, drift=batch_norm_drift(norm, batches))
        >>> norm.running_mean, norm.running_var  # nothing was quantized
        (tensor([0.]), tensor([1.]))
    """
    layers = _layers(model)
    drift: BatchNormDrift = {}
    for name, (mean, variance) in _statistics(model, layers, batches).items():
        layer = layers[name]
        factor = (layer.running_var + layer.eps) / (variance + layer.eps)
        # A constant channel gives no factor.
        factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
        drift[name] = (layer.running_mean - mean, factor)
    return drift


def _layers(model: nn.Module) -> dict[str, Any]:
    """Batch normalization with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def _statistics(model: nn.Module, layers: dict[str, Any], batches: Batches) -> BatchNormDrift:
    """Means and variances of the inputs of the layers that the batches reach.

    Raises ModelError if they reach a folded layer, DataError if a single example has no variance.
    """
    if not layers:
        return {}
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
            for batch in batches:
                try:
                    run_model(model, batch)
                except ValueError as error:
                    if examples_in(batch) > 1:
                        raise
                    raise DataError(
                        "one example in a calibration batch gives batch normalization no variance; "
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
    if not number:
        raise DataError("there are no calibration batches to take the statistics of; give some")
    for name in (name for name in folded if name in found):
        raise ModelError(
            f"batch normalization {name!r} is folded to one scale and one bias per channel, "
            "or saw no batch yet, and a folded one has its statistics in its weights; re-estimate "
            "them before folding, or run a batch in training mode first"
        )
    return found


def _is_folded(layer: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether mean and variance are those that `fold_batch_norms_` or a file of it leaves."""
    mean, variance = layer.running_mean, layer.running_var
    if not layer.affine or mean is None or variance is None or bool(mean.any()):
        return False
    near = bool((variance == variance[:1]).all() & ((variance - 1 + layer.eps).abs() < 2**-8).all())
    # A file may round 1 - eps to 8 bits, and so to 1, which a new layer has too. A new layer has
    # weights of 1 (or 0 in some networks), or else biases of 0.
    new = (layer.weight == 0) | (layer.weight == 1) | (layer.bias == 0)
    return near and not bool(((variance == 1) & new).all())
