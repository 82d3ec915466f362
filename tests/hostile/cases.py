"""Hostile files: sound ones with damage whose checksums are right, and what no writer writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from random import Random

import numpy as np
from corpus import (
    CODERS,
    coded_arrays,
    coded_zeros,
    constant_planes,
    containers,
    grouped,
    in_chunks,
    seeds,
)
from hostile_checkpoints import damaged_checkpoint, damaged_index
from mutations import INTERESTING, mutated, some_bytes
from sealing import outlines, resealed, sealed
from streams import random_tensor

from flyweight.coding import (
    DTYPES,
    CodedTensor,
    carrier,
    encode_constant,
    encode_huffman,
)
from flyweight.coding.forms import OWN_PARTS
from flyweight.coding.header.outline import Shapes
from flyweight.coding.header.pack import pack_header
from flyweight.coding.varint import varint
from flyweight.format import Container, dumps

__all__ = ["KINDS", "Case", "case"]


@dataclass(frozen=True)
class Case:
    """Bytes for one of the readers: "file", "array", "safetensors" or "shards".

    ``shapes`` are those that a bare file leaves out, ``declared`` the bytes of its many names.
    """

    kind: str
    reader: str
    data: bytes
    shapes: Shapes = field(default_factory=dict)
    declared: int = 0


def _seed(random: Random, coder: str) -> CodedTensor:
    """A sound tensor of a coder, seldom one of the two largest."""
    choices = seeds()[coder]
    return random.choice(choices if random.random() < 0.04 else choices[:-2] or choices)


def _shapes(container: Container) -> Shapes:
    return {tensor.name: tensor.shape for tensor in container.tensors}


def file_bytes(random: Random, kind: str) -> Case:
    """Any damage to a whole file; its checksums tell."""
    bare = random.random() < 0.2
    first, second = random.choices(containers(), k=2)
    data = dumps(first, bare=bare)
    if random.random() < 0.9:
        data = mutated(random, data, dumps(second))
    return Case(kind, "file", data, _shapes(first) if bare else {})


def preamble(random: Random, kind: str) -> Case:
    """Damage before the header, under right checksums of the head and of the file."""
    bare = random.random() < 0.3
    container = random.choice(containers())
    data = dumps(container, bare=bare)
    at = random.randint(4, 12)
    data = data[:4] + mutated(random, data[4:at], some_bytes(random, 5)) + data[at:]
    return Case(kind, "file", resealed(data), _shapes(container) if bare else {})


def header(random: Random, kind: str) -> Case:
    """Damage to the header before it is coded, under right checksums."""
    bare = random.random() < 0.25
    container, other = random.choices(containers(), k=2)
    told = pack_header(outlines(container.tensors), container.metadata, bare=bare)
    more = pack_header(outlines(other.tensors), other.metadata)
    data = sealed(
        container.tensors, container.metadata, bare=bare, header=mutated(random, told, more)
    )
    return Case(kind, "file", data, _shapes(container) if bare else {})


def _reshaped(random: Random, shape: tuple[int, ...]) -> tuple[int, ...]:
    count = prod(shape)
    number = random.choice(INTERESTING)
    return random.choice(
        (
            (count,),
            (1, count, 1, 1),
            (1, 1, count),
            (count + 1,),
            (max(count - 1, 0),),
            (0, number >> 25),
            (number >> 23,),
            shape[::-1],
            (*shape, 1),
            (1,) * random.choice((31, 32, 33, 65)),
        )
    )


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


def fields(random: Random, kind: str) -> Case:
    """A tensor that says something else of itself than its parts do."""
    tensor = _seed(random, random.choice([*seeds()]))
    change = random.randrange(6)
    if change == 5:
        tensor = _of_channels(random, tensor)
    elif change == 0:
        tensor = replace(tensor, shape=_reshaped(random, tensor.shape))
    elif change == 1 and tensor.encoding == "shared":
        tensor = _of_levels(random, tensor)
    elif change == 2 and tensor.encoding == "shared":
        tensor = replace(tensor, coder=random.choice(CODERS))
    elif change == 3:
        dtype = random.choice(DTYPES)
        tensor = replace(tensor, dtype=dtype, storage=random.choice((dtype, tensor.storage)))
    elif tensor.encoding == "dense":
        tensor = replace(tensor, coder=random.choice(("plain", "planes")))
    return Case(kind, "file", sealed([tensor]))


def parts(random: Random, kind: str) -> Case:
    """Damage to a part of a sound tensor, under right checksums."""
    coder = random.choice(("plain", "plain", *CODERS, *CODERS, "planes", "scaled", *seeds()))
    tensor, other = _seed(random, coder), _seed(random, coder)
    wanted = [name for name, part in tensor.parts.items() if part] or [*tensor.parts]
    name = random.choice(wanted)
    damaged = mutated(random, tensor.parts[name], other.parts.get(name, b""))
    tensor = replace(tensor, parts={**tensor.parts, name: damaged})
    if name == "codebook":
        tensor = replace(tensor, levels=len(damaged) // carrier(tensor.storage).itemsize)
    return Case(kind, "file", sealed([tensor]))


def joins(random: Random, kind: str) -> Case:
    """Joined tensors with damage to what they share, or that do not belong together."""
    tensors = [*random.choice(grouped())]
    place = random.randrange(len(tensors))
    tensor, other = tensors[place], random.choice(random.choice(grouped()))
    change = random.randrange(9)
    if change == 8:
        tensor = _of_channels(random, tensor)
    elif change < 3 and any(tensors[0].parts.values()):
        place, tensor = 0, tensors[0]
        name = random.choice([name for name, part in tensor.parts.items() if part])
        damaged = mutated(random, tensor.parts[name], other.parts.get(name, b""))
        tensor = replace(tensor, parts={**tensor.parts, name: damaged})
        if name == "codebook":
            tensor = replace(tensor, levels=len(damaged) // carrier(tensor.storage).itemsize)
    elif change == 3:
        tensor = replace(tensor, shape=_reshaped(random, tensor.shape))
    elif change == 4:
        tensor = _of_levels(random, tensor)
    elif change == 5:
        tensor = replace(other, name=tensor.name)
    elif change == 6:
        coders = {"shared": CODERS, "dense": ("plain", "planes"), "constant": ("plain",)}
        coder = random.choice(coders[tensor.encoding])
        tensors = [replace(old, coder=coder) for old in tensors]
        tensor = tensors[place]
    tensors[place] = tensor
    if change == 7:
        random.shuffle(tensors)
        tensors = tensors[random.randrange(2) :]
    return Case(kind, "file", sealed(tensors))


def streams(random: Random, kind: str) -> Case:
    """Tables and streams that are sound, or nearly, and that no encoder would choose."""
    tensor = random_tensor(random, random.choice((*CODERS, *CODERS, "planes")))
    if random.random() < 0.4:
        name = random.choice(["dense"] if tensor.coder == "planes" else ["tables", "symbols"])
        damaged = mutated(random, tensor.parts[name], b"")
        tensor = replace(tensor, parts={**tensor.parts, name: damaged})
    return Case(kind, "file", sealed([tensor]))


def vast(random: Random, kind: str) -> Case:
    """Few bytes for as many elements as are allowed, or for a few more."""
    size = (1 << random.randint(16, 20)) + random.choice((-1, 0, 0, 4096, 8 * 4096, 1 << 22))
    dtype = random.choice(("uint8", "bool", "float32", "complex128"))
    fields = {"name": "t", "shape": (size,), "dtype": dtype, "storage": dtype}
    coder = random.choice((*CODERS, "constant", "planes"))
    if coder == "constant":
        zero = np.zeros((), carrier(dtype))
        return Case(kind, "file", sealed([encode_constant("t", (size,), value=zero, dtype=dtype)]))
    if coder == "planes":
        parts = {"dense": constant_planes(size, dtype)}
        tensor = CodedTensor(**fields, encoding="dense", coder="planes", parts=parts)
        return Case(kind, "file", sealed([tensor]))
    levels, symbols = random.choice((1, 3)), b""
    symbol = random.randint(0, levels)
    lone, _ = encode_huffman([symbol], levels + 1)
    if coder == "plain":
        step = random.randint(1, 3)
        gaps, _ = encode_huffman([step - 1], 4)
        where = bytes([random.choice((2, 3))]) + varint(size // step) + gaps
        level, _ = encode_huffman([0], levels)
        told = (b"\0" + lone, b"\1" + level, b"\2\0", varint(len(where) + 1) + where + level)
        table = random.choice(told)
    elif coder == "interleaved":
        table = lone
    elif coder == "rans":
        table = bytes([symbol]).strip(b"\0")
    else:
        table, symbols = b"\0", coded_zeros(min(size, 1 << 20))
    codebook = bytes(carrier(dtype).itemsize * levels)
    parts = {"tables": table, "codebook": codebook, "positions": b"", "symbols": symbols}
    tensor = CodedTensor(**fields, encoding="shared", coder=coder, levels=levels, parts=parts)
    return Case(kind, "file", sealed([tensor]))


def long(random: Random, kind: str) -> Case:
    """A long table or payload, or very many tensors of long names."""
    if random.random() < 0.3:
        name = ".".join("abcdefgh" * 60)
        tensors = [
            encode_constant(f"{name}.{place}", (), value=np.uint8(0), dtype="uint8")
            for place in range(random.choice((60, 300)))
        ]
        tensors += tensors[:1] * (random.random() < 0.5)
        told = pack_header(outlines(tensors), {})
        return Case(kind, "file", sealed([], header=told), declared=2048 * len(tensors))
    tensor = _seed(random, random.choice((*CODERS, "planes")))
    name = random.choice([name for name in tensor.parts if name != "codebook"])
    more = bytes(random.choices((0, 0, 255, 0b10110110), k=2)) * 150_000
    part = tensor.parts[name] + more if random.random() < 0.5 else more + tensor.parts[name]
    tensor = replace(tensor, parts={**tensor.parts, name: part})
    return Case(kind, "file", sealed([tensor]))


def chunks(random: Random, kind: str) -> Case:
    """Damage to a stream of several chunks."""
    tensor = random.choice(in_chunks())
    if random.random() < 0.7:
        damaged = mutated(random, tensor.parts["symbols"], b"")
        tensor = replace(tensor, parts={**tensor.parts, "symbols": damaged})
    return Case(kind, "file", sealed([tensor]))


def arrays(random: Random, kind: str) -> Case:
    """Bytes of `coding.encode`, which have no checksum."""
    data = random.choice(coded_arrays())
    if random.random() < 0.2:
        return Case(kind, "array", data[:1] + bytes([random.randrange(9)]) + data[2:])
    if random.random() < 0.8:
        return Case(kind, "array", mutated(random, data, random.choice(coded_arrays())))
    shape = [random.choice((0, 1, 2, *INTERESTING)) for _ in range(random.choice((1, 2, 3, 33)))]
    start = data[:2] + b"".join(map(varint, (len(shape), *shape)))
    return Case(kind, "array", start + data[random.choice((len(data), 4)) :])


def safetensors(random: Random, kind: str) -> Case:
    """A damaged checkpoint: any of its bytes, or what its header says."""
    return Case(kind, "safetensors", damaged_checkpoint(random))


def shards(random: Random, kind: str) -> Case:
    """A damaged index of shards; beside it lies one sound shard, ``a.safetensors``."""
    return Case(kind, "shards", damaged_index(random))


KINDS: dict[str, tuple[float, Callable[[Random, str], Case]]] = {
    "any byte": (4, file_bytes),
    "preamble": (4, preamble),
    "header": (10, header),
    "fields": (12, fields),
    "parts": (28, parts),
    "joins": (8, joins),
    "streams": (20, streams),
    "vast": (2, vast),
    "long": (0.5, long),
    "chunks": (0.1, chunks),
    "arrays": (5, arrays),
    "safetensors": (4, safetensors),
    "shards": (2, shards),
}
"""For each kind of damage, how many cases of a hundred are of it, and what makes one."""


def case(seed: int, number: int) -> Case:
    """The case of a number; the same on every machine."""
    random = Random(f"{seed} {number}")
    kind = random.choices([*KINDS], [share for share, _ in KINDS.values()])[0]
    return KINDS[kind][1](random, kind)
