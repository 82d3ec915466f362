"""Encode small tensors as one where that takes fewer bytes: one table, one stream, one length.

Example:

>>> import numpy as np
>>> from flyweight.coding.tensors import decode_dense
>>> from flyweight.coding.uncoded import prepare_lossless
>>> values = np.linspace(0.5, 1, 200, dtype="f4").reshape(2, 100)
>>> names = ("a.bias", "b.bias")
>>> tensors = [prepare_lossless(n, v, dtype="float32") for n, v in zip(names, values)]
>>> coded = encode_tensors(tensors)
>>> coded[0].group is coded[1].group, bool((decode_dense(coded[1]) == values[1]).all())
(True, True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flyweight.coding.forms import (
    MAX_GROUPED,
    MAX_LEVELS,
    OWN_PARTS,
    CodedTensor,
    TensorGroup,
)
from flyweight.coding.planes import encode_planes
from flyweight.coding.symbols import (
    SYMBOL_CODERS,
    Coder,
    Effort,
    PartKind,
    SymbolCoder,
    pack_symbols,
    realigned,
)
from flyweight.coding.uncoded import UncodedTensor
from flyweight.coding.varint import varint

__all__ = ["encode_tensors", "group_small_tensors"]

_SMALL = 1 << 16  # elements; larger tensors have nothing to gain
_HEADER_SAVED = 3  # bytes of the header that each tensor of a group but the first saves


def encode_tensors(
    tensors: Sequence[UncodedTensor | CodedTensor],
    *,
    effort: Effort = "smallest",
    coder: SymbolCoder | None = None,
) -> list[CodedTensor]:
    """Encode tensors, small ones that are alike as one where that is smaller.

    The members of a group are encoded together, and one by one only until that is known to take
    more bytes. Nothing that was encoded is decoded again.

    Args:
        tensors: in the order of the file. Tensors that are coded already, such as aliases, are
            taken as they are.
        effort: of the search for the smallest coding of a tensor by itself.
        coder: for quantized tensors, "huffman", "rans" or "context", grouped whenever possible,
            regardless of bytes; None takes what gives fewest.

    Returns:
        The coded tensors, in the same order, with the same values.
    """
    coded = {
        place: tensor for place, tensor in enumerate(tensors) if isinstance(tensor, CodedTensor)
    }
    uncoded = {
        place: tensor for place, tensor in enumerate(tensors) if isinstance(tensor, UncodedTensor)
    }
    taken = {_key(tensor) for tensor in uncoded.values() if tensor.encoding == "shared"}
    for places in group_small_tensors(uncoded):
        members = [uncoded[place] for place in places]
        group = _smallest_group(members, coder)
        if group is None:
            continue
        separate: list[CodedTensor] = []
        if coder is None or members[0].encoding != "shared":
            exact = _key(members[0]) not in taken
            separate = _encode_while_smaller(members, _size(group), effort, coder, exact=exact)
        for number, (place, member) in enumerate(zip(places, members, strict=True)):
            if separate:
                coded[place] = separate[number]
            else:
                alone = member.coded({} if number else group.parts, group.coder)
                coded[place] = replace(alone, group=group, member=number)
    for place, tensor in uncoded.items():
        if place not in coded:
            exact = _key(tensor) not in taken
            coded[place] = _encode_alone(tensor, effort, coder, exact=exact)
    return [coded[place] for place in range(len(tensors))]


def _key(tensor: UncodedTensor) -> object:
    """What tensors of a group have in common: no other symbols may stand between them."""
    return (tensor.dtype, tensor.storage, len(tensor.shape), tensor.shape[1:])


def _encode_alone(
    tensor: UncodedTensor, effort: Effort, coder: SymbolCoder | None, *, exact: bool
) -> CodedTensor:
    only = coder if tensor.encoding == "shared" else None
    return tensor.encode(effort=effort, coder=only, exact=exact)


def _encode_while_smaller(
    members: Sequence[UncodedTensor],
    group_bytes: int,
    effort: Effort,
    coder: SymbolCoder | None,
    *,
    exact: bool,
) -> list[CodedTensor]:
    """Encode tensors one by one until they take more bytes than their group would.

    Returns no tensor where the group is smaller.
    """
    coded: list[CodedTensor] = []
    size = _HEADER_SAVED * (len(members) - 1)
    for member in members:
        coded.append(_encode_alone(member, effort, coder, exact=exact))
        size += coded[-1].stored_bytes - sum(map(len, member.own.values()))
        if size > group_bytes:
            return []
    return coded


def _size(group: TensorGroup) -> int:
    return sum(map(len, group.parts.values()))


def group_small_tensors(tensors: Mapping[int, UncodedTensor]) -> Iterator[list[int]]:
    """Find the tensors that can be encoded as one: small ones that are alike.

    Alike are tensors of the same encoding, dtype and storage whose shapes differ in the first
    extent only, either all of them with scales or offsets or none. Constants have equal values.

    Args:
        tensors: by place in the file, ascending.

    Yields:
        The places of two or more tensors, ascending. A larger tensor of the same kind ends a
        group, as does the limit on the elements of a group.
    """
    kinds: dict[object, list[int]] = {}
    for place, tensor in tensors.items():
        zero = tensor.encoding == "constant" and not tensor.raw
        if tensor.shape and not zero:
            tables = tuple(kind in tensor.own for kind in OWN_PARTS)
            key = (tensor.encoding, tensor.dtype, tensor.storage, tensor.shape[1:], tables)
            kinds.setdefault(key, []).append(place)
    for places in kinds.values():
        group: list[int] = []
        for place in places:
            if group and not _fits(tensors[place], [tensors[other] for other in group]):
                yield from [group] if len(group) > 1 else []
                group = []
            if 0 < tensors[place].size <= _SMALL:
                group.append(place)
        yield from [group] if len(group) > 1 else []


def _fits(tensor: UncodedTensor, group: Sequence[UncodedTensor]) -> bool:
    if not 0 < tensor.size <= _SMALL:
        return False
    if tensor.encoding == "constant" and tensor.raw != group[0].raw:
        return False
    return tensor.size + sum(other.size for other in group) <= MAX_GROUPED


def _group_of(
    members: Sequence[UncodedTensor], coder: Coder, parts: Mapping[PartKind, bytes]
) -> TensorGroup:
    return TensorGroup(
        rows=tuple(tensor.shape[0] for tensor in members),
        rest=members[0].shape[1:],
        coder=coder,
        storage=members[0].storage,
        levels=tuple(tensor.levels for tensor in members),
        parts=parts,
    )


def _smallest_group(
    members: Sequence[UncodedTensor], coder: SymbolCoder | None
) -> TensorGroup | None:
    """Encode tensors as one; None where their levels on both sides of zero are too many."""
    if members[0].encoding == "constant":
        return _group_of(members, "raw", {"dense": members[0].raw})
    if members[0].encoding == "dense":
        values = np.concatenate([tensor.stored() for tensor in members])
        return _group_of(members, "planes", {"dense": encode_planes(values, members[0].storage)})
    coded = [_group_of(members, used, parts) for used, parts in _coded_symbols(members, coder)]
    return min(coded, key=_size, default=None)


def _coded_symbols(
    members: Sequence[UncodedTensor], only: SymbolCoder | None
) -> Iterator[tuple[Coder, dict[PartKind, bytes]]]:
    """Yield the symbols of all in one stream, by one coder after another."""
    most = max(tensor.levels for tensor in members)
    for coder in SYMBOL_CODERS if only is None else (only,):
        if coder != "context":
            stacked = np.concatenate([tensor.symbols for tensor in members])
            yield pack_symbols(stacked, most, only=coder)
            continue
        # It takes values on both sides of zero, whose place differs among codebooks.
        below = max(tensor.negatives for tensor in members)
        above = max(tensor.levels - tensor.negatives for tensor in members)
        if below + above > MAX_LEVELS:
            continue
        aligned = [realigned(t.symbols, below - t.negatives, below + above) for t in members]
        _, parts = pack_symbols(
            np.concatenate(aligned), below + above, negatives=below, only="context"
        )
        negatives = b"".join(varint(tensor.negatives) for tensor in members)
        yield "context", {**parts, "tables": negatives}
