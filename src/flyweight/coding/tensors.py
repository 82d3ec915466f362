"""A tensor as coded parts, and back: shared values, dense values, a constant or an alias.

Which coder is taken is decided by the bytes that come out. `forms` says what the parts are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.coders import Effort
from flyweight.coding.forms import MAX_LEVELS, CodedTensor, Encoding, defect
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.scalars import carrier, pack_scalars, unpack_scalars
from flyweight.coding.symbols import Coder, pack_symbols, unpack_symbols
from flyweight.errors import FormatError, ModelError

__all__ = [
    "code_alias",
    "code_constant",
    "code_dense",
    "code_lossless",
    "code_shared",
    "decode_dense",
    "decode_shared",
    "decode_tensor",
    "negative_levels",
]

_LEAST_FOR_PLANES = 64  # bytes; fewer cannot pay for their tables


def code_shared(
    name: str,
    symbols: ArrayLike,
    *,
    levels: ArrayLike,
    dtype: str = "float32",
    storage: str | None = None,
    effort: Effort = "smallest",
    coder: Coder | None = None,
) -> CodedTensor:
    """Code a tensor of few values: symbol 0 is an exact zero, symbol k is ``levels[k - 1]``.

    Arguments:
        name: of the tensor.
        symbols: integers in 0..len(levels), of the shape of the tensor.
        levels: the codebook, 1-D, at most 65,535 values of the carrier of ``dtype``.
        dtype: what the values are when decoded.
        storage: dtype of the stored codebook; None takes the narrowest that is exact.
        effort: how long to search for the smallest coding.
        coder: takes this one, "plain", "interleaved", "rans" or "context", whatever its bytes.

    >>> tensor = code_shared("w", [[0, 1], [2, 0]], levels=np.float32([-0.5, 0.5]))
    >>> decode_shared(tensor)[0].tolist()
    [[0, 1], [2, 0]]
    """
    symbols = np.asarray(symbols)
    values = np.asarray(levels)
    if values.ndim != 1 or values.size > MAX_LEVELS:
        raise ModelError(f"tensor {name!r}: levels must be 1-D and at most {MAX_LEVELS} long.")
    if symbols.size and not np.issubdtype(symbols.dtype, np.integer):
        raise ModelError(f"tensor {name!r}: symbols must be integers, not {symbols.dtype}.")
    if symbols.size and not (symbols.min() >= 0 and symbols.max() <= values.size):
        raise ModelError(f"tensor {name!r}: symbols must lie in 0..{values.size}.")
    codebook, storage = pack_scalars(values, dtype, storage)
    coder, parts = pack_symbols(
        symbols, values.size, negatives=negative_levels(values, dtype), effort=effort, only=coder
    )
    return CodedTensor(
        name=name,
        shape=symbols.shape,
        dtype=dtype,
        encoding="shared",
        storage=storage,
        parts=parts | {"codebook": codebook},
        levels=values.size,
        coder=coder,
    )


def negative_levels(levels: NDArray[Any], dtype: str) -> int:
    """Return how many levels, of the carrier of ``dtype``, are below zero."""
    if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return int(np.count_nonzero(levels >> (8 * levels.dtype.itemsize - 1)))
    return 0 if levels.dtype.kind == "c" else int(np.count_nonzero(levels < 0))


def decode_shared(tensor: CodedTensor) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """Return (symbols, levels) of a shared tensor; symbols have the shape of the tensor.

    Raises `FormatError` naming the tensor if a part is damaged.
    """
    _require(tensor, "shared")
    try:
        levels = unpack_scalars(tensor.parts["codebook"], tensor.dtype, tensor.storage)
        if tensor.joint is not None:
            return tensor.joint.symbols(tensor.member), levels
        return unpack_symbols(tensor.coder, tensor.parts, tensor.shape, tensor.levels), levels
    except FormatError as error:
        raise FormatError(f"tensor {tensor.name!r} is damaged: {error}") from error


def code_dense(
    name: str, values: ArrayLike, *, dtype: str, storage: str | None = None
) -> CodedTensor:
    """Code a tensor as its values, of the carrier of ``dtype``, one by one.

    ``storage`` is the dtype of the stored bytes; None takes the narrowest that is exact.

    >>> code_dense("b", np.float32([1.0, 0.1]), dtype="float32").storage
    'float32'
    """
    values = np.asarray(values)
    raw, storage = pack_scalars(values, dtype, storage)
    return CodedTensor(
        name=name,
        shape=values.shape,
        dtype=dtype,
        encoding="dense",
        storage=storage,
        parts={"dense": raw},
    )


def code_constant(
    name: str,
    shape: tuple[int, ...],
    *,
    value: ArrayLike,
    dtype: str,
    storage: str | None = None,
) -> CodedTensor:
    """Code a tensor of which every element is ``value`` (a scalar of the carrier of ``dtype``).

    A value whose bits are all zero takes no bytes.

    >>> code_constant("steps", (), value=np.int64(0), dtype="int64").parts
    {'dense': b''}
    """
    raw, storage = pack_scalars(value, dtype, storage)
    if np.size(value) != 1:
        raise ModelError(f"tensor {name!r}: a constant has one value, not {np.size(value)}.")
    return CodedTensor(
        name=name,
        shape=tuple(shape),
        dtype=dtype,
        encoding="constant",
        storage=storage,
        parts={"dense": raw if any(raw) else b""},
    )


def code_lossless(
    name: str,
    values: ArrayLike,
    *,
    dtype: str,
    storage: str | None = None,
    planes: bool = True,
) -> CodedTensor:
    """Code a tensor as a constant if all its values have the same bits, else as dense.

    Dense values are taken apart into byte planes where that is smaller, unless ``planes`` is
    False.
    """
    values = np.asarray(values)
    dense = code_dense(name, values, dtype=dtype, storage=storage)
    raw = dense.parts["dense"]
    item = carrier(dense.storage).itemsize
    if not raw or memoryview(raw)[item:] != memoryview(raw)[:-item]:  # without two copies
        return _by_planes(dense) if planes and len(raw) >= _LEAST_FOR_PLANES else dense
    first = values.ravel()[:1]
    return code_constant(name, values.shape, value=first, dtype=dtype, storage=dense.storage)


def _by_planes(dense: CodedTensor) -> CodedTensor:
    stored = np.frombuffer(dense.parts["dense"], dtype=carrier(dense.storage))
    planes = encode_planes(stored, dense.storage)
    if len(planes) >= len(dense.parts["dense"]):
        return dense
    return replace(dense, parts={"dense": planes}, coder="planes")


def decode_dense(tensor: CodedTensor) -> NDArray[Any]:
    """Return the values of a dense or constant tensor, as an array of the carrier of its dtype."""
    _require(tensor, "dense", "constant")
    raw = (tensor.joint or tensor).parts["dense"]
    if tensor.encoding == "constant":
        raw = raw or bytes(carrier(tensor.storage).itemsize)
    try:
        if tensor.coder == "planes" and tensor.joint is not None:
            raw = tensor.joint.dense(tensor.member)
        elif tensor.coder == "planes":
            raw = decode_planes(raw, tensor.size, tensor.storage).tobytes()
        values = unpack_scalars(raw, tensor.dtype, tensor.storage)
    except FormatError as error:
        raise FormatError(f"tensor {tensor.name!r} is damaged: {error}") from error
    if tensor.encoding == "constant":
        return np.full(tensor.shape, values[0])
    return values.reshape(tensor.shape)


def code_alias(name: str, tensor: CodedTensor, *, target: int) -> CodedTensor:
    """Code a tensor that is the same as ``tensor``, the ``target``-th of the file (from 0)."""
    return CodedTensor(
        name=name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        encoding="alias",
        storage=tensor.dtype,
        target=target,
    )


def decode_tensor(tensor: CodedTensor) -> NDArray[Any]:
    """Return the values of any tensor that is no alias, as an array of the carrier of its dtype."""
    if tensor.encoding != "shared":
        return decode_dense(tensor)
    symbols, levels = decode_shared(tensor)
    return np.concatenate([np.zeros(1, dtype=levels.dtype), levels])[symbols]


def _require(tensor: CodedTensor, *encodings: Encoding) -> None:
    if tensor.encoding not in encodings:
        raise ModelError(
            f"tensor {tensor.name!r} is {tensor.encoding}, not {' or '.join(encodings)}."
        )
    sentence = defect(tensor)
    if sentence:
        raise FormatError(sentence)
