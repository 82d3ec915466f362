"""Serialize outlines and metadata as the bytes of a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flyweight.coding.header.outline import (
    FORMS,
    GROUPED,
    OFFSET,
    SCALED,
    USUAL_KEYS,
    ZERO_CONSTANT,
    Outline,
    digest_of,
    pack_string,
    stated_lengths,
)
from flyweight.coding.scalars import DTYPES
from flyweight.coding.varint import varint

__all__ = ["pack_header"]

_LONGEST_PERIOD = 64  # the writer looks no further back for tensors to repeat


def pack_header(
    tensors: Sequence[Outline], metadata: Mapping[str, str], *, bare: bool = False
) -> bytes:
    """Serialize the header of sound tensors (see `forms.defect`), not yet Huffman-coded.

    With ``bare`` a digest stands for names and shapes.
    """
    out = [varint(len(metadata))]
    for key, text in sorted(metadata.items()):
        out += [_pack_key(key), pack_string(text)]
    out.append(varint(len(tensors)))
    if bare:
        out.append(digest_of((tensor.name, tensor.shape) for tensor in tensors))
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
        if tensor.first is not None:
            continue
        out += (varint(tensor.lengths[part]) for part in stated_lengths(tensor.coder))
    return b"".join(out)


def _pack_key(key: str) -> bytes:
    if key in USUAL_KEYS:
        return varint(USUAL_KEYS.index(key))
    text = pack_string(key)
    length = len(key.encode())
    return varint(len(USUAL_KEYS) + length) + text[len(varint(length)) :]


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
                out.append(pack_string(word))
        self.previous = components
        return b"".join(out)


def _kind(tensor: Outline) -> bytes:
    number = FORMS.index((tensor.encoding, tensor.coder))
    if tensor.first is not None:
        number += GROUPED
    elif tensor.encoding == "constant" and not tensor.lengths["dense"]:
        number = ZERO_CONSTANT
    number += SCALED * ("scales" in tensor.lengths) + OFFSET * ("offsets" in tensor.lengths)
    return bytes([number, DTYPES.index(tensor.dtype), DTYPES.index(tensor.storage)])
