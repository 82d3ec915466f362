"""Outlines: tensors without their bytes, and the numbers that stand for them in a header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from flyweight.coding.forms import (
    OWN_PARTS,
    PART_KINDS,
    CodedTensor,
    Encoding,
)
from flyweight.coding.symbols import Coder, PartKind
from flyweight.coding.varint import varint
from flyweight.errors import ModelError

__all__ = [
    "DIGEST",
    "FORMS",
    "GROUPED",
    "MAY_GROUP",
    "OFFSET",
    "SCALED",
    "USUAL_KEYS",
    "ZERO_CONSTANT",
    "Outline",
    "Shapes",
    "digest_of",
    "outline_of",
    "pack_string",
    "stated_lengths",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Names of the tensors of an architecture, in order, with their shapes."""

DIGEST = 8  # bytes
USUAL_KEYS = ("architecture", "recipe")  # of the metadata; the place is the number in the file

# The place is the number in the file. The fifth form is a constant whose bits are all zero.
FORMS: tuple[tuple[Encoding, Coder], ...] = (
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
ZERO_CONSTANT = 4
# Added to the form of a tensor whose parts are with the first of its group, whose channels have
# scales, and which has offsets too.
GROUPED, SCALED, OFFSET = 16, 32, 64
MAY_GROUP = (2, 5, 6, 7, 8)  # forms


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A coded tensor without its bytes: what the header states, and the length of each part.

    ``first`` is the place of the first tensor of its group, which holds its values; None for a
    tensor that holds its own, as the first does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding
    storage: str
    lengths: Mapping[PartKind, int]
    levels: int = 0
    target: int | None = None
    coder: Coder = "raw"
    first: int | None = None

    @property
    def group_key(self) -> tuple[object, ...] | None:
        """What the tensors of a group have in common; None for one that can be in none."""
        number = FORMS.index((self.encoding, self.coder))
        zeros = self.encoding == "constant" and self.lengths.get("dense") == 0
        if number not in MAY_GROUP or zeros or not self.shape:
            return None
        own = tuple(kind in self.lengths for kind in OWN_PARTS)
        return (number, self.dtype, self.storage, len(self.shape), self.shape[1:], own)

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


def outline_of(tensor: CodedTensor, first: int | None = None) -> Outline:
    """Return the outline of a coded tensor; ``first`` as in `Outline`."""
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
        first=first,
    )


def digest_of(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the first bytes of the SHA-256 of all names and shapes."""
    digest = hashlib.sha256()
    for name, shape in shapes:
        digest.update(pack_string(name) + varint(len(shape)) + b"".join(map(varint, shape)))
    return digest.digest()[:DIGEST]


def pack_string(text: str) -> bytes:
    """Return the length of a text in UTF-8, and its bytes. Raises `ModelError` for half a pair."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError(f"the text {text!r} is not valid Unicode.") from error
    return varint(len(raw)) + raw


def stated_lengths(coder: Coder) -> tuple[PartKind, ...]:
    """List the parts of a tensor whose lengths the header states."""
    if coder == "sparse":
        return ("tables", "positions", "dense")
    if coder in ("planes", "matches"):
        return ("dense",)
    return () if coder == "raw" else ("tables", "symbols")
