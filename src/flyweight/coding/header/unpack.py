"""Parse the bytes of a header; nothing is allocated before it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from flyweight.coding.channels import SCALED_DTYPES
from flyweight.coding.forms import (
    MAX_ELEMENTS,
    MAX_GROUPED,
    MAX_NAME_BYTES,
    MAX_RANK,
)
from flyweight.coding.header.outline import (
    DIGEST,
    FORMS,
    GROUPED,
    MAY_GROUP,
    OFFSET,
    SCALED,
    USUAL_KEYS,
    ZERO_CONSTANT,
    Outline,
    Shapes,
    digest_of,
    stated_lengths,
)
from flyweight.coding.scalars import DTYPES, carrier, may_store
from flyweight.coding.symbols import PartKind
from flyweight.coding.varint import ByteReader
from flyweight.errors import FormatError

__all__ = ["OpenHeader", "open_header"]

_OF_CHANNELS: tuple[tuple[int, PartKind], ...] = ((SCALED, "scales"), (OFFSET, "offsets"))


@dataclass(frozen=True)
class OpenHeader:
    """A header of which the metadata are read, and the tensors not yet.

    Attributes:
        metadata: strings by key.
        bare: whether names and shapes are left to the architecture.
    """

    metadata: Mapping[str, str]
    bare: bool
    _raw: bytes
    _position: int

    def outlines(self, shapes: Shapes | None = None) -> list[Outline]:
        """Read the outlines of the tensors; allocates no tensor.

        Args:
            shapes: names and shapes of the architecture, needed for a bare header alone.

        Raises:
            FormatError: the header is unsound, or ``shapes`` are missing or others.
        """
        reader = ByteReader(self._raw, "the header")
        reader.take(self._position)
        return _read_outlines(reader, shapes, bare=self.bare)


def open_header(raw: bytes, *, bare: bool = False) -> OpenHeader:
    """Read the metadata of a header that `pack_header` returned."""
    reader = ByteReader(raw, "the header")
    metadata: dict[str, str] = {}
    for _ in range(_count(reader, "strings of metadata", 2)):
        key = _read_key(reader)
        if metadata and key <= next(reversed(metadata)):
            raise FormatError(f"the metadata key {key!r} is repeated or out of order.")
        metadata[key] = reader.string()
    return OpenHeader(metadata, bare, raw, reader.position)


def _read_outlines(reader: ByteReader, shapes: Shapes | None, *, bare: bool) -> list[Outline]:
    count = reader.varint() if bare else _count(reader, "tensors", 3)
    known = _known_shapes(reader, shapes, count) if bare else None
    outlines: list[Outline] = []
    names = _NameReader()
    kinds = _KindReader(reader, count)
    met: list[tuple[int, ...]] = []
    groups = _Groups()
    for place in range(count):
        name = names.read(reader) if known is None else known[place][0]
        (number, dtype, storage), levels = kinds.read()
        encoding, coder = FORMS[number % GROUPED]
        if encoding == "alias":
            alias = _read_alias(reader, name, outlines, dtype)
            if known is not None and known[place][1] != alias.shape:
                raise FormatError(f"tensor {name!r} differs in shape from what it aliases.")
            outlines.append(alias)
            kinds.levels.append(0)
            continue
        if known is None:
            index = _known(reader, len(met), "shape")
            if index == len(met):
                met.append(_read_shape(reader))
            shape = met[index]
        else:
            shape = known[place][1]
        if number & SCALED and not shape:
            raise FormatError(f"tensor {name!r} has scales and no channels.")
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
        if number & GROUPED:
            outline = groups.add(outline)
        else:
            groups.open(outline, place)
        outlines.append(outline)
    if reader.position != len(reader.data):
        left = len(reader.data) - reader.position
        raise FormatError(f"the header has {left} bytes too many.")
    return outlines


class _KindReader:
    """Kinds of tensors, each spelled out where it first occurs, and repetitions of earlier ones."""

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


class _Groups:
    """For each kind of tensors that can be grouped, the last one that begins a group."""

    def __init__(self) -> None:
        self.firsts: dict[tuple[object, ...] | None, tuple[int, int]] = {None: (0, 0)}

    def open(self, outline: Outline, place: int) -> None:
        """Take a tensor that holds its own parts, to which others may be added."""
        if outline.group_key is not None:
            self.firsts[outline.group_key] = (place, outline.size)

    def add(self, outline: Outline) -> Outline:
        """Return the outline of another tensor of a group with the place of the first."""
        place, elements = self.firsts.get(outline.group_key, (0, 0))
        if not (outline.size and elements):
            raise FormatError(f"tensor {outline.name!r} belongs to no group.")
        elements += outline.size
        if elements > MAX_GROUPED:
            raise FormatError(f"tensor {outline.name!r} makes its group too large.")
        self.firsts[outline.group_key] = (place, elements)
        return replace(outline, first=place)


def _known_shapes(
    reader: ByteReader, shapes: Shapes | None, count: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and shapes of the architecture, if their digest is that of the file."""
    digest = reader.take(DIGEST)
    if shapes is None:
        raise FormatError("the file leaves names and shapes to its architecture; give that.")
    listed = list(shapes.items())
    if len(listed) != count or digest_of(listed) != digest:
        raise FormatError("the names and shapes of the file are those of another architecture.")
    return listed


def _read_lengths(
    reader: ByteReader, number: int, shape: tuple[int, ...], storage: str, levels: int
) -> dict[PartKind, int]:
    """Return the length of each part, read or known from what is there."""
    encoding, coder = FORMS[number % GROUPED]
    item = carrier(storage).itemsize
    own: dict[PartKind, int] = {}
    if encoding == "shared":
        own["codebook"] = levels * item
        for flag, kind in _OF_CHANNELS:
            if number & flag:
                own[kind] = shape[0] * item
    if number & GROUPED:
        return own
    stated = stated_lengths(coder)
    if stated:
        return own | {part: reader.varint() for part in stated}
    if encoding == "dense":
        return {"dense": prod(shape) * item}
    return {"dense": 0 if number == ZERO_CONSTANT else item}


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
    form = number % GROUPED
    if (
        form >= len(FORMS)
        or number >= 2 * OFFSET
        or (number & GROUPED and form not in MAY_GROUP)
        or (number & OFFSET and not number & SCALED)
        or (number & SCALED and FORMS[form][0] != "shared")
    ):
        raise FormatError(f"the header names the encoding {number}, which is unknown.")
    if max(dtype, storage) >= len(DTYPES):
        raise FormatError(f"the header names the dtype {max(dtype, storage)}, which is unknown.")
    if not may_store(DTYPES[dtype], DTYPES[storage]):
        raise FormatError(f"{DTYPES[dtype]} cannot be stored as {DTYPES[storage]}.")
    if number & SCALED and DTYPES[dtype] not in SCALED_DTYPES:
        raise FormatError(f"a tensor of {DTYPES[dtype]} cannot have scales.")
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


def _read_key(reader: ByteReader) -> str:
    number = reader.varint()
    if number < len(USUAL_KEYS):
        return USUAL_KEYS[number]
    return reader.text(number - len(USUAL_KEYS))
