"""Read and write ``.fly`` files: named coded tensors in one file.

A file is a preamble, a header that describes the tensors, checksums, the parts of the tensors
without gaps, and a checksum over all. `docs/format.md` specifies every byte. Nothing in a file is
executed, and counts are checked against the limits and the length of the file before anything is
allocated. Whatever is wrong with a file raises `FormatError`.

Example:

>>> import numpy as np
>>> from flyweight.coding import encode_lossless
>>> container = Container(tensors=(encode_lossless("b", np.float32([1, 2]), dtype="float32"),))
>>> loads(dumps(container)) == container
True
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flyweight._files import write_atomic
from flyweight.coding import CodedTensor
from flyweight.coding.header import Outline, Shapes
from flyweight.format.layout import MAGIC
from flyweight.format.reader import Reader
from flyweight.format.writer import Writer, open_writer

__all__ = [
    "MAGIC",
    "Container",
    "Outline",
    "Reader",
    "Shapes",
    "Writer",
    "dumps",
    "is_fly_file",
    "loads",
    "open_writer",
    "overhead",
    "read",
    "write",
]


@dataclass(frozen=True)
class Container:
    """The content of a ``.fly`` file: tensors in order, and strings about them."""

    tensors: tuple[CodedTensor, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


def dumps(container: Container, *, bare: bool = False) -> bytes:
    """Serialize a container as the bytes of a ``.fly`` file; the same content gives the same bytes.

    Args:
        container: sound tensors of unique names.
        bare: leaves out names and shapes, so that a reader needs the architecture.

    Raises:
        ModelError: a file cannot hold the container.
    """
    writer = Writer(io.BytesIO(), container.metadata, bare=bare)
    for tensor in container.tensors:
        writer.add(tensor)
    file = io.BytesIO()
    writer.finish(file)
    return file.getvalue()


def loads(data: bytes, shapes: Shapes | None = None) -> Container:
    """Parse the bytes of a ``.fly`` file and check all of it; decodes no tensor.

    Args:
        data: the whole file.
        shapes: names and shapes of the architecture, where the file leaves them out.

    Raises:
        FormatError: anything is wrong.
    """
    return _read_all(bytes(data), shapes)


def _read_all(source: bytes | str | os.PathLike[str], shapes: Shapes | None) -> Container:
    with Reader(source, shapes) as reader:
        tensors = tuple(reader.tensors())
        reader.verify()
        return Container(tensors=tensors, metadata=dict(reader.metadata))


def overhead(data: bytes) -> dict[str, int]:
    """Count the bytes of a ``.fly`` file that are in no tensor: header and checksums."""
    with Reader(bytes(data)) as reader:
        return reader.overhead


def is_fly_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a regular file that begins like a ``.fly`` file."""
    with contextlib.suppress(OSError, ValueError):
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
    return False


def write(container: Container, path: str | os.PathLike[str], *, bare: bool = False) -> int:
    """Write a ``.fly`` file, whole or not at all, and return its size in bytes."""
    return write_atomic(path, dumps(container, bare=bare))


def read(path: str | os.PathLike[str], shapes: Shapes | None = None) -> Container:
    """Read a ``.fly`` file and check all of it; decodes no tensor.

    Raises:
        FormatError: the file, which is named, is damaged or no regular file.
        OSError: it cannot be read.
    """
    return _read_all(path, shapes)
