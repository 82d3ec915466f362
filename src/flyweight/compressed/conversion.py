"""Convert tensors between torch and the arrays that `flyweight.coding` takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flyweight.errors import FormatError, ModelError

__all__ = ["dtype_name", "gradual_underflow", "to_numpy", "to_torch"]

# Types that numpy lacks are carried as their bits.
_CARRIED_AS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


@contextlib.contextmanager
def gradual_underflow() -> Iterator[None]:
    """Keep subnormal numbers in this thread, also where `torch.set_flush_denormal` flushes them.

    The setting is as before at the end. It is also a decorator.

    Example:
        >>> with gradual_underflow():
        ...     bool(torch.tensor(2.0**-126) / 2 > 0)
        True
    """
    with np.errstate(all="ignore"):
        flushed = bool(np.multiply(np.float32(2.0**-126), np.float32(0.5)) == 0)
    if not flushed:
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype without its module.

    Example:
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: Tensor, name: str) -> NDArray[Any]:
    """Return the values of a tensor as an array of the carrier of its dtype.

    Raises:
        ModelError: it is no dense tensor with values, or of a dtype that no file holds; the
            message names it.
    """
    if not isinstance(tensor, Tensor):
        raise ModelError(
            f"{name!r} is a {type(tensor).__name__}, and a file holds tensors only; leave it out"
        )
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ModelError(f"tensor {name!r} is sparse, nested or quantized by torch; make it dense")
    if tensor.is_meta:
        raise ModelError(f"tensor {name!r} is on the meta device and holds no values; load them")
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    carried = _CARRIED_AS.get(tensor.dtype)
    try:
        return (tensor if carried is None else tensor.contiguous().view(carried)).numpy()
    except TypeError as error:
        raise ModelError(
            f"tensor {name!r} is of {tensor.dtype}, which no file holds; convert it"
        ) from error


def to_torch(values: NDArray[Any], dtype: str) -> Tensor:
    """Return an array of the carrier of a dtype as a tensor, without a copy where possible.

    Raises:
        FormatError: this version of torch lacks the dtype.
    """
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise FormatError(f"this version of torch has no dtype {dtype!r}; install a newer one")
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    tensor = torch.from_numpy(native if native.flags.writeable else native.copy())
    return tensor.view(found) if found in _CARRIED_AS else tensor
