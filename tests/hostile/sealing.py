"""Files however unsound with every checksum right, made by the library's own writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import ModuleType

from flyweight.coding import CodedTensor
from flyweight.coding.header.outline import Outline, outline_of
from flyweight.errors import FormatError
from flyweight.format import (
    Container,
    dumps,
    layout,
    writer,
)

__all__ = ["outlines", "resealed", "sealed"]


def sealed(
    tensors: Sequence[CodedTensor],
    metadata: Mapping[str, str] | None = None,
    *,
    bare: bool = False,
    header: bytes | None = None,
) -> bytes:
    """A file of tensors however unsound, or of another header, with every checksum right.

    The header of a lone tensor is stored as it is: to code it takes longer than all the rest.
    """
    container = Container(tensors=tuple(tensors), metadata=metadata or {})
    with ExitStack() as stack:

        def exchange(owner: ModuleType | type, name: str, other: object) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, other)

        exchange(writer, "defect", lambda _: None)
        exchange(writer, "too_many_elements", lambda *_: None)
        exchange(writer.Writer, "_misfit", lambda *_: None)
        exchange(writer.Writer, "_first", _first)
        if header is not None:
            exchange(layout, "pack_header", lambda *_, **__: header)
        if len(tensors) == 1:
            exchange(layout, "encode_huffman", lambda symbols, _: (bytes(symbols), b""))
        return dumps(container, bare=bare)


def outlines(tensors: Sequence[CodedTensor]) -> list[Outline]:
    """What a header tells of sound tensors, groups among them."""
    found: list[Outline] = []
    first = 0
    for place, tensor in enumerate(tensors):
        first = first if tensor.member else place
        found.append(outline_of(tensor, first if tensor.member else None))
    return found


def _first(made: writer.Writer, tensor: CodedTensor) -> int | None:
    """The place of the tensor before, whatever it is, of one in a group."""
    return len(made._outlines) - 1 if tensor.member else None


def resealed(data: bytes) -> bytes:
    """A file with the checksums of its head and of the whole computed again."""
    try:
        length = layout.head_length(data[: layout.LONGEST_PREAMBLE])
    except FormatError:
        return data
    if length + layout.CRC_BYTES > len(data) or length < layout.CRC_BYTES:
        return data
    head = data[: length - layout.CRC_BYTES]
    body = head + layout.crc(head) + data[length : -layout.CRC_BYTES]
    return body + layout.crc(body)
