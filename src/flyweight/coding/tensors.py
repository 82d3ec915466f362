"""A tensor as coded parts, and back: shared values, dense values, a constant or an alias.

Which coder is taken is decided by the bytes that come out. `forms` says what the parts are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.channels import SCALED_DTYPES, all_finite, scaled_values
from flyweight.coding.coders import Effort
from flyweight.coding.forms import (
    MAX_LEVELS,
    OWN_PARTS,
    CodedTensor,
    Encoding,
    defect,
)
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.scalars import carrier, pack_scalars, unpack_scalars
from flyweight.coding.symbols import (
    Coder,
    PartKind,
    pack_symbols,
    unpack_symbols,
)
from flyweight.errors import FormatError, ModelError

__all__ = [
    "encode_alias",
    "encode_constant",
    "encode_dense",
    "encode_lossless",
    "encode_shared",
    "decode_channels",
    "decode_dense",
    "decode_shared",
    "decode_tensor",
    "negative_levels",
]

_LEAST_FOR_PLANES = 64  # bytes; fewer cannot pay for their tables


def encode_shared(
    name: str,
    symbols: ArrayLike,
    *,
    levels: ArrayLike,
    scales: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
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
        scales: of the channels, 1-D and as long as the first extent, of the same type: a value is
            then ``levels[k - 1] * scales[channel]``, as in `channels`. None has none.
        offsets: the same, added to that; only with ``scales``. A symbol 0 stays exactly zero.
        dtype: what the values are when decoded.
        storage: dtype of the stored codebook, scales and offsets; None takes the narrowest
            that is exact.
        effort: how long to search for the smallest coding.
        coder: takes this one, "plain", "interleaved", "rans" or "context", whatever its bytes.

    >>> tensor = encode_shared("w", [[0, 1], [2, 0]], levels=np.float32([-0.5, 0.5]))
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
    own, storage = _pack_own(name, symbols, (values, scales, offsets), dtype, storage)
    coder, parts = pack_symbols(
        symbols, values.size, negatives=negative_levels(values, dtype), effort=effort, only=coder
    )
    return CodedTensor(
        name=name,
        shape=symbols.shape,
        dtype=dtype,
        encoding="shared",
        storage=storage,
        parts=parts | own,
        levels=values.size,
        coder=coder,
    )


def _pack_own(
    name: str,
    symbols: NDArray[Any],
    tables: tuple[ArrayLike | None, ...],
    dtype: str,
    storage: str | None,
) -> tuple[dict[PartKind, bytes], str]:
    """Return codebook, scales and offsets, as far as there are, in one storage dtype for all."""
    arrays = [np.asarray(table) for table in tables if table is not None]
    if len(arrays) > 1:
        if tables[1] is None:
            raise ModelError(f"tensor {name!r}: offsets need scales.")
        if not symbols.ndim or any(array.shape != symbols.shape[:1] for array in arrays[1:]):
            raise ModelError(
                f"tensor {name!r} has {symbols.shape[:1]} channels, and scales or offsets of "
                f"shapes {[array.shape for array in arrays[1:]]}."
            )
        if dtype not in SCALED_DTYPES:
            raise ModelError(f"tensor {name!r} of dtype {dtype} cannot have scales.")
        if not all(all_finite(array, dtype) for array in arrays):
            raise ModelError(f"tensor {name!r} has levels, scales or offsets that are not finite.")
    raw, storage = pack_scalars(np.concatenate(arrays), dtype, storage)
    own: dict[PartKind, bytes] = {}
    for kind, array in zip(OWN_PARTS, arrays, strict=False):
        length = array.size * carrier(storage).itemsize
        own[kind], raw = raw[:length], raw[length:]
    return own, storage


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


def decode_channels(tensor: CodedTensor) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return (scales, offsets) of a shared tensor, arrays of the carrier of its dtype.

    They are None where it has none. Raises `FormatError` naming the tensor where they, or the
    levels that they go with, are NaN or infinite.
    """
    _require(tensor, "shared")
    if not tensor.scaled:
        return None, None
    tables = []
    for kind in OWN_PARTS:
        if kind in tensor.parts:
            tables.append(unpack_scalars(tensor.parts[kind], tensor.dtype, tensor.storage))
            if not all_finite(tables[-1], tensor.dtype):
                raise FormatError(f"tensor {tensor.name!r} has {kind} that are NaN or infinite.")
    return tables[1], tables[2] if len(tables) > 2 else None


def encode_dense(
    name: str, values: ArrayLike, *, dtype: str, storage: str | None = None
) -> CodedTensor:
    """Code a tensor as its values, of the carrier of ``dtype``, one by one.

    ``storage`` is the dtype of the stored bytes; None takes the narrowest that is exact.

    >>> encode_dense("b", np.float32([1.0, 0.1]), dtype="float32").storage
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


def encode_constant(
    name: str,
    shape: tuple[int, ...],
    *,
    value: ArrayLike,
    dtype: str,
    storage: str | None = None,
) -> CodedTensor:
    """Code a tensor of which every element is ``value`` (a scalar of the carrier of ``dtype``).

    A value whose bits are all zero takes no bytes.

    >>> encode_constant("steps", (), value=np.int64(0), dtype="int64").parts
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


def encode_lossless(
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
    dense = encode_dense(name, values, dtype=dtype, storage=storage)
    raw = dense.parts["dense"]
    item = carrier(dense.storage).itemsize
    if not raw or memoryview(raw)[item:] != memoryview(raw)[:-item]:  # without two copies
        return _by_planes(dense) if planes and len(raw) >= _LEAST_FOR_PLANES else dense
    first = values.ravel()[:1]
    return encode_constant(name, values.shape, value=first, dtype=dtype, storage=dense.storage)


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


def encode_alias(name: str, tensor: CodedTensor, *, target: int) -> CodedTensor:
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
    values = np.concatenate([np.zeros(1, dtype=levels.dtype), levels])[symbols]
    scales, offsets = decode_channels(tensor)
    if scales is None:
        return values
    values = scaled_values(values, tensor.dtype, scales, offsets)
    values[symbols == 0] = 0
    return values


def _require(tensor: CodedTensor, *encodings: Encoding) -> None:
    if tensor.encoding not in encodings:
        raise ModelError(
            f"tensor {tensor.name!r} is {tensor.encoding}, not {' or '.join(encodings)}."
        )
    sentence = defect(tensor)
    if sentence:
        raise FormatError(sentence)
