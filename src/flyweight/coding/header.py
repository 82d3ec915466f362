"""What a file's tensors are, as few bytes: names, shapes, dtypes, encodings, lengths of parts.

Names are cut at their dots and front-coded: each says how many components it shares with the
name before, then the new ones. A component, a shape or a kind of tensor is written out where
it first occurs and is a small number after that, so a Huffman code over the bytes of the header
finds much to save. Where whoever reads knows the architecture, names and shapes can be left out:
a digest makes sure that it is the same.

Source: front coding as in Witten, Moffat & Bell 1999, section 4.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from flyweight.coding.forms import (
    MAX_ELEMENTS,
    MAX_JOINED,
    MAX_NAME_BYTES,
    MAX_RANK,
    PART_KINDS,
    CodedTensor,
    Encoding,
)
from flyweight.coding.scalars import DTYPES, carrier, may_store
from flyweight.coding.symbols import Coder, PartKind
from flyweight.coding.varint import ByteReader, varint
from flyweight.errors import FormatError, ModelError

__all__ = ["Outline", "Shapes", "Skeleton", "outline_of", "pack_header", "unpack_header"]

Shapes = Mapping[str, tuple[int, ...]]
"""Names of the tensors of an architecture, in order, with their shapes."""

Skeleton = Callable[[Mapping[str, str]], Shapes]
"""Gives the names and shapes of the architecture that the metadata of a file tells of."""

_DIGEST = 8  # bytes
_USUAL_KEYS = ("architecture", "recipe")  # of the metadata; the place is the number in the file
_LONGEST_PERIOD = 64  # the writer looks no further back for tensors to repeat

# The place is the number in the file. The fifth form is a constant whose bits are all zero.
_FORMS: tuple[tuple[Encoding, Coder], ...] = (
    ("shared", "plain"),
    ("dense", "plain"),
    ("constant", "plain"),
    ("alias", "plain"),
    ("constant", "plain"),
    ("shared", "interleaved"),
    ("shared", "rans"),
    ("shared", "context"),
    ("dense", "planes"),
)
_ZERO_CONSTANT = 4
_JOINED = 16  # added to the form of a tensor whose values are with an earlier one
_MAY_JOIN = (0, 2, 5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A coded tensor without its bytes: what the header tells, and the length of each part.

    ``head`` is the place of the earlier tensor that holds the values of a joined one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    storage: str
    lengths: Mapping[PartKind, int]
    levels: int = 0
    target: int | None = None
    coder: Coder = "plain"
    head: int | None = None

    @property
    def alike(self) -> tuple[object, ...] | None:
        """What tensors that are joined have in common; None for one that cannot be."""
        number = _FORMS.index((self.encoding, self.coder))
        zeros = self.encoding == "constant" and self.lengths.get("dense") == 0
        if number not in _MAY_JOIN or zeros or not self.shape:
            return None
        return (number, self.dtype, self.storage, len(self.shape), self.shape[1:])

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

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
            coder=self.coder,
        )


def outline_of(tensor: CodedTensor, head: int | None = None) -> Outline:
    """Return what the header tells of a coded tensor; ``head`` as in `Outline`."""
    return Outline(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        encoding=tensor.encoding,
        storage=tensor.storage,
        lengths={kind: len(part) for kind, part in tensor.parts.items()},
        levels=tensor.levels,
        target=tensor.target,
        coder=tensor.coder,
        head=head,
    )


def _digest(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the first bytes of the SHA-256 of all names and shapes."""
    digest = hashlib.sha256()
    for name, shape in shapes:
        digest.update(_pack_string(name) + varint(len(shape)) + b"".join(map(varint, shape)))
    return digest.digest()[:_DIGEST]


def _pack_string(text: str) -> bytes:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"the text {text!r} is not valid Unicode.") from error
    return varint(len(raw)) + raw


