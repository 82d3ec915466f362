"""Encode one tensor into parts, and decode it: quantized, dense, constant or alias.

The coder is chosen by the bytes that come out. `forms` describes the parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.channels import all_finite, dequantized
from flyweight.coding.forms import OWN_PARTS, CodedTensor, Encoding, defect
from flyweight.coding.lossless import decode_matches, decode_sparse
from flyweight.coding.planes import decode_planes
from flyweight.coding.scalars import carrier, pack_scalars, unpack_scalars, widened
from flyweight.coding.symbols import Coder, Effort, unpack_symbols
from flyweight.coding.uncoded import UncodedTensor, prepare_dense, prepare_lossless, prepare_shared
from flyweight.errors import FormatError, ModelError

__all__ = [
    "decode_channels",
    "decode_dense",
    "decode_shared",
    "decode_tensor",
    "encode_alias",
    "encode_constant",
    "encode_dense",
    "encode_lossless",
    "encode_shared",
]


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
    """Encode a quantized tensor: symbol 0 is an exact zero, symbol k is ``levels[k - 1]``.

    Args:
        name: of the tensor.
        symbols: integers in 0..len(levels), of the shape of the tensor.
        levels: the codebook, 1-D, at most 65,535 values of the carrier of ``dtype``.
        scales: of the channels, 1-D and as long as the first extent, of the same type: a value is
            then ``levels[k - 1] * scales[channel]``, as in `channels`. None has none.
        offsets: the same, added to that; only with ``scales``. A symbol 0 stays exactly zero.
        dtype: of the values when decoded.
        storage: dtype of the stored codebook, scales and offsets; None takes the narrowest
            that is exact.
        effort: of the search for the smallest coding.
        coder: "huffman", "rans" or "context", regardless of its bytes; None takes the one that
            gives fewest.

    Raises:
        ModelError: a file cannot hold the tensor.

    Example:
        >>> tensor = encode_shared("w", [[0, 1], [2, 0]], levels=np.float32([-0.5, 0.5]))
        >>> decode_shared(tensor)[0].tolist()
        [[0, 1], [2, 0]]
    """
    tensor = prepare_shared(
        name,
        symbols,
        levels=levels,
        scales=scales,
        offsets=offsets,
        dtype=dtype,
        storage=storage,
    )
    return tensor.encode(effort=effort, coder=coder)


def decode_shared(tensor: CodedTensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (symbols, levels) of a shared tensor; symbols have the shape of the tensor.

    Raises `FormatError` naming the tensor if a part is damaged.
    """
    _require(tensor, "shared")
    try:
        levels = unpack_scalars(tensor.parts["codebook"], tensor.dtype, tensor.storage)
        if tensor.group is not None:
            return tensor.group.symbols(tensor.member), levels
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
    """Encode a tensor as its values, of the carrier of ``dtype``, one by one.

    ``storage`` is the dtype of the stored bytes; None takes the narrowest that is exact.

    Example:
        >>> encode_dense("b", np.float32([1.0, 0.1]), dtype="float32").storage
        'float32'
    """
    return prepare_dense(name, values, dtype=dtype, storage=storage).encode(coder="raw")


def encode_constant(
    name: str,
    shape: tuple[int, ...],
    *,
    value: ArrayLike,
    dtype: str,
    storage: str | None = None,
) -> CodedTensor:
    """Encode a tensor of which every element is ``value`` (a scalar of the carrier of ``dtype``).

    A value whose bits are all zero takes no bytes.

    Example:
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
    effort: Effort = "smallest",
    coder: Coder | None = None,
) -> CodedTensor:
    """Encode a tensor bit for bit: as a constant, as one of the forms of `lossless`, or as symbols.

    ``effort`` and ``coder`` are those of `UncodedTensor.encode`.
    """
    uncoded = prepare_lossless(name, values, dtype=dtype, storage=storage)
    return uncoded.encode(effort=effort, coder=coder)


def decode_dense(tensor: CodedTensor) -> NDArray[Any]:
    """Return the values of a dense or constant tensor, as an array of the carrier of its dtype.

    It may be read-only.
    """
    _require(tensor, "dense", "constant")
    try:
        values = widened(_stored_values(tensor), tensor.dtype, tensor.storage)
    except FormatError as error:
        raise FormatError(f"tensor {tensor.name!r} is damaged: {error}") from error
    if tensor.encoding == "constant":
        return np.full(tensor.shape, values[0])
    return values.reshape(tensor.shape)


def _stored_values(tensor: CodedTensor) -> NDArray[Any]:
    parts, storage = (tensor.group or tensor).parts, tensor.storage
    kind = carrier(storage)
    if tensor.encoding == "constant":
        return np.frombuffer(parts["dense"] or bytes(kind.itemsize), dtype=kind)
    if tensor.group is not None:
        return tensor.group.dense(tensor.member)
    if tensor.coder == "planes":
        return decode_planes(parts["dense"], tensor.size, storage)
    if tensor.coder == "sparse":
        nonzero = parts["tables"], parts["positions"]
        return decode_sparse(*nonzero, parts["dense"], tensor.size, storage)
    if tensor.coder == "matches":
        raw = decode_matches(parts["dense"], tensor.size * kind.itemsize)
        return np.frombuffer(raw, dtype=kind)
    return np.frombuffer(parts["dense"], dtype=kind)


def encode_alias(name: str, tensor: CodedTensor | UncodedTensor, *, target: int) -> CodedTensor:
    """Encode a tensor that is the same as ``tensor``, the ``target``-th of the file (from 0)."""
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
    return dequantized(symbols, levels, tensor.dtype, *decode_channels(tensor))


def _require(tensor: CodedTensor, *encodings: Encoding) -> None:
    if tensor.encoding not in encodings:
        raise ModelError(
            f"tensor {tensor.name!r} is {tensor.encoding}, not {' or '.join(encodings)}."
        )
    sentence = defect(tensor)
    if sentence:
        raise FormatError(sentence)
