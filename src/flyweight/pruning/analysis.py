"""Analyze pruned networks: sparsity of each layer, zero filters, and sensitivity scans."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flyweight._progress import Progress
from flyweight._tables import format_table
from flyweight.batches import evaluating
from flyweight.errors import ModelError
from flyweight.modules import OUTPUTS_FIRST, WeightLayout, select_weights
from flyweight.pruning.choice import Pattern
from flyweight.pruning.patterns import block_extents

__all__ = [
    "LayerSummary",
    "SensitivityPoint",
    "Summary",
    "filter_sums",
    "sensitivity",
    "sparsity_table",
    "summarize_sparsity",
    "zero_filters",
]


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """Zeros in the weight of one layer.

    Attributes:
        name: name of the weight.
        type: class of the layer.
        parameters: number of weights.
        nonzeros: number of weights that are not zero.
        filters: number of outputs of the layer.
        channels: number of inputs of the layer, in one group.
        zero_filters: number of outputs whose weights are all zero.
        zero_channels: number of inputs whose weights are all zero.
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
        """Whether there are zeros, and all of them are in zero filters or zero channels."""
        kernel = self.parameters // max(1, self.filters * self.channels)
        left = (self.filters - self.zero_filters) * (self.channels - self.zero_channels) * kernel
        return self.nonzeros == left < self.parameters


@dataclasses.dataclass(frozen=True)
class Summary:
    """Sparsity of the layers of a network; ``str`` gives a table of at most 80 columns.

    Biases and the parameters of batch normalization have no row: they are never pruned.
    """

    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        """Number of weights in all rows."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def nonzeros(self) -> int:
        """Number of weights in all rows that are not zero."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of all weights that are zero."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0

    def __str__(self) -> str:
        return sparsity_table(
            "non-zeros",
            [
                (row.name, row.type, row.parameters, row.nonzeros, row.sparsity)
                for row in self.layers
            ],
            (self.parameters, self.nonzeros, self.sparsity),
        )


def sparsity_table(
    counted: str,
    rows: Sequence[tuple[str, str, int, int, float]],
    total: tuple[int, int, float],
) -> str:
    """Format a table of layers that fits 80 columns.

    Args:
        counted: heading of the second count.
        rows: name, type, number of parameters, second count and sparsity of each layer.
        total: the last three of the whole network.

    Example:
        >>> print(sparsity_table("zeros", [("fc.weight", "Linear", 8, 2, 0.25)], (8, 2, 0.25)))
        layer      type    parameters  zeros  sparsity
        fc.weight  Linear           8      2    0.2500
        total                       8      2    0.2500
    """
    cells = [
        (name, kind, f"{parameters:,}", f"{count:,}", f"{sparsity:.4f}")
        for name, kind, parameters, count, sparsity in [*rows, ("total", "", *total)]
    ]
    columns = ["layer", "type", "parameters", counted, "sparsity"]
    return format_table(columns, cells, text_columns=2)


def summarize_sparsity(model: nn.Module) -> Summary:
    """Count the non-zero weights of every layer, as the layer sees them.

    Raises:
        ModelError: the model has no weights of two or more dimensions.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> _ = model[0].weight.data.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0, 0, 0, 0]]))
        >>> print(summarize_sparsity(model))
        layer     type    parameters  non-zeros  sparsity
        0.weight  Linear           8          3    0.6250
        total                      8          3    0.6250
        >>> summarize_sparsity(model).layers[0].zero_filters
        1
    """
    with torch.no_grad(), evaluating(model):  # torch's spectral_norm counts reads in training
        rows = tuple(_row(*found) for found in _weights(model))
    if not rows:
        raise ModelError("the model has no weights of two or more dimensions to count")
    return Summary(rows)


