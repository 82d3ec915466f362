"""Remove zero filters: a smaller dense network, which runs faster."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.batches import Batch, evaluating, inputs_of, run_model
from flyweight.errors import ModelError
from flyweight.modules import WeightLayout, check_copyable, check_detached
from flyweight.pruning import zero_filters

__all__ = ["feeding_layers", "remove_filters", "silence_filters_"]

_Conv = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_Norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def remove_filters(model: nn.Module, example_inputs: Batch) -> nn.Module:
    """Remove the filters whose weights are all zero, and return the smaller network.

    Where outputs of several layers are added, a filter is removed if it is zero in each of them. A
    zero filter still outputs a constant: its bias, or what batch normalization makes of it. The
    constant is dropped, as by `silence_filters_`, so that the network may need some retraining. At
    least one filter of each layer stays. Each module of the smaller network has the mode, and each
    parameter the ``requires_grad``, that it has in ``model``.

    Needs the package torch-pruning (``pip install flyweight[structured]``).

    Args:
        model: is not changed.
        example_inputs: a batch, on which the dependencies between layers are traced.

    Raises:
        ModelError: torch-pruning is missing, the network cannot be traced, a mask is still on a
            weight, or a filter would be cut out of a weight that several layers share.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> _ = model[0].weight.data[2:].zero_()
        >>> smaller = remove_filters(model, torch.zeros(1, 3, 8, 8))
        >>> smaller[0].weight.shape, smaller[2].weight.shape
        (torch.Size([2, 3, 3, 3]), torch.Size([4, 2, 3, 3]))

    Source: Fang et al. 2023, "DepGraph: towards any structural pruning".
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ModelError(
            "removing filters needs torch-pruning; pip install flyweight[structured]"
        ) from error
    check_copyable(model)
    check_detached(model)
    smaller = silence_filters_(copy.deepcopy(model), example_inputs)
    with warnings.catch_warnings(), evaluating(smaller), torch.enable_grad():
        warnings.simplefilter("ignore")
        for parameter in smaller.parameters():  # the graph is that of the gradients
            if parameter.is_floating_point():
                parameter.requires_grad_()
        graph = torch_pruning.DependencyGraph()
        with _tracing():
            graph.build_dependency(smaller, example_inputs=_arguments(example_inputs))
        shared = _shared(smaller)
        for layer, prune in list(_removable(smaller, graph, torch_pruning)):
            dead = [k for k in _zero_filters(layer) if _is_dead(graph, layer, prune, k)]
            if len(dead) == _outputs(layer):
                dead = dead[1:]
            if dead:
                group = graph.get_pruning_group(layer, prune, idxs=dead)
                _check_own(group, shared)
                group.prune()
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trained[name])
    return smaller


def silence_filters_(model: nn.Module, example_inputs: Batch) -> nn.Module:
    """Set the bias and the batch normalization of zero filters to 0. Changes ``model``.

    A batch normalization that several layers feed loses the filters that are zero in each of them.

    Args:
        model: is changed, and returned.
        example_inputs: a batch; it is run to find the layers that feed a batch normalization.

    Raises:
        ModelError: the network cannot be run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> _ = model[0].weight.data[1].zero_()
        >>> silence_filters_(model, torch.zeros(1, 1, 4, 4))[1].weight.tolist()
        [1.0, 0.0]
    """
    for norm, sources in feeding_layers(model, example_inputs).items():
        assert isinstance(norm, _Norm)
        if norm.affine:
            zero = set(range(norm.num_features))
            for source in sources:
                zero &= set() if source is None else set(_zero_filters(source))
            norm.weight.data[sorted(zero)] = 0
            norm.bias.data[sorted(zero)] = 0
    for layer in model.modules():
        if isinstance(layer, (*_Conv, nn.Linear)) and layer.bias is not None:
            layer.bias.data[_zero_filters(layer)] = 0
    return model


