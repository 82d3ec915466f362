"""Collect a state dict bit for bit, tensors of shared memory once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.parameter import is_lazy

from flyweight.compressed.conversion import to_numpy
from flyweight.compressed.model import CompressedModel
from flyweight.errors import ModelError

__all__ = ["compress_lossless"]


def compress_lossless(
    state: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> CompressedModel:
    """Collect a state dict so that all bits are stored.

    Each tensor is encoded in the form that takes fewest bytes: byte planes, zeros apart, symbols
    and levels, or repeated pieces. Tensors that are the same elements in memory are stored once.

    Args:
        state: tensors by name; they are copied and not changed.
        metadata: strings for the file.

    Raises:
        ModelError: something in the state is no tensor that a file can hold.

    Example:
        >>> import torch
        >>> sparse = torch.randn(100, 100) * (torch.rand(100, 100) < 0.05)
        >>> compressed = compress_lossless({"weight": sparse})
        >>> torch.equal(compressed.state_dict()["weight"], sparse)
        True
        >>> len(compressed.to_bytes()) < 5000 < sparse.nbytes
        True
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[object, tuple[str, Tensor]] = {}  # holds tensors, so that no memory is used again
    for name, value in state.items():
        if is_lazy(value):
            raise ModelError(
                f"tensor {name!r} has no shape before its lazy layer met a batch; "
                "run the model on one first"
            )
        to_numpy(value, name)  # refuses what a file cannot hold
        owner, _ = owners.setdefault(_elements(value), (name, value))
        if value.numel() and owner != name:
            aliases[name] = owner
            continue
        tensors[name] = value.detach().clone()
    return CompressedModel(tensors, aliases, metadata or {})


def _elements(value: Tensor) -> object:
    """Return a key that is equal for tensors of the same elements in memory."""
    view = (value.is_conj(), value.is_neg(), value.stride(), tuple(value.shape))
    return (str(value.device), value.data_ptr(), value.dtype, *view)
