"""Headers of files: names, shapes, dtypes, encodings and lengths of parts in few bytes.

Names are split at their dots and front-coded: each states how many components it shares with the
name before, then the new ones. A component, a shape or a kind of tensor is spelled out where it
first occurs and is a small number after that, so that a Huffman code over the bytes of the header
saves much. Names and shapes can be left to an architecture that the reader knows: a digest makes
sure that it is the same one. The native core reads headers; see ``native/header.c``.

Source: front coding as in Witten, Moffat & Bell 1999, section 4.1.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flyweight import _native
from flyweight.coding.forms import OWN_PARTS, PART_KINDS, CodedTensor, Encoding, TensorFields
from flyweight.coding.scalars import DTYPES
from flyweight.coding.symbols import Coder, PartKind
from flyweight.coding.varint import varint
from flyweight.errors import FormatError, ModelError

__all__ = [
    "OpenHeader",
    "Outline",
    "Shapes",
    "crowded",
    "open_header",
    "outline_of",
    "pack_header",
    "pack_shapes",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Names of the tensors of an architecture, in order, with their shapes."""

_DIGEST = 8  # bytes
_USUAL_KEYS = ("architecture", "recipe")  # of the metadata; the place is the number in the file
_FREE_ENTRIES, _BYTES_PER_ENTRY = 4096, 64
_FREE_NAME_BYTES = 1 << 17
_LONGEST_PERIOD = 64  # the writer looks no further back for tensors to repeat

