"""Named coded tensors to one ``.fly`` file and back.

A file is: a preamble, a header that says what the tensors are, checksums, the parts without a
hole between them, and a checksum over all. `docs/format.md` specifies every byte. Nothing in a
file is executed, and no count in it is believed before it is checked against the caps and the
length of the file. Whatever is wrong with a file is a `FormatError`.

Example:

>>> import numpy as np
>>> from flyweight.coding import encode_lossless
>>> container = Container(tensors=(encode_lossless("b", np.float32([1, 2]), dtype="float32"),))
>>> loads(dumps(container)) == container
True
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flyweight.coding import CodedTensor
from flyweight.coding.header.outline import Shapes, Skeleton
from flyweight.format.layout import MAGIC
from flyweight.format.reader import Reader
from flyweight.format.writer import (
    Writer,
    check_target,
    open_writer,
    replacing,
)
from flyweight.errors import FormatError

__all__ = [
    "MAGIC",
    "Container",
    "Reader",
    "Shapes",
    "Skeleton",
    "Writer",
    "check_target",
    "dumps",
    "loads",
    "open_writer",
    "overhead",
    "read",
    "replacing",
    "write",
]


@dataclass(frozen=True)
class Container:
    """What a ``.fly`` file holds: tensors in order, and a few strings about them."""

    tensors: tuple[CodedTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def dumps(container: Container, *, bare: bool = False) -> bytes:
    """Return the bytes of a ``.fly`` file. The same content gives the same bytes.

    With ``bare``, names and shapes are left out: a reader needs the architecture. Raises
    `ModelError` for what a file cannot hold.
    """
    writer = Writer(io.BytesIO(), container.metadata, bare=bare)
    for tensor in container.tensors:
        writer.add(tensor)
    file = io.BytesIO()
    writer.finish(file)
    return file.getvalue()


def loads(data: bytes, *, skeleton: Skeleton | None = None) -> Container:
    """Return what the bytes of a ``.fly`` file hold; checks all of it, decodes no tensor.

    ``skeleton`` gives names and shapes where they were left out. Raises `FormatError`, and
    nothing else, for whatever is wrong.
    """
    with Reader(bytes(data), skeleton=skeleton) as reader:
        tensors = tuple(reader.tensors())
        reader.verify()
        return Container(tensors=tensors, metadata=dict(reader.metadata))


def overhead(data: bytes, *, skeleton: Skeleton | None = None) -> dict[str, int]:
    """Return the bytes of a ``.fly`` file that are in no tensor: header and checksums."""
    with Reader(bytes(data), skeleton=skeleton) as reader:
        return reader.overhead


def write(container: Container, path: str | os.PathLike[str], *, bare: bool = False) -> int:
    """Write a ``.fly`` file, whole or not at all, and return its size in bytes."""
    data = dumps(container, bare=bare)
    with replacing(path) as file:
        file.write(data)
    return len(data)


def read(path: str | os.PathLike[str], *, skeleton: Skeleton | None = None) -> Container:
    """Return what a ``.fly`` file holds.

    Raises `FormatError` naming the file if it is damaged, `OSError` if it cannot be read.
    """
    try:
        return loads(Path(path).read_bytes(), skeleton=skeleton)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
