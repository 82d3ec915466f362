"""Batches of any data set: their forms, how a model runs on them, and what it gives.

A batch has one of three forms:

- a tuple or list ``(inputs, targets)``, as a `torch.utils.data.DataLoader` gives it;
- a mapping of names to tensors, as Hugging Face collators give it; the model takes it as keywords;
- one tensor of inputs, where no targets are needed.

``inputs`` may be a tensor, a tuple (positional arguments) or a mapping (keyword arguments).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.errors import DataError, ModelError

__all__ = [
    "Batch",
    "Batches",
    "Loss",
    "check_batch",
    "check_batches",
    "default_loss",
    "evaluating",
    "examples_in",
    "inputs_of",
    "logits_of",
    "output_tensors",
    "run_model",
    "same_bits",
    "same_outputs",
    "slice_batch",
    "split_batch",
    "take_examples",
    "targets_of",
    "to_device",
]

Batch = Any
"""``(inputs, targets)``, a mapping of names to tensors, or a tensor of inputs."""

Batches = Iterable[Any]
"""Batches of one form; sized, and the same number each time they are gone through."""

Loss = Callable[[nn.Module, Any], Tensor]
"""``loss(model, batch)``: a scalar that decreases as the model gets better."""

_FORMS = "(inputs, targets), a mapping of names to tensors, or one tensor of inputs"


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


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2


def inputs_of(batch: Batch) -> Any:
    """Return the inputs of a batch: a tensor, a tuple of tensors or a mapping.

    Example:
        >>> inputs_of((torch.ones(1), torch.zeros(1)))
        tensor([1.])
    """
    return batch[0] if _is_pair(batch) or _is_single(batch) else batch


def _is_single(batch: Any) -> bool:
    return isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 1


def targets_of(batch: Batch) -> Any:
    """Return the targets of a batch, ``labels`` of a mapping; None where there are none.

    Example:
        >>> targets_of({"input_ids": torch.ones(1), "labels": torch.zeros(1)})
        tensor([0.])
    """
    if _is_pair(batch):
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


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to each tensor of nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: _mapped(function, part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [_mapped(function, part) for part in value]
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
    return _mapped(lambda tensor: tensor.to(device), batch)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def examples_in(batch: Batch) -> int:
    """Return the number of examples: the first extent of the first tensor of the inputs.

    Example:
        >>> examples_in((torch.ones(3, 2), torch.zeros(3)))
        3
    """
    for tensor in _tensors(inputs_of(batch)):
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
    return _mapped(lambda t: t[part] if t.ndim and len(t) == count else t, batch)


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

    Example:
        >>> found = take_examples([torch.ones(4, 2), torch.ones(4, 2)], 6)
        >>> [examples_in(batch) for batch in found]
        [4, 2]
    """
    found: list[Batch] = []
    for batch in batches:
        if examples <= 0:
            break
        count = examples_in(batch)
        found.append(batch if count <= examples else slice_batch(batch, slice(examples)))
        examples -= count
    return found


def check_batch(batch: Batch, name: str = "data") -> None:
    """Raise DataError, which names the argument, for a batch of no known form or without content.

    Example:
        >>> check_batch("text")
        Traceback (most recent call last):
        flyweight.errors.DataError: data gives batches of type str; give (inputs, targets), ...
    """
    pair = _is_pair(batch) or _is_single(batch)
    if not (pair or isinstance(batch, Tensor | Mapping)) or isinstance(batch, str | bytes):
        kind = type(batch).__name__
        if isinstance(batch, tuple | list):
            kind = f"{kind} of {len(batch)} parts"
        raise DataError(f"{name} gives batches of type {kind}; give {_FORMS}")
    tensors = [*_tensors(inputs_of(batch))]
    if not tensors:
        raise DataError(f"{name} gives batches whose inputs hold no tensor; give {_FORMS}")
    if not examples_in(batch) or not all(tensor.numel() for tensor in tensors):
        shape = tuple(tensors[0].shape)
        raise DataError(f"{name} gives a batch without examples, of shape {shape}; leave it out")
    for tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{name} gives a batch that holds NaN or infinity; remove it")


def check_batches(batches: Any, name: str = "data") -> int:
    """Return the number of batches after a look at the first one.

    Args:
        batches: an iterable of batches with a length that can be gone through more than once.
        name: of the argument, for errors.

    Raises:
        DataError: ``batches`` is a tensor, is empty, has no length, cannot be gone through twice,
            or its first batch has no known form.

    Example:
        >>> check_batches([torch.ones(1, 2)])
        1
    """
    if isinstance(batches, Tensor | Mapping | str):
        raise DataError(f"{name} is a {type(batches).__name__}; give a list of batches or a loader")
    if not isinstance(batches, Iterable):
        raise DataError(
            f"{name} is a {type(batches).__name__}, which cannot be iterated over; give a list of "
            "batches or a loader"
        )
    try:
        count = len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over an iterable data set
        count = None
    if count is None:
        raise DataError(
            f"{name} has no length, so that no schedule fits it; give a list or a sized loader, "
            "itertools.islice made a list say"
        )
    first = next(iter(batches), None) if count else None
    if first is None:
        raise DataError(f"{name} is empty; give at least one batch")
    check_batch(first, name)
    return count


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
    """Return the logits among the outputs of a model, None where they cannot be told.

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