def pack_header(
    tensors: Sequence[Outline], metadata: Mapping[str, str], *, bare: bool = False
) -> bytes:
    """Return the header of sound tensors (see `tensors.defect`), not yet Huffman-coded.

    With ``bare`` a digest stands for names and shapes.
    """
    out = [varint(len(metadata))]
    for key, text in sorted(metadata.items()):
        out += [_pack_key(key), _pack_string(text)]
    out.append(varint(len(tensors)))
    if bare:
        out.append(_digest((tensor.name, tensor.shape) for tensor in tensors))
    names = _NameWriter()
    kinds: dict[bytes, int] = {}
    shapes: dict[tuple[int, ...], int] = {}
    told = [(_kind(tensor), tensor.levels) for tensor in tensors]
    repeated = 0
    for place, tensor in enumerate(tensors):
        if not bare:
            out.append(names.write(tensor.name))
        kind, levels = told[place]
        if not repeated:
            period, repeated = _repeats(told, place)
            if repeated:
                out += map(varint, (len(kinds) + 1, period, repeated))
        again = repeated > 0
        if again:
            repeated -= 1
        else:
            out.append(varint(kinds.get(kind, len(kinds))))
            if kind not in kinds:
                kinds[kind] = len(kinds)
                out.append(kind)
        if tensor.target is not None:
            out.append(varint(tensor.target))
            continue
        if not bare:
            out.append(varint(shapes.get(tensor.shape, len(shapes))))
            if tensor.shape not in shapes:
                shapes[tensor.shape] = len(shapes)
                out += map(varint, (len(tensor.shape), *tensor.shape))
        if tensor.encoding == "shared" and not again:
            out.append(varint(levels))
        if tensor.head is not None:
            continue
        if tensor.encoding == "shared":
            out += (varint(tensor.lengths[part]) for part in _lengths_told(tensor.coder))
        elif tensor.coder == "planes":
            out.append(varint(tensor.lengths["dense"]))
    return b"".join(out)


def _pack_key(key: str) -> bytes:
    if key in _USUAL_KEYS:
        return varint(_USUAL_KEYS.index(key))
    text = _pack_string(key)
    length = len(key.encode())
    return varint(len(_USUAL_KEYS) + length) + text[len(varint(length)) :]


def _read_key(reader: ByteReader) -> str:
    number = reader.varint()
    if number < len(_USUAL_KEYS):
        return _USUAL_KEYS[number]
    return reader.text(number - len(_USUAL_KEYS))


def _repeats(told: Sequence[tuple[bytes, int]], place: int) -> tuple[int, int]:
    """Return how far before ``place`` the same kinds and levels stand, and of how many tensors.

    The number is 0 where telling it would take more bytes than it saves.
    """
    best = (0, 0)
    for period in range(1, min(place, _LONGEST_PERIOD) + 1):
        end = place
        while end < len(told) and told[end] == told[end - period]:
            end += 1
        if end - place > best[1]:
            best = (period, end - place)
    return best if best[1] > 3 else (0, 0)


