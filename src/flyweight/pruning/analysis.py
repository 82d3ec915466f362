"""What pruning did to each layer, and what the network scores without some of one layer."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flyweight.errors import ModelError
from flyweight.batches import evaluating
from flyweight.pruning.choice import Pattern
from flyweight.modules import select_weights
from flyweight.pruning.patterns import block_extents

__all__ = [
    "LayerSummary",
    "SensitivityPoint",
    "Summary",
    "filter_sums",
    "sensitivity",
    "summarize_sparsity",
    "zero_filters",
]


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """The weight of one layer.

    Attributes:
        name: of the weight.
        type: class of the layer.
        parameters: number of weights.
        nonzeros: of these.
        filters: outputs of the layer.
        channels: inputs of the layer.
        zero_filters: outputs whose weights are all zero.
        zero_channels: inputs whose weights are all zero.
    """

    name: str
    type: str
    parameters: int
    nonzeros: int
    filters: int
    channels: int
    zero_filters: int
    zero_channels: int

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0

    @property
    def structured(self) -> bool:
        """Whether there are zeros, all of them in filters or channels that are zero as a whole."""
        kernel = self.parameters // max(1, self.filters * self.channels)
        left = (self.filters - self.zero_filters) * (self.channels - self.zero_channels) * kernel
        return self.nonzeros == left < self.parameters


@dataclasses.dataclass(frozen=True)
class Summary:
    """The layers of a network, one row each; ``str`` gives them as a table with totals.

    Biases, and what batch normalisation learns, have no row: they are never pruned.
    """

    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of weights in all rows."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Of these."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of all weights that are zero."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        width = max(5, *(len(layer.name) for layer in self.layers))
        kind = max(5, *(len(layer.type) for layer in self.layers))

        def line(name: str, of: str, parameters: str, nonzeros: str, sparsity: str) -> str:
            return f"{name:{width}}  {of:{kind}}  {parameters:>11}  {nonzeros:>11}  {sparsity:>8}"

        lines = [line("layer", "type", "parameters", "non-zeros", "sparsity")]
        for row in self.layers:
            counts = f"{row.parameters:,}", f"{row.nonzeros:,}"
            lines.append(line(row.name, row.type, *counts, f"{row.sparsity:.4f}"))
        counts = f"{self.parameters:,}", f"{self.nonzeros:,}"
        lines.append(line("total", "", *counts, f"{self.sparsity:.4f}"))
        return "\n".join(lines)


def summarize_sparsity(model: nn.Module) -> Summary:
    """Count the non-zero weights of every layer, as the layer sees them.

    Raises ModelError for a model without weights of two and more dimensions.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0, 0, 0, 0]]))
        >>> print(summarize_sparsity(model))
        layer     type     parameters    non-zeros  sparsity
        0.weight  Linear            8            3    0.6250
        total                       8            3    0.6250
        >>> summarize_sparsity(model).layers[0].zero_filters
        1
    """
    with torch.no_grad(), evaluating(model):  # spectral_norm of torch counts each look in training
        rows = tuple(_row(*found) for found in _weights(model))
    if not rows:
        raise ModelError("the model has no weights of two and more dimensions to count")
    return Summary(rows)


def _weights(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Each weight once, with its name and the type of its layer, through any parametrization."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        held: dict[str, object] = dict(module.named_parameters(recurse=False))
        kind = type(module).__name__
        if parametrize.is_parametrized(module):
            kind = type(module).__mro__[1].__name__
            for leaf, inner in module.parametrizations.items():
                held[leaf] = getattr(inner, "original", inner)  # weight_norm has two tensors
        for leaf, dense in held.items():
            weight = getattr(module, leaf).detach()
            if weight.ndim >= 2 and id(dense) not in seen:
                seen.add(id(dense))
                name = f"{path}.{leaf}".removeprefix(".")
                yield name, kind, _outputs_first(module, weight)


def _outputs_first(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight with a filter in each slice; a transposed convolution has its inputs first."""
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return weight
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def _row(name: str, kind: str, weight: Tensor) -> LayerSummary:
    return LayerSummary(
        name=name,
        type=kind,
        parameters=weight.numel(),
        nonzeros=int((weight != 0).sum()),
        filters=weight.shape[0],
        channels=weight.shape[1],
        zero_filters=int(zero_filters(weight).sum()),
        zero_channels=int(zero_filters(weight.transpose(0, 1)).sum()),
    )


def zero_filters(weight: Tensor) -> Tensor:
    """Which filters, weight[k], have no weight left: a bool for each.

    ``weight`` has two or more dimensions, outputs first. Raises ModelError for fewer.

    Example:
        >>> zero_filters(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        tensor([False,  True])
    """
    block_extents(weight, "filters")
    return ~weight.detach().flatten(1).any(1)


def filter_sums(weight: Tensor) -> Tensor:
    """Sum of the magnitudes of each filter, weight[k]: where it is 0 the filter is gone.

    ``weight`` has two or more dimensions, outputs first; returns as many sums as outputs. Raises
    ModelError for fewer dimensions.

    Example:
        >>> filter_sums(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        tensor([3., 0.])
    """
    block_extents(weight, "filters")
    return weight.detach().abs().flatten(1).sum(1)


@dataclasses.dataclass(frozen=True)
class SensitivityPoint:
    """What a network scores with one layer pruned to a sparsity, and nothing else."""

    name: str
    sparsity: float
    score: float


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    sparsities: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9),
    *,
    layers: Sequence[str] = ("*",),
    pattern: str = "weights",
    progress: Callable[[str, int, int | None], None] | None = None,
) -> list[SensitivityPoint]:
    """Prune one layer at a time by magnitude, without retraining, and score the network.

    Arguments:
        model: is copied, and stays as it is.
        evaluate: gives a score, higher for better; on validation data, since choices follow. The
            network with nothing pruned is scored once.
        sparsities: fractions from 0 to 1.
        layers: globs over names of weights.
        pattern: as in a recipe.
        progress: told what is being done.

    Source: Han et al. 2015, "Learning both weights and connections", figure 6.
    """
    copied = copy.deepcopy(model)
    weights = select_weights(copied, layers=layers)
    shape = Pattern.of(pattern)
    points = []
    whole: float | None = None  # the score with nothing pruned is the same for all layers
    for place, (name, weight) in enumerate(weights.items()):
        dense = weight.detach().clone()
        for number, sparsity in enumerate(sparsities):
            mask = shape.mask(dense.abs(), sparsity)
            with torch.no_grad():
                weight.copy_(dense.masked_fill(~mask, 0))
            score = evaluate(copied) if whole is None or not bool(mask.all()) else whole
            if bool(mask.all()):
                whole = score
            points.append(SensitivityPoint(name, sparsity, score))
            if progress is not None:
                done = place * len(sparsities) + number + 1
                progress(f"sensitivity of {name}", done, len(weights) * len(sparsities))
        with torch.no_grad():
            weight.copy_(dense)
    return points
