"""What a file's tensors are, as few bytes: names, shapes, dtypes, encodings, lengths of parts.

Names are cut at their dots and front-coded: each says how many components it shares with the
name before, then the new ones. A component, a shape or a kind of tensor is written out where
it first occurs and is a small number after that, so a Huffman code over the bytes of the header
finds much to save.

Source: front coding as in Witten, Moffat & Bell 1999, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from flyweight.coding.scalars import DTYPES, carrier, may_store
from flyweight.coding.tensors import (
    MAX_ELEMENTS,
    MAX_NAME_BYTES,
    MAX_RANK,
    PART_KINDS,
    CodedTensor,
    Encoding,
    PartKind,
)
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["Outline", "pack_header", "unpack_header"]

# The place is the number in the file. The fifth form is a constant whose bits are all zero.
_ENCODINGS: tuple[Encoding, ...] = ("shared", "dense", "constant", "alias", "constant")
_ZERO_CONSTANT = 4
_SHARED_LENGTHS: tuple[PartKind, ...] = ("tables", "positions", "symbols")


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A coded tensor without its bytes: what the header tells, and the length of each part."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    storage: str
    lengths: Mapping[PartKind, int]
    levels: int = 0
    target: int | None = None

    @property
    def stored_bytes(self) -> int:
        """Number of bytes in all parts."""
        return sum(self.lengths.values())

    def filled(self, data: bytes, start: int) -> CodedTensor:
        """Return the coded tensor whose parts lie in ``data`` from ``start`` on."""
        parts: dict[PartKind, bytes] = {}
        for kind in PART_KINDS:
            if kind in self.lengths:
                parts[kind] = data[start : start + self.lengths[kind]]
                start += self.lengths[kind]
        return CodedTensor(
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            encoding=self.encoding,
            storage=self.storage,
            parts=parts,
            levels=self.levels,
            target=self.target,
        )


def _pack_string(text: str) -> bytes:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"the text {text!r} is not valid Unicode.") from error
    return varint(len(raw)) + raw


def pack_header(tensors: Sequence[CodedTensor], metadata: Mapping[str, str]) -> bytes:
    """Return the header of sound tensors (see `tensors.defect`), not yet Huffman-coded."""
    out = [varint(len(metadata))]
    for key, text in sorted(metadata.items()):
        out += [_pack_string(key), _pack_string(text)]
    out.append(varint(len(tensors)))
    words: dict[str, int] = {}
    kinds: dict[bytes, int] = {}
    shapes: dict[tuple[int, ...], int] = {}
    previous: list[str] = []
    for tensor in tensors:
        components = tensor.name.split(".")
        shared = _shared_count(previous, components)
        out += [varint(shared), varint(len(components) - shared)]
        for word in components[shared:]:
            out.append(varint(words.get(word, len(words))))
            if word not in words:
                words[word] = len(words)
                out.append(_pack_string(word))
        previous = components
        kind = _kind(tensor)
        out.append(varint(kinds.get(kind, len(kinds))))
        if kind not in kinds:
            kinds[kind] = len(kinds)
            out.append(kind)
        if tensor.target is not None:
            out.append(varint(tensor.target))
            continue
        out.append(varint(shapes.get(tensor.shape, len(shapes))))
        if tensor.shape not in shapes:
            shapes[tensor.shape] = len(shapes)
            out += map(varint, (len(tensor.shape), *tensor.shape))
        if tensor.encoding == "shared":
            out.append(varint(tensor.levels))
            out += (varint(len(tensor.parts[part])) for part in _SHARED_LENGTHS)
    return b"".join(out)


def _shared_count(previous: list[str], components: list[str]) -> int:
    count = 0
    for before, now in zip(previous, components, strict=False):
        if before != now:
            break
        count += 1
    return count


def _kind(tensor: CodedTensor) -> bytes:
    number = _ENCODINGS.index(tensor.encoding)
    if tensor.encoding == "constant" and not tensor.parts["dense"]:
        number = _ZERO_CONSTANT
    return bytes([number, DTYPES.index(tensor.dtype), DTYPES.index(tensor.storage)])


def unpack_header(raw: bytes) -> tuple[list[Outline], dict[str, str]]:
    """Return the outlines and the metadata that `pack_header` stored; allocates no tensor."""
    reader = ByteReader(raw, "the header")
    metadata: dict[str, str] = {}
    for _ in range(_count(reader, "strings of metadata", 2)):
        key = reader.string()
        if metadata and key <= next(reversed(metadata)):
            raise FormatError(f"the metadata key {key!r} is repeated or out of order.")
        metadata[key] = reader.string()
    outlines: list[Outline] = []
    names = _NameReader()
    kinds: list[tuple[int, str, str]] = []
    shapes: list[tuple[int, ...]] = []
    for _ in range(_count(reader, "tensors", 4)):
        name = names.read(reader)
        index = _known(reader, len(kinds), "kind")
        if index == len(kinds):
            kinds.append(_read_kind(reader))
        number, dtype, storage = kinds[index]
        if _ENCODINGS[number] == "alias":
            outlines.append(_read_alias(reader, name, outlines, dtype))
            continue
        index = _known(reader, len(shapes), "shape")
        if index == len(shapes):
            shapes.append(_read_shape(reader))
        shape = shapes[index]
        item = carrier(storage).itemsize
        levels = 0
        lengths: dict[PartKind, int]
        if _ENCODINGS[number] == "shared":
            levels = reader.varint()
            lengths = {part: reader.varint() for part in _SHARED_LENGTHS}
            lengths["codebook"] = levels * item
        elif _ENCODINGS[number] == "dense":
            lengths = {"dense": prod(shape) * item}
        else:
            lengths = {"dense": 0 if number == _ZERO_CONSTANT else item}
        outlines.append(
            Outline(
                name=name,
                shape=shape,
                dtype=dtype,
                encoding=_ENCODINGS[number],
                storage=storage,
                lengths=lengths,
                levels=levels,
            )
        )
    if reader.position != len(raw):
        raise FormatError(f"the header has {len(raw) - reader.position} bytes too many.")
    return outlines, metadata


def _count(reader: ByteReader, what: str, least: int) -> int:
    """Return a count of things of at least ``least`` bytes each, checked against what is left."""
    count = reader.varint()
    left = len(reader.data) - reader.position
    if count > left // least:
        raise FormatError(f"the header announces {count} {what} in {left} bytes.")
    return count


def _known(reader: ByteReader, known: int, what: str) -> int:
    """Return the number of a thing met before, or ``known`` for a new one."""
    index = reader.varint()
    if index > known:
        raise FormatError(f"the header refers to {what} {index} where {known} are known.")
    return index


class _NameReader:
    """Front-coded names, each unlike all before."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.previous: list[str] = []
        self.seen: set[str] = set()

    def read(self, reader: ByteReader) -> str:
        shared = reader.varint()
        if shared > len(self.previous):
            raise FormatError("a tensor's name repeats more than the name before it has.")
        components = self.previous[:shared]
        for _ in range(_count(reader, "components of a name", 1)):
            index = _known(reader, len(self.words), "word")
            if index == len(self.words):
                self.words.append(reader.string())
                if "." in self.words[-1]:
                    raise FormatError(f"a component of a name holds a dot: {self.words[-1]!r}.")
            components.append(self.words[index])
            if len(components) > MAX_NAME_BYTES + 1:
                break
        name = ".".join(components)
        if not components or len(name.encode("utf-8")) > MAX_NAME_BYTES:
            raise FormatError(f"a tensor's name is missing or longer than {MAX_NAME_BYTES} bytes.")
        if name in self.seen:
            raise FormatError(f"two tensors have the name {name!r}.")
        self.seen.add(name)
        self.previous = components
        return name