class _NameWriter:
    """Front-coded names, of words that are written out once."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.previous: list[str] = []

    def write(self, name: str) -> bytes:
        components = name.split(".")
        shared = 0
        for before, now in zip(self.previous, components, strict=False):
            if before != now:
                break
            shared += 1
        out = [varint(shared), varint(len(components) - shared)]
        for word in components[shared:]:
            out.append(varint(self.words.get(word, len(self.words))))
            if word not in self.words:
                self.words[word] = len(self.words)
                out.append(_pack_string(word))
        self.previous = components
        return b"".join(out)


def _lengths_told(coder: Coder) -> tuple[PartKind, ...]:
    """Return the parts of a shared tensor whose lengths stand in the header."""
    return ("tables", "positions", "symbols") if coder == "plain" else ("tables", "symbols")


def _kind(tensor: Outline) -> bytes:
    number = _FORMS.index((tensor.encoding, tensor.coder))
    if tensor.head is not None:
        number += _JOINED
    elif tensor.encoding == "constant" and not tensor.lengths["dense"]:
        number = _ZERO_CONSTANT
    return bytes([number, DTYPES.index(tensor.dtype), DTYPES.index(tensor.storage)])


def unpack_header(
    raw: bytes, skeleton: Skeleton | None = None, *, bare: bool = False
) -> tuple[list[Outline], dict[str, str]]:
    """Return the outlines and the metadata that `pack_header` stored; allocates no tensor."""
    reader = ByteReader(raw, "the header")
    metadata: dict[str, str] = {}
    for _ in range(_count(reader, "strings of metadata", 2)):
        key = _read_key(reader)
        if metadata and key <= next(reversed(metadata)):
            raise FormatError(f"the metadata key {key!r} is repeated or out of order.")
        metadata[key] = reader.string()
    count = reader.varint() if bare else _count(reader, "tensors", 3)
    known = _known_shapes(reader, metadata, skeleton, count) if bare else None
    outlines: list[Outline] = []
    names = _NameReader()
    kinds = _KindReader(reader, count)
    shapes: list[tuple[int, ...]] = []
    joined = _Joined()
    for place in range(count):
        name = names.read(reader) if known is None else known[place][0]
        (number, dtype, storage), levels = kinds.read()
        encoding, coder = _FORMS[number % _JOINED]
        if encoding == "alias":
            alias = _read_alias(reader, name, outlines, dtype)
            if known is not None and known[place][1] != alias.shape:
                raise FormatError(f"tensor {name!r} differs in shape from what it aliases.")
            outlines.append(alias)
            kinds.levels.append(0)
            continue
        if known is None:
            index = _known(reader, len(shapes), "shape")
            if index == len(shapes):
                shapes.append(_read_shape(reader))
            shape = shapes[index]
        else:
            shape = known[place][1]
        if levels is None:
            levels = reader.varint() if encoding == "shared" else 0
        kinds.levels.append(levels)
        outline = Outline(
            name=name,
            shape=shape,
            dtype=dtype,
            encoding=encoding,
            storage=storage,
            lengths=_read_lengths(reader, number, shape, storage, levels),
            levels=levels,
            coder=coder,
        )
        if number >= _JOINED:
            outline = joined.to_its_head(outline)
        else:
            joined.open(outline, place)
        outlines.append(outline)
    if reader.position != len(raw):
        raise FormatError(f"the header has {len(raw) - reader.position} bytes too many.")
    return outlines, metadata


class _KindReader:
    """Kinds of tensors, each told where it first occurs, and repetitions of those before."""

    def __init__(self, reader: ByteReader, count: int) -> None:
        self.reader = reader
        self.count = count
        self.kinds: list[tuple[int, str, str]] = []
        self.numbers: list[int] = []
        self.levels: list[int] = []  # of each tensor read so far; whoever reads them adds them
        self.period, self.repeated = 0, 0

    def read(self) -> tuple[tuple[int, str, str], int | None]:
        """Return the kind of the next tensor, and how many levels it has if that is repeated."""
        number, place = 0, len(self.numbers)
        if not self.repeated:
            number = self.reader.varint()
            if number == len(self.kinds) + 1:
                self.period, self.repeated = self._repetition(place)
            elif number > len(self.kinds):
                raise FormatError(
                    f"the header refers to kind {number} where {len(self.kinds)} are known."
                )
            elif number == len(self.kinds):
                self.kinds.append(_read_kind(self.reader))
        levels = None
        if self.repeated:
            self.repeated -= 1
            number, levels = self.numbers[place - self.period], self.levels[place - self.period]
        self.numbers.append(number)
        return self.kinds[number], levels

    def _repetition(self, place: int) -> tuple[int, int]:
        period, repeated = self.reader.varint(), self.reader.varint()
        if not (1 <= period <= place and 1 <= repeated <= self.count - place):
            raise FormatError(
                f"the header repeats {repeated} tensors from {period} before number {place}."
            )
        return period, repeated


class _Joined:
    """The tensors that others may join: of those that are alike, the last that joins none."""

    def __init__(self) -> None:
        self.heads: dict[tuple[object, ...] | None, tuple[int, int]] = {None: (0, 0)}

    def open(self, outline: Outline, place: int) -> None:
        """Take a tensor that joins no other."""
        if outline.alike is not None:
            self.heads[outline.alike] = (place, outline.size)

    def to_its_head(self, outline: Outline) -> Outline:
        """Return the outline of a joined tensor with the place of its head."""
        place, elements = self.heads.get(outline.alike, (0, 0))
        if not (outline.size and elements):
            raise FormatError(f"tensor {outline.name!r} joins no earlier tensor.")
        elements += outline.size
        if elements > MAX_JOINED:
            raise FormatError(f"tensor {outline.name!r} joins too many others.")
        self.heads[outline.alike] = (place, elements)
        return replace(outline, head=place)


def _known_shapes(
    reader: ByteReader, metadata: Mapping[str, str], skeleton: Skeleton | None, count: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of the architecture, if its digest is that of the file."""
    digest = reader.take(_DIGEST)
    if skeleton is None:
        raise FormatError("the file leaves names and shapes to its architecture; give that.")
    shapes = list(skeleton(metadata).items())
    if len(shapes) != count or _digest(shapes) != digest:
        raise FormatError("the names and shapes of the file are those of another architecture.")
    return shapes


def _read_lengths(
    reader: ByteReader, number: int, shape: tuple[int, ...], storage: str, levels: int
) -> dict[PartKind, int]:
    """Return the length of each part, read or known from what is there."""
    encoding, coder = _FORMS[number % _JOINED]
    item = carrier(storage).itemsize
    if number >= _JOINED:
        return {"codebook": levels * item} if encoding == "shared" else {}
    if encoding == "shared":
        lengths: dict[PartKind, int] = {"positions": 0, "codebook": levels * item}
        return lengths | {part: reader.varint() for part in _lengths_told(coder)}
    if coder == "planes":
        return {"dense": reader.varint()}
    if encoding == "dense":
        return {"dense": prod(shape) * item}
    return {"dense": 0 if number == _ZERO_CONSTANT else item}


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
    joined = _JOINED <= number < 2 * _JOINED
    if number - _JOINED not in _MAY_JOIN if joined else number >= len(_FORMS):
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