# The place is the number in the file. The fifth form is a constant whose bits are all zero.
_FORMS: tuple[tuple[Encoding, Coder], ...] = (
    ("dense", "sparse"),
    ("dense", "raw"),
    ("constant", "raw"),
    ("alias", "raw"),
    ("constant", "raw"),
    ("shared", "huffman"),
    ("shared", "rans"),
    ("shared", "context"),
    ("dense", "planes"),
    ("dense", "matches"),
)
_ZERO_CONSTANT = 4
# Added to the form of a tensor whose parts are with the first of its group, whose channels have
# scales, and which has offsets too.
_MEMBER, _SCALED, _OFFSET = 16, 32, 64
_MAY_GROUP = ("constant", "shared", "planes")  # encodings or coders
_STATED: Mapping[str, tuple[PartKind, ...]] = {  # parts whose lengths the header states, by coder
    "sparse": ("tables", "positions", "dense"),
    "planes": ("dense",),
    "matches": ("dense",),
    **dict.fromkeys(("huffman", "rans", "context"), ("tables", "symbols")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline(TensorFields):
    """A coded tensor without its bytes: what the header states, and the length of each part.

    ``first`` is the place of the first tensor of its group, which holds its values; None for a
    tensor that holds its own, as the first does.
    """

    lengths: Mapping[PartKind, int]
    first: int | None = None

    @property
    def group_key(self) -> tuple[object, ...] | None:
        """What the tensors of a group have in common; None for one that can be in none."""
        zeros = self.encoding == "constant" and self.lengths.get("dense") == 0
        if not {self.encoding, self.coder} & set(_MAY_GROUP) or zeros or not self.shape:
            return None
        own = tuple(kind in self.lengths for kind in OWN_PARTS)
        kind = (self.encoding, self.coder, self.dtype, self.storage)
        return (*kind, len(self.shape), self.shape[1:], own)

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
        return CodedTensor(**self.common(), parts=parts)


def outline_of(tensor: CodedTensor, first: int | None = None) -> Outline:
    """Return the outline of a coded tensor; ``first`` as in `Outline`."""
    lengths = {kind: len(part) for kind, part in tensor.parts.items()}
    return Outline(**tensor.common(), lengths=lengths, first=first)


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
    _file_bytes: int

    def outlines(self, shapes: Shapes | None = None) -> list[Outline]:
        """Read the outlines of the tensors; allocates no tensor.

        Args:
            shapes: names and shapes of the architecture, needed for a bare header alone.

        Raises:
            FormatError: the header is unsound, or ``shapes`` are missing or others.
        """
        known = None if shapes is None else pack_shapes(shapes.items())
        digest = b"" if known is None else _digest_of(known)
        found = _native.header_outlines(self._raw, self.bare, self._file_bytes, known, digest)
        names: set[str] = set()
        known_lengths: dict[tuple[int | None, ...], dict[PartKind, int]] = {}  # held once
        outlines = []
        for name, shape, form, flags, dtype, storage, levels, link, lengths in found:
            if name in names:
                raise FormatError(f"two tensors have the name {name!r}.")
            names.add(name)
            encoding, coder = _FORMS[form]
            if lengths not in known_lengths:
                stated = zip(PART_KINDS, lengths, strict=True)
                known_lengths[lengths] = {part: n for part, n in stated if n is not None}
            outline = Outline(
                name=name,
                shape=shape,
                dtype=DTYPES[dtype],
                encoding=encoding,
                storage=DTYPES[storage],
                lengths=known_lengths[lengths],
                levels=levels,
                target=link if encoding == "alias" else None,
                coder=coder,
                first=link if flags & _MEMBER else None,
            )
            outlines.append(outline)
        return outlines


def open_header(raw: bytes, *, bare: bool = False, file_bytes: int = sys.maxsize) -> OpenHeader:
    """Read the metadata of a header that `pack_header` returned.

    ``file_bytes``, the length of the whole file, limits what a header may state: see `crowded`.
    """
    return OpenHeader(_native.header_metadata(raw, bare, file_bytes), bare, raw, file_bytes)


def crowded(tensors: Sequence[Outline], metadata: Mapping[str, str], file_bytes: int) -> str | None:
    """Describe in one sentence that a file is too short for what its header states, or return None.

    The limits are those of ``native/header.c``.
    """
    most = _FREE_ENTRIES + file_bytes // _BYTES_PER_ENTRY
    for what, count in (("tensors", len(tensors)), ("strings of metadata", len(metadata))):
        if count > most:
            return (
                f"there are {count} {what}, and a file of {file_bytes} bytes has at most {most}; "
                "join them."
            )
    most = _FREE_NAME_BYTES + 2 * file_bytes
    name_bytes = sum(len(tensor.name.encode()) for tensor in tensors)
    if name_bytes > most:
        return (
            f"the names of the tensors have {name_bytes} bytes, and those of a file of "
            f"{file_bytes} bytes at most {most}; shorten them."
        )
    return None


def pack_header(
    tensors: Sequence[Outline], metadata: Mapping[str, str], *, bare: bool = False
) -> bytes:
    """Serialize the header of sound tensors (see `forms.defect`), not yet Huffman-coded.

    With ``bare`` a digest stands for names and shapes.
    """
    out = [varint(len(metadata))]
    for key, text in sorted(metadata.items()):
        out += [_pack_key(key), _pack_string(text)]
    out.append(varint(len(tensors)))
    if bare:
        out.append(_digest_of(pack_shapes((tensor.name, tensor.shape) for tensor in tensors)))
    names = _NameWriter()
    kinds: dict[bytes, int] = {}
    shapes: dict[tuple[int, ...], int] = {}
    forms = [(_kind(tensor), tensor.levels) for tensor in tensors]
    repeated = 0
    for place, tensor in enumerate(tensors):
        if not bare:
            out.append(names.write(tensor.name))
        kind, levels = forms[place]
        if not repeated:
            period, repeated = _repeats(forms, place)
            if repeated:
                out += map(varint, (len(kinds) + 1, period, repeated))
        repeats = repeated > 0
        if repeats:
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
        if tensor.encoding == "shared" and not repeats:
            out.append(varint(levels))
        if tensor.first is None:
            out += (varint(tensor.lengths[part]) for part in _STATED.get(tensor.coder, ()))
    return b"".join(out)


def pack_shapes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """Return names and shapes as the bytes of which a bare header holds the digest."""
    return b"".join(
        _pack_string(name) + varint(len(shape)) + b"".join(map(varint, shape))
        for name, shape in shapes
    )


def _digest_of(known: bytes) -> bytes:
    return hashlib.sha256(known).digest()[:_DIGEST]


def _pack_string(text: str) -> bytes:
    """Return the length of a text in UTF-8, and its bytes. Raises `ModelError` for half a pair."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"the text {text!r} is not valid Unicode.") from error
    return varint(len(raw)) + raw


def _pack_key(key: str) -> bytes:
    if key in _USUAL_KEYS:
        return varint(_USUAL_KEYS.index(key))
    text = _pack_string(key)
    length = len(key.encode())
    return varint(len(_USUAL_KEYS) + length) + text[len(varint(length)) :]


def _repeats(forms: Sequence[tuple[bytes, int]], place: int) -> tuple[int, int]:
    """Return how far before ``place`` the same kinds and levels stand, and of how many tensors.

    The number is 0 where stating it would take more bytes than it saves.
    """
    best = (0, 0)
    for period in range(1, min(place, _LONGEST_PERIOD) + 1):
        end = place
        while end < len(forms) and forms[end] == forms[end - period]:
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


def _kind(tensor: Outline) -> bytes:
    number = _FORMS.index((tensor.encoding, tensor.coder))
    if tensor.first is not None:
        number += _MEMBER
    elif tensor.encoding == "constant" and not tensor.lengths["dense"]:
        number = _ZERO_CONSTANT
    number += _SCALED * ("scales" in tensor.lengths) + _OFFSET * ("offsets" in tensor.lengths)
    return bytes([number, DTYPES.index(tensor.dtype), DTYPES.index(tensor.storage)])