def _read_kind(reader: ByteReader) -> tuple[int, str, str]:
    number, dtype, storage = reader.take(3)
    if number >= len(_ENCODINGS):
        raise FormatError(f"the header names the encoding {number}, which is unknown.")
    if max(dtype, storage) >= len(DTYPES):
        raise FormatError(f"the header names the dtype {max(dtype, storage)}, which is unknown.")
    if not may_store(DTYPES[dtype], DTYPES[storage]):
        raise FormatError(f"{DTYPES[dtype]} cannot be stored as {DTYPES[storage]}.")
    return number, DTYPES[dtype], DTYPES[storage]


def _read_shape(reader: ByteReader) -> tuple[int, ...]:
    rank = reader.varint()
    if rank > MAX_RANK:
        raise FormatError(f"a tensor has {rank} dimensions; at most {MAX_RANK} are allowed.")
    shape = tuple(reader.varint() for _ in range(rank))
    if prod(max(extent, 1) for extent in shape) > MAX_ELEMENTS:
        raise FormatError(f"a tensor has a shape of more than 2**40 elements: {shape}.")
    return shape


def _read_alias(reader: ByteReader, name: str, earlier: list[Outline], dtype: str) -> Outline:
    target = reader.varint()
    if target >= len(earlier) or earlier[target].encoding == "alias":
        raise FormatError(f"tensor {name!r} is an alias of no earlier tensor.")
    if earlier[target].dtype != dtype:
        raise FormatError(f"tensor {name!r} differs in dtype from what it aliases.")
    return Outline(
        name=name,
        shape=earlier[target].shape,
        dtype=dtype,
        encoding="alias",
        storage=dtype,
        lengths={},
        target=target,
    )
