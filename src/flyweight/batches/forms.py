"""Batches of any data set: their forms, how a model runs on them, and what it gives.

A batch has one of three forms:

- a tuple or list ``(inputs, targets)``, as a `torch.utils.data.DataLoader` gives it;
- a mapping of names to tensors, as Hugging Face collators give it; the model takes it as keywords;
- one tensor of inputs, where no targets are needed.

``inputs`` may be a tensor, a tuple (positional arguments) or a mapping (keyword arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Batches",
    "Loss",
    "examples_in",
    "inputs_of",
    "is_pair",
    "is_single",
    "run_model",
    "slice_batch",
    "split_batch",
    "take_examples",
    "targets_of",
    "tensors_in",
    "to_device",
]

Batch = Any
"""``(inputs, targets)``, a mapping of names to tensors, or a tensor of inputs."""

Batches = Iterable[Any]
"""Batches of one form; sized, and the same number each time they are gone through."""

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(model, batch)``: a scalar that decreases as the model gets better."""


def is_pair(batch: Any) -> bool:
    """Tell whether a batch is a sequence of two parts, inputs and targets."""
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2


def inputs_of(batch: Batch) -> Any:
    """Return the inputs of a batch: a tensor, a tuple of tensors or a mapping.

    Example:
        >>> inputs_of((torch.ones(1), torch.zeros(1)))
        tensor([1.])
    """
    return batch[0] if is_pair(batch) or is_single(batch) else batch


def is_single(batch: Any) -> bool:
    """Tell whether a batch is a sequence of one part, the inputs."""
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 1


def targets_of(batch: Batch) -> Any:
    """Return the targets of a batch, ``labels`` of a mapping; None where there are none.

    Example:
        >>> targets_of({"input_ids": torch.ones(1), "labels": torch.zeros(1)})
        tensor([0.])
    """
    if is_pair(batch):
        return batch[1]
    return batch.get("labels") if isinstance(batch, Mapping) else None


def run_model(model: nn.Module, batch: Batch) -> Any:
    """Return what ``model`` gives for the inputs of a batch.

    A tensor is the one positional argument, a tuple the positional arguments, and a mapping the
    keyword arguments.

    Example:
        >>> run_model(nn.Identity(), (torch.ones(2), torch.zeros(2)))
        tensor([1., 1.])
    """
    inputs = inputs_of(batch)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to each tensor of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: mapped(function, part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [mapped(function, part) for part in value]
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*parts)
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return a batch with all tensors on a device; other values stay as they are.

    Example:
        >>> to_device({"x": torch.ones(1)}, "cpu")
        {'x': tensor([1.])}
    """
    return mapped(lambda tensor: tensor.to(device), batch)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def examples_in(batch: Batch) -> int:
    """Return the number of examples: the first extent of the first tensor of the inputs.

    Example:
        >>> examples_in((torch.ones(3, 2), torch.zeros(3)))
        3
    """
    for tensor in tensors_in(inputs_of(batch)):
        if tensor.ndim:
            return len(tensor)
    return 0


def slice_batch(batch: Batch, part: slice) -> Batch:
    """Return some of the examples of a batch, in its form.

    Tensors with another first extent than the number of examples stay whole.

    Example:
        >>> slice_batch((torch.arange(3), torch.arange(3)), slice(1))
        (tensor([0]), tensor([0]))
    """
    count = examples_in(batch)
    return mapped(lambda t: t[part] if t.ndim and len(t) == count else t, batch)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch in parts of at most ``size`` examples.

    Example:
        >>> [examples_in(part) for part in split_batch(torch.ones(5, 2), 2)]
        [2, 2, 1]
    """
    for start in range(0, examples_in(batch), size):
        yield slice_batch(batch, slice(start, start + size))


def take_examples(batches: Batches, examples: int) -> list[Batch]:
    """Return the first ``examples`` examples as a list of batches; the last may be cut.

    No batch beyond them is taken.

    Example:
        >>> found = take_examples([torch.ones(4, 2), torch.ones(4, 2)], 6)
        >>> [examples_in(batch) for batch in found]
        [4, 2]
    """
    found: list[Batch] = []
    if examples <= 0:
        return found
    for batch in batches:
        count = examples_in(batch)
        found.append(batch if count <= examples else slice_batch(batch, slice(examples)))
        examples -= count
        if examples <= 0:
            break
    return found
