"""Divergence between the outputs of a model and those it had before quantization."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batches import (
    Batch,
    Loss,
    evaluating,
    inputs_of,
    output_tensors,
    run_model,
    targets_of,
)
from flyweight.errors import ModelError

__all__ = ["Head", "OutputDivergence", "heads_of"]

_CACHED_BYTES = 1 << 30  # of outputs; beyond that a copy of the model computes them again
_CHUNK = 1 << 24  # elements compared at a time
_SATURATION = 0.25  # nats
_LEAST_VARIANCE = 1e-3  # of a feature, relative to the mean of all features


@dataclass(frozen=True)
class Head:
    """One output tensor of a model, and how its change is measured.

    Attributes:
        name: as `flyweight.batches.output_tensors` names it.
        axis: of the classes or features.
        categorical: whether the values along ``axis`` are logits of one distribution; else each is
            a number of its own.
    """

    name: str
    axis: int
    categorical: bool

    def rows(self, tensor: Tensor, batch: Batch) -> Tensor:
        """Return predictions × classes or features, without those that a mask calls padding."""
        if tensor.ndim == 1:
            return tensor[:, None]
        inputs = inputs_of(batch)
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        moved = tensor.movedim(self.axis, -1)
        if isinstance(mask, Tensor) and moved.ndim > 2 and mask.shape == moved.shape[:-1]:
            return moved[mask.bool()]
        return moved.reshape(-1, moved.shape[-1])


def heads_of(outputs: Any, batch: Batch) -> tuple[Head, ...]:
    """Return the output tensors that are compared.

    Logits are the field ``logits`` of a mapping or dataclass (classes on the last axis); a lone
    tensor N×K with K of 2 and more; and a tensor that has one axis more than the integer targets
    of the batch. If there are logits, only these are compared; else every floating-point tensor
    that depends on weights is, number by number.

    Args:
        outputs: what the model gave for ``batch`` with gradients enabled.
        batch: any batch.

    Raises:
        ModelError: no output depends on any weight.

    Example:
        >>> logits = torch.zeros(4, 3, requires_grad=True) * 2
        >>> heads_of(logits, torch.ones(4, 2))
        (Head(name='', axis=1, categorical=True),)
        >>> heads_of({"mean": logits}, torch.ones(4, 2))
        (Head(name='mean', axis=1, categorical=False),)
    """
    found = {
        name: tensor
        for name, tensor in output_tensors(outputs).items()
        if tensor.ndim and tensor.numel() and tensor.requires_grad and not tensor.is_leaf
    }
    if not found:
        raise ModelError(
            "the outputs of the model depend on none of its weights; return a tensor that is "
            "computed from them with gradients enabled"
        )
    targets = targets_of(batch)
    if "logits" in found:
        found = {"logits": found["logits"]}
    axes = {name: _class_axis(tensor, name, targets) for name, tensor in found.items()}
    logits = tuple(Head(name, axis, True) for name, axis in axes.items() if axis is not None)
    return logits or tuple(
        Head(name, _feature_axis(tensor), False) for name, tensor in found.items()
    )


def _class_axis(tensor: Tensor, name: str, targets: Any) -> int | None:
    """The axis of the classes if a tensor holds logits, else None."""
    if tensor.ndim < 2:
        return None
    last, shape = tensor.ndim - 1, tensor.shape
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        if shape[1] >= 2 and targets.shape == shape[:1] + shape[2:]:
            return 1
        if shape[last] >= 2 and targets.shape == shape[:last]:
            return last
    if name == "logits" and shape[last] >= 2:
        return last
    if name == "" and tensor.ndim == 2 and shape[1] >= 2 and not _numbers(targets, shape):
        return 1
    return None


def _numbers(targets: Any, shape: torch.Size) -> bool:
    """Whether targets are one number for each output, and not probabilities of classes."""
    if not isinstance(targets, Tensor) or targets.shape != shape:
        return False
    if not targets.is_floating_point():
        return True  # several labels at a time
    sums = targets.float().sum(1)
    return bool((targets < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _feature_axis(tensor: Tensor) -> int:
    """The last axis; the second of images and volumes, N×C×H×W and N×C×D×H×W."""
    return 1 if tensor.ndim > 3 else tensor.ndim - 1


class OutputDivergence:
    """Measure how far the outputs of a model moved from those it has now.

    Of logits it is the Kullback-Leibler divergence, in nats. Of other numbers it is the squared
    difference over twice the variance of the feature, summed over the features: the divergence of
    Gaussians of that variance. It is the mean over all predictions: examples, or their tokens or
    pixels where outputs have such axes. Several heads add up.

    Args:
        model: as it is before quantization; it is not changed.
        batches: in the order and form that it is compared on, on its device.

    Example:
        >>> model, batches = nn.Linear(2, 3), [torch.ones(4, 2)]
        >>> divergence = OutputDivergence(model, batches)
        >>> divergence.of(model)
        0.0
        >>> _ = nn.init.zeros_(model.weight)
        >>> divergence.of(model) > 0
        True
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self._batches = batches
        with evaluating(model):
            with torch.enable_grad():
                outputs = run_model(model, batches[0])
            self.heads = heads_of(outputs, batches[0])
            del outputs
            self._cache: list[dict[str, Tensor]] | None = []
            self._reference: nn.Module | None = None
            sums: dict[str, list[Tensor]] = {}
            size = 0
            for batch in batches:
                rows = self._rows(model, batch)
                for name, part in rows.items():
                    sums.setdefault(name, []).append(_moments(part))
                    size += part.numel() * part.element_size()
                if self._cache is not None and size <= _CACHED_BYTES:
                    self._cache.append(rows)
                else:
                    self._cache = None
        if self._cache is None:
            self._reference = copy.deepcopy(model).eval()
        self._scales = {
            head.name: _scales(sums[head.name]) for head in self.heads if not head.categorical
        }

    @property
    def saturation(self) -> float:
        """The divergence from which on it is no longer proportional to a squared error.

        A quarter of a nat for logits, and for each feature of other outputs.
        """
        return _SATURATION * sum(
            1 if head.categorical else self._scales[head.name].numel() for head in self.heads
        )

    @torch.no_grad()
    def _rows(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        tensors = output_tensors(run_model(model, batch))
        return {head.name: head.rows(tensors[head.name], batch) for head in self.heads}

    def _references(self) -> Iterator[dict[str, Tensor]]:
        if self._cache is not None:
            yield from self._cache
        elif self._reference is not None:
            yield from (self._rows(self._reference, batch) for batch in self._batches)

    @torch.no_grad()
    def of(self, model: nn.Module) -> float:
        """Return the divergence of the outputs that ``model`` gives; it is not changed."""
        totals = dict.fromkeys((head.name for head in self.heads), 0.0)
        counts = dict.fromkeys(totals, 0)
        with evaluating(model):
            for batch, reference in zip(self._batches, self._references(), strict=True):
                found = self._rows(model, batch)
                for head in self.heads:
                    rows, before = found[head.name], reference[head.name]
                    totals[head.name] += self._summed(head, rows, before)
                    counts[head.name] += len(before)
        return sum(total / max(1, counts[name]) for name, total in totals.items())

    def _summed(self, head: Head, rows: Tensor, before: Tensor) -> float:
        if rows.shape != before.shape:
            raise ModelError(
                f"the model gives output {head.name or '0'!r} of another shape when it is run "
                "again; let shapes depend on the inputs alone"
            )
        size = max(1, _CHUNK // max(1, rows.shape[1]))
        total = 0.0
        for part, reference in zip(torch.split(rows, size), torch.split(before, size), strict=True):
            if head.categorical:
                logs, targets = part.double().log_softmax(1), reference.double().log_softmax(1)
                total += float(F.kl_div(logs, targets, log_target=True, reduction="sum"))
            else:
                scale = self._scales[head.name]
                total += float(((part.double() - reference.double()) / scale).square().sum() / 2)
        return total

    def pseudo_loss(self, seed: int = 0) -> Loss:
        """Return a loss whose squared gradient, in the mean, estimates the curvature.

        Of logits it is the cross-entropy with the most likely class as the label; of other
        outputs f their projection Σ ε·f/σ on random normal ε. It is computed of one example, or of
        a batch of them, and needs no targets.

        For logits it is thus the empirical Fisher information at the most likely label, not the
        expectation over all labels of the model's distribution. The two are close where the model
        is in doubt; where it is confident the former is too small, almost 0, so that sensitivities
        by it are measured afterwards, and rounding is checked on the outputs.

        Sources: Martens 2020, "New insights and perspectives on the natural gradient method", §5
        (Fisher information of a Gaussian); Hutchinson 1990 (random projections).
        """
        generator = torch.Generator().manual_seed(seed)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            tensors = output_tensors(run_model(model, batch))
            total: Tensor | None = None
            for head in self.heads:
                rows = head.rows(tensors[head.name], batch)
                if head.categorical:
                    value = F.cross_entropy(rows, rows.detach().argmax(1), reduction="sum")
                else:
                    noise = torch.randn(rows.shape, generator=generator).to(rows)
                    value = (noise * rows / self._scales[head.name].to(rows)).sum()
                value = value / math.sqrt(max(1, len(rows)))
                total = value if total is None else total + value
            assert total is not None  # there is a head at least
            return total

        return loss


def _moments(rows: Tensor) -> Tensor:
    """Number, sum and sum of squares of each feature, 3×F, float64."""
    exact = rows.double()
    number = torch.full_like(exact[:1].sum(0), len(rows))
    return torch.stack([number, exact.sum(0), exact.square().sum(0)])


def _scales(moments: Sequence[Tensor]) -> Tensor:
    """Standard deviation of each feature over all batches, floored; of all if widths differ."""
    if len({part.shape for part in moments}) > 1:
        moments = [part.sum(1, keepdim=True) for part in moments]
    number, total, squares = torch.stack([*moments]).sum(0)
    variance: Tensor = (squares / number - (total / number) ** 2).clamp(min=0)
    least = _LEAST_VARIANCE * float(variance.mean())
    if not least > 0:  # one example, or constant outputs
        mean_square: Tensor = (squares / number).mean()
        return mean_square.clamp(min=1e-12).sqrt()
    return variance.clamp(min=least).sqrt()
