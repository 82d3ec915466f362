"""Outputs of any model: their tensors, their logits, and the loss of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.batches.forms import Batch, run_model, targets_of
from flyweight.errors import DataError, ModelError

__all__ = [
    "default_loss",
    "evaluating",
    "logits_of",
    "output_tensors",
    "same_bits",
    "same_outputs",
]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; afterwards each module has the mode that it had.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def output_tensors(outputs: Any) -> dict[str, Tensor]:
    """Return the floating-point tensors that a model gave, by a name or number each.

    ``outputs`` may be a tensor, or tuples, lists, mappings and dataclasses of them, nested.

    Raises:
        ModelError: there is none, so that nothing can be compared.

    Example:
        >>> output_tensors((torch.ones(1), {"a": torch.zeros(1)}))
        {'0': tensor([1.]), '1.a': tensor([0.])}
        >>> output_tensors(torch.ones(1))
        {'': tensor([1.])}
    """
    found = dict(_named_tensors(outputs, ""))
    if not found:
        raise ModelError(
            f"the model gives a {type(outputs).__name__} without a floating-point tensor, so its "
            "outputs cannot be compared; return tensors, or a tuple, mapping or dataclass of them"
        )
    return found


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        parts = zip(names, value, strict=True)
    elif dataclasses.is_dataclass(value):
        parts = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    for key, part in parts:
        yield from _named_tensors(part, f"{name}.{key}".removeprefix("."))


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Tell whether two tensors have the same type, shape and bits.

    Example:
        >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
        False
    """
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    left, right = (t.detach().contiguous().flatten().view(torch.uint8) for t in (first, second))
    return torch.equal(left, right)


def same_outputs(first: Any, second: Any) -> bool:
    """Tell whether two outputs of a model are identical, bit for bit.

    Example:
        >>> same_outputs((torch.ones(1),), (torch.ones(1),))
        True
    """
    left, right = output_tensors(first), output_tensors(second)
    return left.keys() == right.keys() and all(
        same_bits(tensor, right[name]) for name, tensor in left.items()
    )


def _field(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return getattr(outputs, name, None) if not isinstance(outputs, Tensor) else None


def logits_of(outputs: Any) -> Tensor | None:
    """Return the logits among the outputs of a model, or None where they cannot be identified.

    They are the outputs themselves, the field ``logits`` of a mapping or dataclass, or the first
    part of a tuple.

    Example:
        >>> logits_of({"logits": torch.ones(1, 2), "hidden": torch.ones(1, 9)})
        tensor([[1., 1.]])
    """
    found = _field(outputs, "logits")
    if found is None:
        found = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    return found if isinstance(found, Tensor) and found.is_floating_point() else None


def default_loss(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Tensor:
    """Compute the loss that is used where none is given.

    Cross-entropy between the logits N×K or N×K×… and integer targets N or N×…, in float32 at
    least; for a mapping, the ``loss`` that the model computes itself, as Hugging Face models do
    from ``labels``.

    Raises:
        DataError: the batch has no targets, or targets that are not integers.
        ModelError: the model gives no loss for a mapping, or no logits.

    Example:
        >>> batch = (torch.zeros(2, 3), torch.tensor([0, 1]))
        >>> round(float(default_loss(nn.Identity(), batch)), 4)
        1.0986
    """
    outputs = run_model(model, batch)
    if isinstance(batch, Mapping):
        loss = _field(outputs, "loss")
        if not isinstance(loss, Tensor):
            raise ModelError(
                "the model gives no loss for these batches, which are mappings; put labels into "
                "them, or give loss=, a function of model and batch"
            )
        return loss
    targets = targets_of(batch)
    if not isinstance(targets, Tensor):
        raise DataError("the batches hold no targets to train on; give (inputs, targets) or loss=")
    if targets.is_floating_point():
        raise DataError(
            "the targets are not integers, so cross-entropy does not fit; give loss=, a function "
            "of model and batch"
        )
    logits = logits_of(outputs)
    if logits is None:
        raise ModelError(
            f"the model gives a {type(outputs).__name__} without logits; give loss=, a function "
            "of model and batch"
        )
    if logits.element_size() < 4:  # bfloat16 and float16
        logits = logits.float()
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