def _weights(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Yield each weight once, outputs first, with its name and the type of its layer."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        held: dict[str, object] = dict(module.named_parameters(recurse=False))
        if parametrize.is_parametrized(module):
            for leaf, inner in module.parametrizations.items():
                held[leaf] = getattr(inner, "original", inner)  # weight_norm has two tensors
        for leaf, dense in held.items():
            weight = getattr(module, leaf).detach()
            if weight.ndim >= 2 and id(dense) not in seen:
                seen.add(id(dense))
                name = f"{path}.{leaf}".removeprefix(".")
                yield name, layer_type(module), WeightLayout.of(module).outputs_first(weight)


def layer_type(layer: nn.Module) -> str:
    """Return the name of the class of a layer, also behind a parametrization."""
    kind = type(layer)
    return (kind.__mro__[1] if parametrize.is_parametrized(layer) else kind).__name__


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


def zero_filters(weight: Tensor, *, layout: WeightLayout = OUTPUTS_FIRST) -> Tensor:
    """Find the filters, the weights of one output each, that are all zero.

    Args:
        weight: of two or more dimensions.
        layout: of the layer; by default the filters are the slices ``weight[k]``.

    Returns:
        A bool for each output.

    Raises:
        ModelError: the weight has fewer dimensions.

    Example:
        >>> zero_filters(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        tensor([False,  True])
    """
    block_extents(weight, "filters")
    return ~layout.outputs_first(weight.detach()).flatten(1).any(1)


def filter_sums(weight: Tensor, *, layout: WeightLayout = OUTPUTS_FIRST) -> Tensor:
    """Sum the magnitudes of each filter; a sum of 0 is a zero filter.

    Arguments and errors are those of `zero_filters`.

    Returns:
        A sum for each output.

    Example:
        >>> filter_sums(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        tensor([3., 0.])
    """
    block_extents(weight, "filters")
    return layout.outputs_first(weight.detach()).abs().flatten(1).sum(1)


@dataclasses.dataclass(frozen=True)
class SensitivityPoint:
    """Score of a network with one layer pruned to a sparsity, and no other.

    Attributes:
        name: name of the layer's weight.
        sparsity: fraction of it that is pruned.
        score: what ``evaluate`` gave.
    """

    name: str
    sparsity: float
    score: float


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    sparsities: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 0.9),
    *,
    include: Sequence[str] = ("*",),
    pattern: str = "weights",
    progress: Progress | None = None,
) -> list[SensitivityPoint]:
    """Scan the sensitivity of layers: prune one at a time by magnitude, and score the network.

    Args:
        model: is copied and not changed; the copy is scored in evaluation mode.
        evaluate: ``evaluate(model)``, any metric as a number, higher for better; on validation
            data, since choices follow from it. The unpruned network is scored once.
        sparsities: fractions from 0 to 1.
        include: globs over names of weights.
        pattern: as in `PruningConfig`.
        progress: called with text, number of scores done, and their total.

    Returns:
        A point for each layer and sparsity, for `allocate`.

    Source: Han et al. 2015, "Learning both weights and connections", figure 6.
    """
    copied = copy.deepcopy(model).eval()
    weights = select_weights(copied, include=include)
    shape = Pattern.of(pattern)
    points = []
    unpruned: float | None = None  # the same for all layers
    for place, (name, weight) in enumerate(weights.items()):
        dense = weight.detach().clone()
        layout = WeightLayout.at(copied, name)
        for number, sparsity in enumerate(sparsities):
            mask = shape.mask(dense.abs(), sparsity, layout=layout)
            with torch.no_grad():
                weight.copy_(dense.masked_fill(~mask, 0))
            prunes = not bool(mask.all())
            score = float(evaluate(copied)) if unpruned is None or prunes else unpruned
            if not prunes:
                unpruned = score
            points.append(SensitivityPoint(name, sparsity, score))
            if progress is not None:
                done = place * len(sparsities) + number + 1
                progress(f"sensitivity of {name}", done, len(weights) * len(sparsities))
        with torch.no_grad():
            weight.copy_(dense)
    return points
