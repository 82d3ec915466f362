"""One tensor as coded parts, and back: shared values, dense values, a constant or an alias.

A *shared* tensor is integers: symbol 0 is an exact zero and symbol k stands for
``levels[k - 1]``. Its parts are the codebook of levels, the symbols and their tables. The plain
coder is Huffman with the positions of the symbols that are not 0 kept apart, or zeros in the
alphabet where that is smaller; in the other coders zeros are in the alphabet. A *dense* tensor
is its values, one by one or by byte planes; a *constant* one is a single value; an *alias* is an
earlier tensor of the same file. Which coder is taken is decided by the bytes that come out.

Source: Han et al. 2016, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flyweight.coding.coders import Effort, SymbolCoder, coders_to_try, decode_stream, encode_stream
from flyweight.coding.huffman import decode_symbols, encode_symbols
from flyweight.coding.planes import decode_planes, encode_planes
from flyweight.coding.positions import decode_positions, encode_positions
from flyweight.coding.scalars import DTYPES, carrier, may_store, pack_scalars, unpack_scalars
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = [
    "MAX_LEVELS",
    "PART_KINDS",
    "CodedTensor",
    "Coder",
    "Encoding",
    "PartKind",
    "code_alias",
    "code_constant",
    "code_dense",
    "code_lossless",
    "code_shared",
    "decode_dense",
    "decode_shared",
    "decode_tensor",
    "defect",
]

PartKind = Literal["symbols", "positions", "codebook", "tables", "dense"]
Encoding = Literal["shared", "dense", "constant", "alias"]
Coder = Literal["plain", "interleaved", "rans", "context", "planes"]

PART_KINDS: tuple[PartKind, ...] = ("tables", "codebook", "positions", "symbols", "dense")
MAX_LEVELS = 65_535
MAX_RANK = 32
MAX_ELEMENTS = 1 << 40
MAX_NAME_BYTES = 1024

_PARTS: dict[Encoding, tuple[PartKind, ...]] = {
    "shared": ("tables", "codebook", "positions", "symbols"),
    "dense": ("dense",),
    "constant": ("dense",),
    "alias": (),
}
_CODERS: dict[Encoding, tuple[Coder, ...]] = {
    "shared": ("plain", "interleaved", "rans", "context"),
    "dense": ("plain", "planes"),
    "constant": ("plain",),
    "alias": ("plain",),
}
_PLAIN_SIZE = 1 << 20  # the plain coder is slow: larger tensors are left to the others
_LEAST_FOR_PLANES = 64  # bytes; fewer cannot pay for their tables


@dataclass(frozen=True, kw_only=True)
class CodedTensor:
    """A named tensor in the form in which a file holds it.

    Attributes:
        name: unique within a file.
        shape: of the tensor.
        dtype: what the values are when decoded, one of `coding.DTYPES`.
        encoding: how ``parts`` hold the values.
        storage: dtype of the bytes in the codebook or dense part; never loses a bit.
        parts: the bytes of each part of this encoding, empty ones included.
        levels: length of the codebook; 0 unless shared.
        target: place of the earlier tensor that an alias stands for; None unless alias.
        coder: how the symbols or the dense values became bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    storage: str
    parts: Mapping[PartKind, bytes] = field(default_factory=dict)
    levels: int = 0
    target: int | None = None
    coder: Coder = "plain"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Number of bytes in all parts."""
        return sum(map(len, self.parts.values()))


def defect(tensor: CodedTensor) -> str | None:
    """Return what is wrong with a coded tensor, in one sentence, or None; decodes nothing."""
    name = f"tensor {tensor.name!r}"
    try:
        name_bytes = len(tensor.name.encode("utf-8"))
    except UnicodeEncodeError:
        return f"{name} has a name that is not valid Unicode."
    if name_bytes > MAX_NAME_BYTES:
        return f"a tensor's name has {name_bytes} bytes; at most {MAX_NAME_BYTES} are allowed."
    if len(tensor.shape) > MAX_RANK:
        return f"{name} has {len(tensor.shape)} dimensions; at most {MAX_RANK} are allowed."
    if min(tensor.shape, default=0) < 0:
        return f"{name} has a negative dimension."
    if prod(max(extent, 1) for extent in tensor.shape) > MAX_ELEMENTS:
        return f"{name} has a shape of more than 2**40 elements: {tensor.shape}."
    if tensor.encoding not in _PARTS:
        return f"{name} has the unknown encoding {tensor.encoding!r}."
    if tensor.coder not in _CODERS[tensor.encoding]:
        return f"{name} is {tensor.encoding} and has the coder {tensor.coder!r}."
    if tensor.dtype not in DTYPES or not may_store(tensor.dtype, tensor.storage):
        return f"{name} of dtype {tensor.dtype!r} cannot be stored as {tensor.storage!r}."
    if set(tensor.parts) != set(_PARTS[tensor.encoding]):
        return f"{name} does not have the parts of a {tensor.encoding} tensor."
    if (tensor.target is None) == (tensor.encoding == "alias"):
        return f"{name} names a target without being an alias, or is an alias without one."
    return _wrong_length(tensor, name)


def _wrong_length(tensor: CodedTensor, name: str) -> str | None:
    item = carrier(tensor.storage).itemsize
    most = MAX_LEVELS if tensor.encoding == "shared" else 0
    if not 0 <= tensor.levels <= most:
        return f"{name} has {tensor.levels} levels; at most {most} are allowed."
    if tensor.encoding == "shared" and len(tensor.parts["codebook"]) != item * tensor.levels:
        return f"{name} has a codebook that is not {tensor.levels} values of {tensor.storage}."
    if tensor.coder == "planes":
        return None  # as long as its values take
    if tensor.encoding == "dense" and len(tensor.parts["dense"]) != item * tensor.size:
        return f"{name} does not have the bytes of {tensor.size} values of {tensor.storage}."
    if tensor.encoding == "constant" and len(tensor.parts["dense"]) not in (0, item):
        return f"{name} is a constant that is not one value of {tensor.storage}."
    return None


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
    negatives = _negatives(values, dtype)
    coder, parts = _code_symbols(symbols, values.size, negatives, effort, coder)
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


def _negatives(levels: NDArray[Any], dtype: str) -> int:
    """Return how many levels are below zero."""
    if dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return int(np.count_nonzero(levels >> (8 * levels.dtype.itemsize - 1)))
    return 0 if levels.dtype.kind == "c" else int(np.count_nonzero(levels < 0))


def _code_symbols(
    symbols: NDArray[Any], levels: int, negatives: int, effort: Effort, only: Coder | None
) -> tuple[Coder, dict[PartKind, bytes]]:
    """Return the coder that gives fewest bytes, the first on a draw, and its parts."""
    choices: list[tuple[Coder, dict[PartKind, bytes]]] = []
    slow = symbols.size > _PLAIN_SIZE and symbols.any()
    if only == "plain" or (only is None and not slow):
        choices.append(("plain", _code_plainly(symbols.ravel().astype(np.int64), levels)))
    others: tuple[SymbolCoder, ...] = ("interleaved", "rans", "context")
    if only is None:
        others = coders_to_try(symbols, effort) if symbols.any() else ()
    for coder in others:
        if only in (None, coder):
            table, payload = encode_stream(coder, symbols, levels + 1, negatives=negatives)
            choices.append((coder, {"tables": table, "positions": b"", "symbols": payload}))
    return min(choices, key=lambda choice: sum(map(len, choice[1].values())))


def _code_plainly(flat: NDArray[np.int64], levels: int) -> dict[PartKind, bytes]:
    """Return Huffman codes of the symbols, positions apart or zeros in the alphabet."""
    kept = flat != 0
    where, positions = encode_positions(kept)
    what, indices = encode_symbols(flat[kept] - 1, levels)
    apart = varint(1 + len(where)) + where + what
    if not kept.all() and kept.any():
        table, payload = encode_symbols(flat, levels + 1)
        if 1 + len(table) + len(payload) < len(apart) + len(positions) + len(indices):
            return {"tables": b"\0" + table, "positions": b"", "symbols": payload}
    return {"tables": apart, "positions": positions, "symbols": indices}


def decode_shared(tensor: CodedTensor) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """Return (symbols, levels) of a shared tensor; symbols have the shape of the tensor.

    Raises `FormatError` naming the tensor if a part is damaged.
    """
    _require(tensor, "shared")
    try:
        levels = unpack_scalars(tensor.parts["codebook"], tensor.dtype, tensor.storage)
        return _unpack_symbols(tensor).reshape(tensor.shape), levels
    except FormatError as error:
        raise FormatError(f"tensor {tensor.name!r} is damaged: {error}") from error


def _unpack_symbols(tensor: CodedTensor) -> NDArray[np.uint16]:
    if tensor.coder in ("interleaved", "rans", "context"):
        if tensor.parts["positions"]:
            raise FormatError("zeros are in the alphabet and yet there are positions.")
        table, payload = tensor.parts["tables"], tensor.parts["symbols"]
        return decode_stream(tensor.coder, table, payload, tensor.shape, tensor.levels + 1)
    reader = ByteReader(tensor.parts["tables"], "its table")
    form = reader.varint()
    payload = tensor.parts["symbols"]
    if form == 0:
        if tensor.parts["positions"]:
            raise FormatError("zeros are in the alphabet and yet there are positions.")
        return decode_symbols(reader.rest(), payload, tensor.size, tensor.levels + 1)
    kept = decode_positions(reader.take(form - 1), tensor.parts["positions"], tensor.size)
    count = int(np.count_nonzero(kept))
    indices = decode_symbols(reader.rest(), payload, count, tensor.levels)
    symbols = np.zeros(tensor.size, dtype=np.uint16)
    symbols[kept] = indices + np.uint16(1)
    return symbols


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
    if not raw or raw[item:] != raw[:-item]:
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
    raw = tensor.parts["dense"]
    if tensor.encoding == "constant":
        raw = raw or bytes(carrier(tensor.storage).itemsize)
    try:
        if tensor.coder == "planes":
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
