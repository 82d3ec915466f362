"""Collect a state dict bit for bit, with repeated values as symbols and levels.

A tensor with many zeros, or with few distinct values, takes fewer bytes as symbols than as values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parameter import is_lazy

from flyweight.coding import MAX_LEVELS, entropy, prepare_lossless, prepare_shared
from flyweight.compressed.conversion import dtype_name, gradual_underflow, to_numpy, to_torch
from flyweight.compressed.model import CompressedModel
from flyweight.compressed.tensor import CompressedTensor
from flyweight.errors import ModelError

__all__ = ["compress_lossless", "exact_symbols"]

_LEAST = 64  # elements; fewer gain nothing
_SAMPLE = 1 << 16  # elements; hardly a value repeats in a tensor in which few of these do
_DISTINCT = 0.9  # fraction of the sample


@gradual_underflow()
def compress_lossless(
    state: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> CompressedModel:
    """Collect a state dict so that all bits are stored, in the smaller of two ways.

    A tensor is stored as symbols and levels where that takes fewer bytes than its values.
    Tensors that are the same elements in memory are stored once.

    Args:
        state: tensors by name; they are copied and not changed.
        metadata: strings for the file.

    Raises:
        ModelError: something in the state is no tensor that a file can hold.

    Example:
        >>> sparse = torch.randn(100, 100) * (torch.rand(100, 100) < 0.05)
        >>> compressed = compress_lossless({"weight": sparse})
        >>> torch.equal(compressed.state_dict()["weight"], sparse)
        True
        >>> len(compressed.to_bytes()) < 5000 < sparse.nbytes
        True
    """
    tensors: dict[str, CompressedTensor | Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[object, tuple[str, Tensor]] = {}  # holds tensors, so that no memory is used again
    for name, value in state.items():
        if is_lazy(value):
            raise ModelError(
                f"tensor {name!r} has no shape before its lazy layer met a batch; "
                "run the model on one first"
            )
        array = to_numpy(value, name)
        owner, _ = owners.setdefault(_elements(value), (name, value))
        if value.numel() and owner != name:
            aliases[name] = owner
            continue
        compressed = _smaller(name, array, value.dtype)
        tensors[name] = value.detach().clone() if compressed is None else compressed
    return CompressedModel(tensors, aliases, metadata or {})


def _elements(value: Tensor) -> object:
    """Return a key that is equal for tensors of the same elements in memory."""
    view = (value.is_conj(), value.is_neg(), value.stride(), tuple(value.shape))
    return (str(value.device), value.data_ptr(), value.dtype, *view)


def _smaller(name: str, values: NDArray[Any], dtype: torch.dtype) -> CompressedTensor | None:
    """Return a tensor as symbols and levels if that takes fewer bytes than its values."""
    compressed = exact_symbols(values, dtype)
    if compressed is None:
        return None
    levels = to_numpy(compressed.levels, name)
    symbols = prepare_shared(
        name, compressed.symbols.numpy(), levels=levels, dtype=dtype_name(dtype)
    )
    dense = prepare_lossless(name, values, dtype=dtype_name(dtype))
    if dense.encoding == "constant":
        return None
    size = symbols.encode(effort="balanced").stored_bytes
    return compressed if size < dense.encode().stored_bytes else None


def exact_symbols(values: NDArray[Any], dtype: torch.dtype) -> CompressedTensor | None:
    """Represent values by symbols and levels of the same bits, if that can take fewer bytes.

    Args:
        values: of the carrier of ``dtype``.
        dtype: of the tensor.

    Returns:
        Symbols and ascending levels: negative zero is a level. None where a value is NaN, there
        are too many levels, or their order-0 entropy exceeds the bytes of the values.

    Example:
        >>> tensor = exact_symbols(np.float32([2, 0, -0.0, 2, -1] * 20), torch.float32)
        >>> tensor.symbols[:5].tolist(), tensor.levels.tolist()
        ([3, 0, 2, 3, 1], [-1.0, -0.0, 2.0])
    """
    if values.size < _LEAST or values.dtype.kind == "c":
        return None
    floating = dtype.is_floating_point
    keys = _sortable(values.reshape(-1), floating)
    sample = keys[:: max(1, keys.size // _SAMPLE)]
    if np.unique(sample).size > _DISTINCT * sample.size:
        return None
    distinct, counts = np.unique(keys, return_counts=True)
    zero_key = _sortable(np.zeros(1, values.dtype), floating)[0]
    zero = int(np.searchsorted(distinct, zero_key))
    if zero == distinct.size or distinct[zero] != zero_key:
        zero = -1
    levels = np.delete(distinct, zero) if zero >= 0 else distinct
    table = to_torch(_values(levels, values.dtype, floating), dtype_name(dtype))
    stated = entropy(counts) / 8 + levels.size * values.dtype.itemsize
    if levels.size > MAX_LEVELS or stated > values.nbytes or _holds_nan(table):
        return None
    places = np.searchsorted(distinct, keys).astype(np.int32)
    if zero < 0:
        symbols = places + np.int32(1)
    else:
        symbols = np.where(places == zero, 0, places + (places < zero)).astype(np.int32)
    return CompressedTensor(torch.from_numpy(symbols.reshape(values.shape)), table)


def _holds_nan(table: Tensor) -> bool:
    return table.is_floating_point() and bool(torch.isnan(table.float()).any())


def _sortable(values: NDArray[Any], floating: bool) -> NDArray[Any]:
    """Map values to integers of the same order, one to one with their bits."""
    if not floating:
        return values
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _values(keys: NDArray[Any], dtype: np.dtype[Any], floating: bool) -> NDArray[Any]:
    """Return the values that `_sortable` was given."""
    if not floating:
        return keys
    sign = keys.dtype.type(1 << (8 * keys.dtype.itemsize - 1))
    bits: NDArray[Any] = np.where(keys & sign, keys & ~sign, ~keys)
    return bits.view(dtype)
