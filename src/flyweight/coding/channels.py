"""Per-channel scales and offsets: level times scale, plus offset.

A channel is a place along the first axis of a tensor. The arithmetic is part of the file format:
single steps in float32 (float64 for values of float64), each rounded to nearest, ties to even, so
that every machine gives the same bits. Values of 16 bits are rounded once more, at the end.

Source: scales for each channel as in Krishnamoorthi 2018, "Quantizing deep convolutional networks
for efficient inference", section 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.coding.scalars import carrier

__all__ = ["SCALED_DTYPES", "all_finite", "scaled_values"]

SCALED_DTYPES = ("float16", "bfloat16", "float32", "float64")


def scaled_values(
    levels: NDArray[Any],
    dtype: str,
    scales: NDArray[Any],
    offsets: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return levels times scales plus offsets, all of them arrays of the carrier of ``dtype``.

    Args:
        levels: the level of each element, in the shape of the tensor.
        dtype: one of `SCALED_DTYPES`.
        scales: 1-D, as long as the first extent.
        offsets: the same; None adds nothing.

    >>> levels = np.float32([[1, 2], [1, 2]])
    >>> scaled_values(levels, "float32", np.float32([1, 0.5]), np.float32([0, 3])).tolist()
    [[1.0, 2.0], [3.5, 4.0]]
    """
    along = (-1, *[1] * (levels.ndim - 1))
    with np.errstate(all="ignore"):
        values = _wide(levels, dtype) * _wide(scales, dtype).reshape(along)
        if offsets is not None:
            values += _wide(offsets, dtype).reshape(along)
        return _rounded(values, dtype)


def all_finite(values: NDArray[Any], dtype: str) -> bool:
    """Return whether values of the carrier of ``dtype`` are neither NaN nor infinite."""
    return bool(np.isfinite(_wide(values, dtype)).all())


def _wide(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "bfloat16":
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f8" if dtype == "float64" else "<f4")


def _rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype != "bfloat16":
        return values.astype(carrier(dtype), copy=False)
    bits = values.view("<u4")
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)  # to nearest, ties to even; no value is NaN
    return (bits >> 16).astype("<u2")
