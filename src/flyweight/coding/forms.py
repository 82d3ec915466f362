"""Coded tensors: their parts, their limits, and the check that they are sound.

A *shared* tensor is quantized: symbol 0 is an exact zero and symbol k stands for
``levels[k - 1]``. Its parts are the codebook of levels, the symbols and their tables; it may have
scales and offsets for its channels, see `channels`. A *dense* tensor is its values in one of the
forms of `lossless`; a *constant* one is a single value; an *alias* is an earlier tensor of the same
file. Small tensors can form a *group*: they are encoded as one, and the first holds the parts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any, Literal

from numpy.typing import NDArray

from flyweight.coding.channels import SCALED_DTYPES
from flyweight.coding.planes import decode_planes
from flyweight.coding.scalars import DTYPES, carrier, may_store
from flyweight.coding.symbols import Coder, PartKind, realigned, unpack_symbols
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError

__all__ = [
    "MAX_ELEMENTS",
    "MAX_GROUPED",
    "MAX_LEVELS",
    "MAX_NAME_BYTES",
    "MAX_RANK",
    "OWN_PARTS",
    "PART_KINDS",
    "CodedTensor",
    "Encoding",
    "TensorFields",
    "TensorGroup",
    "defect",
]

#: How a tensor is encoded.
Encoding = Literal["shared", "dense", "constant", "alias"]

PART_KINDS: tuple[PartKind, ...] = (
    *("tables", "codebook", "scales", "offsets", "positions", "symbols", "dense"),
)
OWN_PARTS: tuple[PartKind, ...] = ("codebook", "scales", "offsets")  # never those of a group
#: Largest number of levels of a tensor.
MAX_LEVELS = 65_535
MAX_RANK = 32
MAX_ELEMENTS = 1 << 40
MAX_GROUPED = 1 << 20  # elements of all tensors of a group
MAX_NAME_BYTES = 1024

_PARTS: dict[Encoding, tuple[PartKind, ...]] = {
    "shared": ("tables", "codebook", "symbols"),
    "dense": ("dense",),
    "constant": ("dense",),
    "alias": (),
}
_CODERS: dict[Encoding, tuple[Coder, ...]] = {
    "shared": ("huffman", "rans", "context"),
    "dense": ("raw", "planes", "sparse", "matches"),
    "constant": ("raw",),
    "alias": ("raw",),
}
_SPARSE_PARTS: tuple[PartKind, ...] = ("tables", "positions", "dense")


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """Tensors that are encoded as one, stacked along their first axis.

    They are decoded once, when the first member is asked for; members are views of that.

    Attributes:
        rows: first extent of each.
        rest: the other extents, the same for all.
        coder: of the whole.
        storage: of the values, where they are dense.
        levels: length of the codebook of each; zeros unless shared.
        parts: of the whole, without the tables that each has of its own.
    """

    rows: tuple[int, ...]
    rest: tuple[int, ...]
    coder: Coder
    storage: str
    levels: tuple[int, ...]
    parts: Mapping[PartKind, bytes]

    def symbols(self, member: int) -> NDArray[Any]:
        """Return the symbols of one quantized tensor. Raises `FormatError` if damaged."""
        symbols, shifts = self._symbols
        own = symbols[self._slice(member)]
        if shifts is not None:
            return realigned(own, -shifts[member], self.levels[member])
        if int(own.max()) > self.levels[member]:
            raise FormatError("a tensor of a group leaves its alphabet.")
        return own

    def dense(self, member: int) -> NDArray[Any]:
        """Return the stored values of one dense tensor. Raises `FormatError` if damaged."""
        own: NDArray[Any] = self._dense[self._slice(member)].copy()
        return own

    @property
    def size(self) -> int:
        """Number of elements of all tensors."""
        return prod(self._shape)

    def _slice(self, member: int) -> slice:
        return slice(self._starts[member], self._starts[member + 1])

    @functools.cached_property
    def _starts(self) -> tuple[int, ...]:
        """The row where each tensor begins, and the number of all rows."""
        return tuple(accumulate(self.rows, initial=0))

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self._starts[-1], *self.rest)

    @functools.cached_property
    def _symbols(self) -> tuple[NDArray[Any], list[int] | None]:
        """Symbols of all tensors and, from the context coder, by how much each is shifted.

        It stores them so that the first level above zero is the same symbol in all.
        """
        if self.coder != "context":
            return unpack_symbols(self.coder, self.parts, self._shape, max(self.levels)), None
        reader = ByteReader(self.parts["tables"], "the table of a group")
        negatives = [reader.varint() for _ in self.rows]
        if reader.rest() or any(n > k for n, k in zip(negatives, self.levels, strict=True)):
            raise FormatError("a group has wrong numbers of levels below zero.")
        below = max(negatives)
        above = max(k - n for n, k in zip(negatives, self.levels, strict=True))
        if below + above > MAX_LEVELS:
            raise FormatError("a group has too many levels on both sides of zero.")
        parts = {**self.parts, "tables": varint(below)}
        symbols = unpack_symbols("context", parts, self._shape, below + above)
        return symbols, [below - n for n in negatives]

    @functools.cached_property
    def _dense(self) -> NDArray[Any]:
        raw = decode_planes(self.parts["dense"], self.size, self.storage)
        return raw.reshape(self._shape)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TensorFields:
    """Fields of a tensor that its coded and uncoded forms and its outline have in common.

    Attributes:
        name: unique within a file.
        shape: of the tensor.
        dtype: what the values are when decoded, one of `coding.DTYPES`.
        encoding: how parts hold the values.
        storage: dtype of the bytes in the codebook, scales, offsets or dense part; never loses a
            bit.
        levels: length of the codebook; 0 unless shared.
        target: place of the earlier tensor that an alias stands for; None unless alias.
        coder: how the symbols or the dense values became bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    storage: str
    levels: int = 0
    target: int | None = None
    coder: Coder = "raw"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def common(self) -> dict[str, Any]:
        """Return these fields by name, without those that a subclass adds."""
        return {name: getattr(self, name) for name in TensorFields.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedTensor(TensorFields):
    """A named tensor as a file holds it.

    Attributes:
        parts: the bytes of each part of this encoding, empty ones included. A shared tensor has
            "scales", or these and "offsets", only if its channels have scales.
        group: the tensors that it is encoded with as one; None if it is encoded by itself.
        member: its place among them; the parts are with the first, whose place is 0.
    """

    parts: Mapping[PartKind, bytes] = field(default_factory=dict)
    group: TensorGroup | None = None
    member: int = 0

    @property
    def scaled(self) -> bool:
        """Whether it is shared and its channels have scales."""
        return self.encoding == "shared" and "scales" in self.parts

    @property
    def stored_bytes(self) -> int:
        """Number of bytes in all parts."""
        return sum(map(len, self.parts.values()))


def defect(tensor: CodedTensor) -> str | None:
    """Describe in one sentence what is unsound in a coded tensor, or return None."""
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
    needed = set(_SPARSE_PARTS if tensor.coder == "sparse" else _PARTS[tensor.encoding])
    if tensor.scaled:
        needed |= set(OWN_PARTS) & set(tensor.parts)
    if set(tensor.parts) != (needed & set(OWN_PARTS) if tensor.member else needed):
        return f"{name} does not have the parts of a {tensor.encoding} tensor."
    if (tensor.target is None) == (tensor.encoding == "alias"):
        return f"{name} names a target without being an alias, or is an alias without one."
    return _wrong_length(tensor, name) or _wrong_group(tensor, name)


def _wrong_length(tensor: CodedTensor, name: str) -> str | None:
    item = carrier(tensor.storage).itemsize
    most = MAX_LEVELS if tensor.encoding == "shared" else 0
    if not 0 <= tensor.levels <= most:
        return f"{name} has {tensor.levels} levels; at most {most} are allowed."
    if tensor.encoding == "shared" and len(tensor.parts["codebook"]) != item * tensor.levels:
        return f"{name} has a codebook that is not {tensor.levels} values of {tensor.storage}."
    if tensor.scaled:
        sentence = _wrong_scales(tensor, name)
        if sentence:
            return sentence
    if tensor.coder in ("planes", "sparse", "matches"):
        return None  # as long as its values take
    if tensor.member:
        return None  # its values are with the first
    if tensor.encoding == "dense" and len(tensor.parts["dense"]) != item * tensor.size:
        return f"{name} does not have the bytes of {tensor.size} values of {tensor.storage}."
    if tensor.encoding == "constant" and len(tensor.parts["dense"]) not in (0, item):
        return f"{name} is a constant that is not one value of {tensor.storage}."
    return None


def _wrong_scales(tensor: CodedTensor, name: str) -> str | None:
    if tensor.dtype not in SCALED_DTYPES or not tensor.shape:
        return f"{name} of shape {tensor.shape} and dtype {tensor.dtype} cannot have scales."
    length = carrier(tensor.storage).itemsize * tensor.shape[0]
    if any(len(tensor.parts[kind]) != length for kind in OWN_PARTS[1:] if kind in tensor.parts):
        return f"{name} does not have a scale or an offset for each of {tensor.shape[0]} channels."
    return None


def _wrong_group(tensor: CodedTensor, name: str) -> str | None:
    group = tensor.group
    if group is None:
        return f"{name} belongs to no group and has a place in one." if tensor.member else None
    if not 0 <= tensor.member < len(group.rows) or len(group.levels) != len(group.rows):
        return f"{name} has no place in its group."
    stated = (group.rows[tensor.member], group.levels[tensor.member], group.rest, group.coder)
    own = (*tensor.shape[:1], tensor.levels, tensor.shape[1:], tensor.coder)
    if own != stated or tensor.storage != group.storage:
        return f"{name} is unlike its group."
    if not tensor.size or group.size > MAX_GROUPED:
        return f"{name} is in a group of {group.size} elements; 1 to {MAX_GROUPED} are allowed."
    if tensor.encoding == "dense" and tensor.coder != "planes":
        return f"{name} is in a group and yet its values are one by one."
    return None
