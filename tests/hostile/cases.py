"""Hostile files: sound ones with damage whose checksums are right, and what no writer writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from random import Random

import numpy as np
from corpus import CODERS, coded_arrays, constant_planes, containers, grouped, seeds
from hostile_checkpoints import damaged_checkpoint, damaged_index
from mutations import INTERESTING, mutated, some_bytes
from sealing import file_of, outlines, resealed, sealed
from streams import random_tensor

from flyweight.coding import DTYPES, CodedTensor, carrier, encode_constant
from flyweight.coding.forms import OWN_PARTS
from flyweight.coding.header import pack_header
from flyweight.coding.huffman import encode_huffman
from flyweight.coding.varint import varint
from flyweight.format import dumps

__all__ = ["KINDS", "Case", "case"]

Shapes = Mapping[str, tuple[int, ...]]
DENSE = ("raw", "planes", "sparse", "matches")


@dataclass(frozen=True)
class Case:
    """Bytes for one of the readers: "file", "array", "safetensors" or "shards".

    ``coder`` is the one whose bytes are damaged, if there is one; ``shapes`` are those that a bare
    file leaves out, None in others; ``declared`` is the length of its many names.
    """

    reader: str
    data: bytes
    coder: str = ""
    shapes: Shapes | None = None
    declared: int = 0


def _of(tensor: CodedTensor) -> Case:
    """The file of one tensor."""
    coder = tensor.encoding if tensor.encoding == "constant" else tensor.coder
    return Case("file", sealed([tensor]), coder)


@cache
def _written(number: int, bare: bool) -> tuple[bytes, bytes, Shapes | None]:
    """A file, its header before it is coded, and the shapes that it leaves out."""
    one = containers()[number]
    shapes = {tensor.name: tensor.shape for tensor in one.tensors} if bare else None
    header = pack_header(outlines(one.tensors), one.metadata, bare=bare)
    return dumps(one, bare=bare), header, shapes


def _any_written(random: Random) -> tuple[int, bytes, bytes, Shapes | None]:
    number = random.randrange(len(containers()))
    return number, *_written(number, random.random() < 0.25)


def any_byte(random: Random) -> Case:
    """Damage anything in a file; its checksums tell."""
    _, data, _, shapes = _any_written(random)
    if random.random() < 0.9:
        data = mutated(random, data, _any_written(random)[1])
    return Case("file", data, shapes=shapes)


def preamble(random: Random) -> Case:
    """Damage what stands before the header, under right checksums of the head and of the file."""
    _, data, _, shapes = _any_written(random)
    at = random.randint(4, 12)
    data = data[:4] + mutated(random, data[4:at], some_bytes(random, 5)) + data[at:]
    return Case("file", resealed(data), shapes=shapes)


def header(random: Random) -> Case:
    """Damage the header before it is coded, under right checksums."""
    number, _, stated, shapes = _any_written(random)
    stated = mutated(random, stated, _any_written(random)[2])
    tensors = containers()[number].tensors
    return Case("file", sealed(tensors, bare=shapes is not None, header=stated), shapes=shapes)


def _seed(random: Random, coder: str) -> CodedTensor:
    """A sound tensor of a coder, seldom one of the two largest."""
    choices = seeds()[coder]
    return random.choice(choices if random.random() < 0.01 else choices[:-2])


def _reshaped(random: Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    count = prod(shape)
    number = random.choice(INTERESTING)
    choices = [(count,), (1, count, 1, 1), (1, 1, count), (count + 1,), (max(count - 1, 0),)]
    choices += [(0, number >> 25), (number >> 23,), shape[::-1], (*shape, 1), (1,) * 33]
    return random.choice(choices)


def _of_levels(random: Random, tensor: CodedTensor) -> CodedTensor:
    """A tensor with another number of levels, and a codebook of as many."""
    levels = random.choice((0, 1, 2, tensor.levels + 1, 255, 256, 65_535, 65_536))
    length = carrier(tensor.storage).itemsize * levels
    book = tensor.parts.get("codebook", b"").ljust(length, b"\0")[:length]
    return replace(tensor, levels=levels, parts={**tensor.parts, "codebook": book})


def _of_channels(random: Random, tensor: CodedTensor) -> CodedTensor:
    """A tensor with or without scales and offsets, which may be too long, infinite or NaN."""
    parts = {kind: part for kind, part in tensor.parts.items() if kind not in OWN_PARTS[1:]}
    length = carrier(tensor.storage).itemsize * (tensor.shape[0] if tensor.shape else 0)
    for kind in random.choice((("scales",), ("scales", "offsets"), ("offsets",), ())):
        size = max(0, min(length, 1 << 16) + random.choice((0, 0, 0, 0, 1, -1)))
        parts[kind] = random.choice((bytes(size), b"\xff" * size, some_bytes(random, size)))
    return replace(tensor, parts=parts)


def _of_coder(random: Random, tensor: CodedTensor) -> CodedTensor:
    """A tensor whose parts are read by another coder."""
    if tensor.encoding == "shared":
        return replace(tensor, coder=random.choice(CODERS))
    coder = random.choice(DENSE) if tensor.encoding == "dense" else "raw"
    needed = ("tables", "positions", "dense") if coder == "sparse" else ("dense",)
    parts = {kind: tensor.parts.get(kind, b"") for kind in needed} if not tensor.member else {}
    return replace(tensor, coder=coder, parts=parts)


def _damaged(random: Random, tensor: CodedTensor, other: CodedTensor) -> CodedTensor:
    """A tensor with damage to one of its parts."""
    choices = [name for name, part in tensor.parts.items() if part] or [*tensor.parts]
    if not choices:
        return tensor
    name = random.choice(choices)
    part = mutated(random, tensor.parts[name], other.parts.get(name, b""))
    tensor = replace(tensor, parts={**tensor.parts, name: part})
    if name == "codebook":
        tensor = replace(tensor, levels=len(part) // carrier(tensor.storage).itemsize)
    return tensor


def fields(random: Random) -> Case:
    """Let a tensor say something else of itself than its parts do."""
    tensor = _seed(random, random.choice([*seeds()]))
    change = random.randrange(5)
    if change == 0:
        tensor = replace(tensor, shape=_reshaped(random, tensor.shape))
    elif change == 1:
        tensor = _of_channels(random, tensor)
    elif change == 2 and tensor.encoding == "shared":
        tensor = _of_levels(random, tensor)
    elif change == 3:
        dtype = random.choice(DTYPES)
        tensor = replace(tensor, dtype=dtype, storage=random.choice((dtype, tensor.storage)))
    else:
        tensor = _of_coder(random, tensor)
    return _of(tensor)


def parts(random: Random) -> Case:
    """Damage a part of a sound tensor, under right checksums."""
    coder = random.choice((*CODERS, *CODERS, "planes", "sparse", "matches", "scaled", *seeds()))
    return _of(_damaged(random, _seed(random, coder), _seed(random, coder)))


def groups(random: Random) -> Case:
    """Damage what a group shares, or group tensors that do not belong together."""
    tensors = [*random.choice(grouped())]
    place = random.randrange(len(tensors))
    tensor, other = tensors[place], random.choice(random.choice(grouped()))
    change = random.randrange(9)
    if change < 3:
        place, tensor = 0, _damaged(random, tensors[0], other)
    elif change == 3:
        tensor = replace(tensor, shape=_reshaped(random, tensor.shape))
    elif change == 4:
        tensor = _of_levels(random, tensor)
    elif change == 5:
        tensor = replace(other, name=tensor.name)
    elif change == 6:
        tensor = _of_channels(random, tensor)
    elif change == 7:
        place, tensor = 0, _of_coder(random, tensors[0])
        tensors = [replace(old, coder=tensor.coder) for old in tensors]
    tensors[place] = tensor
    if change == 8:
        random.shuffle(tensors)
        tensors = tensors[random.randrange(2) :]
    return Case("file", sealed(tensors), tensors[0].coder)


def streams(random: Random) -> Case:
    """Give tables and streams that are sound, or nearly, and that no encoder would choose."""
    tensor = random_tensor(random.randrange(3000))
    if random.random() < 0.7:
        tensor = _damaged(random, tensor, random_tensor(random.randrange(3000)))
    return _of(tensor)


def vast(random: Random) -> Case:
    """Give few bytes for as many elements as are allowed, or for a few more."""
    size = (1 << random.randint(16, 20)) + random.choice((-1, 0, 0, 4096, 8 * 4096, 1 << 22))
    dtype = random.choice(("uint8", "bool", "float32", "complex128"))
    form = random.choice(("huffman", "rans", "constant", "planes", "sparse"))
    fields = {"name": "t", "shape": (size,), "dtype": dtype, "storage": dtype}
    if form in ("huffman", "rans"):
        alphabet = random.choice((2, 4))
        table = encode_huffman(np.uint8([alphabet - 1]), alphabet)[0]
        parts = {
            "tables": table if form == "huffman" else bytes([alphabet - 1]),
            "codebook": bytes(carrier(dtype).itemsize * (alphabet - 1)),
            "symbols": b"",
        }
        fields |= {"encoding": "shared", "levels": alphabet - 1}
        return _of(CodedTensor(**fields, coder=form, parts=parts))
    if form == "constant":
        return _of(CodedTensor(**fields, encoding=form, parts={"dense": b""}))
    parts = {"dense": constant_planes(size, dtype)}
    if form == "sparse":
        step, kept = random.randint(1, 3), random.choice((2, 3))
        gaps, _ = encode_huffman(np.full(2, step - 1, np.uint8), 4)
        count = size // step if kept == 2 else size - size // step
        parts = {"tables": bytes([kept]) + varint(size // step) + gaps, "positions": b""}
        parts["dense"] = constant_planes(count, dtype)
    return _of(CodedTensor(**fields, encoding="dense", coder=form, parts=parts))


def long(random: Random) -> Case:
    """Give a long table or payload, or very many tensors of long names."""
    if random.random() < 0.3:
        name = ".".join("abcdefgh" * 60)
        tensors = [
            encode_constant(f"{name}.{place}", (), value=np.uint8(0), dtype="uint8")
            for place in range(random.choice((60, 300)))
        ]
        tensors += tensors[:1] * (random.random() < 0.5)
        stated = pack_header(outlines(tensors), {})
        return Case("file", file_of(stated), declared=2048 * len(tensors))
    tensor = _seed(random, random.choice((*CODERS, "planes", "sparse", "matches")))
    name = random.choice([name for name in tensor.parts if name != "codebook"])
    more = bytes(random.choices((0, 0, 255, 0b10110110), k=2)) * 150_000
    part = tensor.parts[name] + more if random.random() < 0.5 else more + tensor.parts[name]
    return _of(replace(tensor, parts={**tensor.parts, name: part}))


def arrays(random: Random) -> Case:
    """Damage the bytes of `coding.encode`, which have no checksum."""
    data = random.choice(coded_arrays())
    if random.random() < 0.2:
        return Case("array", data[:1] + bytes([random.randrange(9)]) + data[2:])
    if random.random() < 0.8:
        return Case("array", mutated(random, data, random.choice(coded_arrays())))
    shape = [random.choice((0, 1, 2, *INTERESTING)) for _ in range(random.choice((1, 2, 3, 33)))]
    start = data[:2] + b"".join(map(varint, (len(shape), *shape)))
    return Case("array", start + data[random.choice((len(data), 4)) :])


KINDS: dict[str, tuple[float, Callable[[Random], Case]]] = {
    "any byte": (5, any_byte),
    "preamble": (5, preamble),
    "header": (12, header),
    "fields": (13, fields),
    "parts": (30, parts),
    "groups": (9, groups),
    "streams": (20, streams),
    "vast": (0.05, vast),
    "long": (0.05, long),
    "arrays": (4, arrays),
    "safetensors": (1, lambda random: Case("safetensors", damaged_checkpoint(random))),
    "shards": (0.5, lambda random: Case("shards", damaged_index(random))),
}
"""For each kind of damage, how many cases of a hundred are of it, and what makes one."""

_SHARES = [share for share, _ in KINDS.values()]


def case(seed: int, number: int) -> tuple[str, Case]:
    """The kind and the case of a number; the same on every machine."""
    random = Random(seed << 40 | number)
    (kind,) = random.choices([*KINDS], _SHARES)
    return kind, KINDS[kind][1](random)