def feeding_layers(
    model: nn.Module, example_inputs: Batch
) -> dict[nn.Module, list[nn.Module | None]]:
    """Find the layers whose outputs each batch normalization takes, in their order.

    Layers are convolutions and linear ones. None stands for any other source, and for an output
    that was changed in place on the way.

    Args:
        model: is run in evaluation mode, and not changed.
        example_inputs: a batch to run.

    Raises:
        ModelError: the network cannot be run.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        >>> feeding_layers(model, torch.zeros(1, 1, 4, 4))[model[1]] == [model[0]]
        True
    """
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}  # holds the tensor, so that its id lasts
    found: dict[nn.Module, list[nn.Module | None]] = {}

    def after_layer(layer: nn.Module, _: Any, outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            made[id(outputs)] = layer, outputs, outputs._version

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = made.get(id(inputs[0])) if inputs else None
        layer, outputs, version = seen or (None, None, 0)
        same = outputs is not None and outputs._version == version  # nothing was added in place
        found.setdefault(norm, []).append(layer if same else None)

    hooks: list[Any] = []
    for module in model.modules():
        if isinstance(module, _Norm):
            hooks.append(module.register_forward_pre_hook(before_norm))
        elif isinstance(module, (*_Conv, nn.Linear)):
            hooks.append(module.register_forward_hook(after_layer))
    try:
        # Tensors made in inference mode have no version.
        with _tracing(), evaluating(model), torch.inference_mode(False), torch.no_grad():
            run_model(model, example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _tracing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # running a model and reading its graph may raise anything
        raise ModelError(f"the layers of the model cannot be traced: {error}") from error


def _arguments(batch: Batch) -> Any:
    """Return the inputs of a batch as torch-pruning takes them."""
    inputs = inputs_of(batch)
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def _zero_filters(layer: Any) -> list[int]:
    zero = zero_filters(layer.weight, layout=WeightLayout.of(layer))
    found: list[int] = zero.nonzero().flatten().tolist()
    return found


def _outputs(layer: Any) -> int:
    """Return the number of outputs of a convolution or linear layer."""
    return len(WeightLayout.of(layer).outputs_first(layer.weight))


def _removable(model: nn.Module, graph: Any, pruning: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each layer whose outputs can be removed, with the function that removes some."""
    for module in model.modules():
        if module not in graph.module2node:  # the outputs of the network do not depend on it
            continue
        if isinstance(module, _Conv) and module.groups == 1:
            yield module, pruning.prune_conv_out_channels
        elif isinstance(module, nn.Linear):
            yield module, pruning.prune_linear_out_channels


def _is_dead(graph: Any, layer: nn.Module, prune: Any, filter_: int) -> bool:
    """Tell whether a filter is zero in all layers of its group, and feeds another layer."""
    group = graph.get_pruning_group(layer, prune, idxs=[filter_])
    taken = False
    for dependency, places in group:
        if graph.is_out_channel_pruning_fn(dependency.handler):
            if _puts_out(dependency.target.module, list(places)):
                return False
        else:
            taken = True
    return taken


def _puts_out(target: Any, places: list[int]) -> bool:
    """Tell whether a module, or an added parameter, has non-zero weights for some outputs."""
    weight = target if isinstance(target, nn.Parameter) else getattr(target, "weight", None)
    if weight is None:  # an addition has no parameters at all
        return any(True for _ in target.parameters())
    if isinstance(target, nn.Parameter):
        return bool(weight.detach().any())
    if isinstance(target, nn.PReLU):  # it maps 0 to 0
        return False
    at = torch.tensor(places, device=weight.device)
    if isinstance(target, nn.Embedding):
        return bool(weight.detach().index_select(1, at).any())
    rows = WeightLayout.of(target).outputs_first(weight.detach())
    return bool(rows.index_select(0, at).any())


def _shared(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the parameters that several modules hold, each with one of its names."""
    holders = Counter(
        parameter
        for module in model.modules()
        for parameter in set(module.parameters(recurse=False))
    )
    return {p: name for name, p in model.named_parameters() if holders[p] > 1}


def _check_own(group: Any, shared: dict[nn.Parameter, str]) -> None:
    """Raise ModelError if a group of filters is cut out of a shared weight."""
    for dependency, _ in group:
        target = dependency.target.module
        held = target.parameters() if isinstance(target, nn.Module) else [target]
        for parameter in held:
            if parameter in shared:
                raise ModelError(
                    f"tensor {shared[parameter]!r} is shared by several layers, and removing zero "
                    "filters would cut only one of them; give each layer its own copy first"
                )
