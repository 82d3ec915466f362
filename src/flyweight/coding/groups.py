"""Small tensors coded as one where that takes fewer bytes: one table, one stream, one length.

Example:

>>> import numpy as np
>>> from flyweight.coding.tensors import encode_lossless, decode_dense
>>> values = np.linspace(0.5, 1, 200, dtype="f4").reshape(2, 100)
>>> names = ("a.bias", "b.bias")
>>> tensors = [encode_lossless(n, v, dtype="float32") for n, v in zip(names, values)]
>>> joined = join(tensors)
>>> bool((decode_dense(joined[1]) == values[1]).all())
True
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flyweight.coding.context.signed import signed_values, symbols_of
from flyweight.coding.forms import (
    MAX_JOINED,
    OWN_PARTS,
    CodedTensor,
    Joint,
)
from flyweight.coding.planes import encode_planes
from flyweight.coding.symbols import Coder, PartKind, pack_symbols
from flyweight.coding.tensors import decode_dense, decode_shared, negative_levels
from flyweight.coding.varint import varint

__all__ = ["join"]

_SMALL = 1 << 16  # elements; larger tensors have nothing to gain
_TOLD = 3  # bytes of the header that a joined tensor saves

Places = list[int]


def join(tensors: Sequence[CodedTensor], *, coder: Coder | None = None) -> list[CodedTensor]:
    """Return the same tensors, small ones that are alike coded as one where that is smaller.

    Alike are those of the same encoding, dtype and storage whose shapes differ in the first
    extent only, all of them with scales or offsets or none. The order stays, and so does every
    value. ``coder`` takes that one for tensors of few values, "plain", "interleaved", "rans" or
    "context", whatever its bytes.
    """
    out = list(tensors)
    for places in _sets(tensors):
        some = [tensors[place] for place in places]
        joint = _joint_of(some, coder)
        asked = coder is not None and some[0].encoding == "shared"
        separate = sum(tensors[place].stored_bytes - _own(tensors[place]) for place in places)
        if not asked and _size(joint) >= separate + _TOLD * (len(places) - 1):
            continue
        for member, place in enumerate(places):
            tensor = tensors[place]
            parts: dict[PartKind, bytes] = {} if member else dict(joint.parts)
            parts |= {kind: tensor.parts[kind] for kind in OWN_PARTS if kind in tensor.parts}
            out[place] = replace(tensor, parts=parts, coder=joint.coder, joint=joint, member=member)
    return out


def _own(tensor: CodedTensor) -> int:
    return sum(len(tensor.parts.get(kind, b"")) for kind in OWN_PARTS)


def _size(joint: Joint) -> int:
    return sum(map(len, joint.parts.values()))


def _sets(tensors: Sequence[CodedTensor]) -> Iterator[Places]:
    """Yield the places of tensors that can be joined, two at least, with no other between."""
    alike: dict[object, Places] = {}
    for place, tensor in enumerate(tensors):
        if tensor.encoding != "alias" and tensor.shape and not _is_zero(tensor):
            own = tuple(kind in tensor.parts for kind in OWN_PARTS)
            key = (tensor.encoding, tensor.dtype, tensor.storage, tensor.shape[1:], own)
            alike.setdefault(key, []).append(place)
    for places in alike.values():
        some: Places = []
        for place in places:
            if some and not _fits(tensors[place], [tensors[before] for before in some]):
                yield from [some] if len(some) > 1 else []
                some = []
            if 0 < tensors[place].size <= _SMALL:
                some.append(place)
        yield from [some] if len(some) > 1 else []


def _is_zero(tensor: CodedTensor) -> bool:
    return tensor.encoding == "constant" and not tensor.parts["dense"]


def _fits(tensor: CodedTensor, before: list[CodedTensor]) -> bool:
    if not 0 < tensor.size <= _SMALL:
        return False
    if tensor.encoding == "constant" and tensor.parts != before[0].parts:
        return False
    return tensor.size + sum(other.size for other in before) <= MAX_JOINED


def _joint(tensors: list[CodedTensor], coder: Coder, parts: Mapping[PartKind, bytes]) -> Joint:
    return Joint(
        rows=tuple(tensor.shape[0] for tensor in tensors),
        rest=tensors[0].shape[1:],
        coder=coder,
        storage=tensors[0].storage,
        levels=tuple(tensor.levels for tensor in tensors),
        parts=parts,
    )


def _joint_of(tensors: list[CodedTensor], coder: Coder | None) -> Joint:
    if tensors[0].encoding == "constant":
        return _joint(tensors, "plain", tensors[0].parts)
    if tensors[0].encoding == "dense":
        stored = [decode_dense(replace(tensor, dtype=tensor.storage)) for tensor in tensors]
        planes = encode_planes(np.concatenate(stored).ravel(), tensors[0].storage)
        return _joint(tensors, "planes", {"dense": planes})
    joints = (
        _joint(tensors, other, parts)
        for other, parts in _coded_symbols(tensors)
        if coder in (None, other)
    )
    return min(joints, key=_size)


def _coded_symbols(
    tensors: list[CodedTensor],
) -> Iterator[tuple[Coder, dict[PartKind, bytes]]]:
    """Yield the symbols of all in one stream, by one coder after another."""
    decoded = [decode_shared(tensor) for tensor in tensors]
    stacked = np.concatenate([symbols for symbols, _ in decoded])
    most = max(tensor.levels for tensor in tensors)
    coders: tuple[Coder, ...] = ("plain", "interleaved", "rans")
    for coder in coders:
        yield pack_symbols(stacked, most, only=coder)

    # The context coder sees values on both sides of zero, which stands elsewhere in each codebook.
    negatives = [
        negative_levels(levels, tensor.dtype)
        for (_, levels), tensor in zip(decoded, tensors, strict=True)
    ]
    below = max(negatives)
    above = max(tensor.levels - n for tensor, n in zip(tensors, negatives, strict=True))
    signed = [signed_values(symbols, n) for (symbols, _), n in zip(decoded, negatives, strict=True)]
    aligned = symbols_of(np.concatenate(signed), below)
    _, parts = pack_symbols(aligned, below + above, negatives=below, only="context")
    yield "context", {**parts, "tables": b"".join(map(varint, negatives))}
