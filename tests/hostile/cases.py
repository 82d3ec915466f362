"""Hostile files: sound ones with damage whose checksums are right, and what no writer writes.

All files are made by the library's own writers. To get what these refuse past them, `sealed`
switches their checks off and can exchange the header; every checksum of the result is right.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from random import Random
from types import ModuleType

import numpy as np
from mutations import INTERESTING, mutated, some_bytes
from streams import random_tensor

from flyweight.checkpoints import SafetensorsWriter
from flyweight.coding import (
    DTYPES,
    CodedTensor,
    carrier,
    code_alias,
    code_constant,
    code_dense,
    code_lossless,
    code_shared,
    encode,
    encode_symbols,
)
from flyweight.coding.context import encode_context
from flyweight.coding.header import Shapes, outline_of, pack_header
from flyweight.coding.varint import varint
from flyweight.container import Container, dumps, layout, writer
from flyweight.errors import FormatError

__all__ = ["KINDS", "Case", "case", "sealed"]

CODERS = ("plain", "interleaved", "rans", "context")


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

        def exchange(module: ModuleType, name: str, other: object) -> None:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, other)

        exchange(writer, "defect", lambda _: None)
        exchange(writer, "too_many_elements", lambda *_: None)
        if header is not None:
            exchange(layout, "pack_header", lambda *_, **__: header)
        if len(tensors) == 1:
            exchange(layout, "encode_symbols", lambda symbols, _: (bytes(symbols), b""))
        return dumps(container, bare=bare)


def resealed(data: bytes) -> bytes:
    """A file with the checksums of its head and of the whole made anew."""
    try:
        length = layout.head_length(data[: layout.LONGEST_PREAMBLE])
    except FormatError:
        return data
    if length + layout.CRC > len(data) or length < layout.CRC:
        return data
    head = data[: length - layout.CRC]
    body = head + layout.crc(head) + data[length : -layout.CRC]
    return body + layout.crc(body)


@cache
def seeds() -> dict[str, list[CodedTensor]]:
    """Sound tensors of each coder; the last two of each list are the largest."""
    random = np.random.default_rng(0)
    found: dict[str, list[CodedTensor]] = {}
    shapes = [(), (1,), (9,), (0, 5), (7, 5), (4, 6, 5), (9, 4, 3, 3), (600,), (70, 70), (40_000,)]
    for coder in CODERS:
        for place, shape in enumerate(shapes[:-1] if coder == "context" else shapes):
            levels = (1, 3, 6, 15, 300)[place % 5]
            kept = random.random(shape) < (0.9, 0.3, 0.05)[place % 3]
            bell = np.clip(np.rint(random.normal(levels / 2, levels / 5 + 0.3, shape)), 1, levels)
            symbols = np.where(kept, bell, 0).astype(np.int64)
            dtype = ("float32", "float16", "int8", "int64")[place % 4]
            values = (np.arange(levels) - levels // 2).astype(dtype)
            found.setdefault(coder, []).append(
                code_shared("t", symbols, levels=values, dtype=dtype, coder=coder)
            )
    for dtype in DTYPES:
        item = carrier(dtype)
        raw = (random.normal(0, 9, 70 * item.itemsize).astype(np.int64) & 255).astype(np.uint8)
        if dtype == "bool":
            raw &= 1
        values = np.frombuffer(raw.tobytes(), item)
        found.setdefault("dense", []).append(code_dense("t", values, dtype=dtype, storage=dtype))
        found.setdefault("constant", []).append(
            code_constant("t", (3, 4), value=values[0], dtype=dtype, storage=dtype)
        )
    weights = random.normal(0, 0.1, 70_000)
    found["planes"] = [
        code_lossless("t", weights[:500].astype("f4"), dtype="float32"),
        code_lossless("t", weights[:900].astype("f8").reshape(30, 30), dtype="float64"),
        code_lossless("t", weights[:800].astype("f2"), dtype="float16"),
        code_lossless("t", weights[:600].astype("c8"), dtype="complex64"),
        code_lossless("t", np.arange(300) % 7, dtype="int64", storage="int64"),
        code_lossless("t", weights[:3000] < 0.1, dtype="bool"),
        code_lossless("t", weights[:5000].astype("f4"), dtype="float32"),
        code_lossless("t", (weights * 40).astype("i1"), dtype="int8"),
    ]
    assert {tensor.coder for tensor in found["planes"]} == {"planes"}
    return found


def _seed(random: Random, coder: str) -> CodedTensor:
    choices = seeds()[coder]
    return random.choice(choices if random.random() < 0.04 else choices[:-2] or choices)


@cache
def containers() -> list[Container]:
    """Sound containers of many tensors, with names that share words, aliases and metadata."""
    found = []
    for number, size in enumerate((0, 1, 2, 3, 5, 8, 20)):
        random = Random(number)
        tensors: list[CodedTensor] = []
        for place in range(size):
            name = f"layer.{place // 3}." + ("weight", "bias", "ünïcode")[place % 3]
            if place % 5 == 4:
                targets = [at for at, old in enumerate(tensors) if old.target is None]
                target = random.choice(targets)
                tensors.append(code_alias(name, tensors[target], target=target))
            else:
                tensor = random.choice(seeds()[random.choice([*seeds()])][:6])
                tensors.append(replace(tensor, name=name))
        metadata = {"architecture": "none", "用": "fuzz"} if number % 2 else {}
        found.append(Container(tensors=tuple(tensors), metadata=metadata))
    return found


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
    told = pack_header([*map(outline_of, container.tensors)], container.metadata, bare=bare)
    more = pack_header([*map(outline_of, other.tensors)], other.metadata)
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


def fields(random: Random, kind: str) -> Case:
    """A tensor that says something else of itself than its parts do."""
    tensor = _seed(random, random.choice([*seeds()]))
    item = carrier(tensor.storage).itemsize
    change = random.randrange(5)
    if change == 0:
        tensor = replace(tensor, shape=_reshaped(random, tensor.shape))
    elif change == 1 and tensor.encoding == "shared":
        levels = random.choice((0, 1, 2, tensor.levels + 1, 255, 256, 65_535, 65_536))
        book = tensor.parts["codebook"].ljust(item * levels, b"\0")[: item * levels]
        tensor = replace(tensor, levels=levels, parts={**tensor.parts, "codebook": book})
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
    coder = random.choice(("plain", "plain", *CODERS, *CODERS, "planes", "planes", *seeds()))
    tensor, other = _seed(random, coder), _seed(random, coder)
    wanted = [name for name, part in tensor.parts.items() if part] or [*tensor.parts]
    name = random.choice(wanted)
    damaged = mutated(random, tensor.parts[name], other.parts[name])
    tensor = replace(tensor, parts={**tensor.parts, name: damaged})
    if name == "codebook":
        tensor = replace(tensor, levels=len(damaged) // carrier(tensor.storage).itemsize)
    return Case(kind, "file", sealed([tensor]))


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
        return Case(kind, "file", sealed([code_constant("t", (size,), value=zero, dtype=dtype)]))
    if coder == "planes":
        parts = {"dense": _constant_planes(size, dtype)}
        tensor = CodedTensor(**fields, encoding="dense", coder="planes", parts=parts)
        return Case(kind, "file", sealed([tensor]))
    levels, symbols = random.choice((1, 3)), b""
    symbol = random.randint(0, levels)
    lone, _ = encode_symbols([symbol], levels + 1)
    if coder == "plain":
        step = random.randint(1, 3)
        gaps, _ = encode_symbols([step - 1], 4)
        where = bytes([random.choice((2, 3))]) + varint(size // step) + gaps
        level, _ = encode_symbols([0], levels)
        told = (b"\0" + lone, b"\1" + level, b"\2\0", varint(len(where) + 1) + where + level)
        table = random.choice(told)
    elif coder == "interleaved":
        table = lone
    elif coder == "rans":
        table = bytes([symbol]).strip(b"\0")
    else:
        table, symbols = b"\0", _coded_zeros(min(size, 1 << 20))
    codebook = bytes(carrier(dtype).itemsize * levels)
    parts = {"tables": table, "codebook": codebook, "positions": b"", "symbols": symbols}
    tensor = CodedTensor(**fields, encoding="shared", coder=coder, levels=levels, parts=parts)
    return Case(kind, "file", sealed([tensor]))


def long(random: Random, kind: str) -> Case:
    """A long table or payload, or very many tensors of long names."""
    if random.random() < 0.3:
        name = ".".join("abcdefgh" * 60)
        tensors = [
            code_constant(f"{name}.{place}", (), value=np.uint8(0), dtype="uint8")
            for place in range(random.choice((60, 300)))
        ]
        tensors += tensors[:1] * (random.random() < 0.5)
        told = pack_header([*map(outline_of, tensors)], {})
        return Case(kind, "file", sealed([], header=told), declared=2048 * len(tensors))
    tensor = _seed(random, random.choice((*CODERS, "planes")))
    name = random.choice([name for name in tensor.parts if name != "codebook"])
    more = bytes(random.choices((0, 0, 255, 0b10110110), k=2)) * 150_000
    part = tensor.parts[name] + more if random.random() < 0.5 else more + tensor.parts[name]
    tensor = replace(tensor, parts={**tensor.parts, name: part})
    return Case(kind, "file", sealed([tensor]))


def chunks(random: Random, kind: str) -> Case:
    """Damage to a stream of several chunks."""
    tensor = random.choice(_in_chunks())
    if random.random() < 0.7:
        damaged = mutated(random, tensor.parts["symbols"], b"")
        tensor = replace(tensor, parts={**tensor.parts, "symbols": damaged})
    return Case(kind, "file", sealed([tensor]))


@cache
def _in_chunks() -> list[CodedTensor]:
    found = []
    for coder, size in (("interleaved", 1 << 20), ("rans", 1 << 21), ("context", 1 << 22)):
        symbols = np.zeros(size + 5000, np.int64)
        symbols[:: 1 << 12] = 1
        found.append(code_shared("t", symbols, levels=np.uint8([1]), dtype="uint8", coder=coder))
    return found


@cache
def _coded_zeros(size: int) -> bytes:
    return encode_context(np.zeros(size, np.int32))


def _constant_planes(size: int, dtype: str) -> bytes:
    halves = 2 if dtype.startswith("complex") else 1
    width = carrier(dtype).itemsize // halves
    forms = sum(1 << 2 * at for at in range(width)).to_bytes(-(-width // 4), "little")
    return (forms + bytes(width)) * -(-size * halves // (1 << 16))


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


@cache
def coded_arrays() -> list[bytes]:
    """Arrays by each coder."""
    random = np.random.default_rng(1)
    found = []
    for shape in ((), (5,), (0, 3), (30, 20), (5, 4, 3, 3), (4, 50)):
        for dtype in ("int8", "int32", "uint64", "bool"):
            values = np.abs(np.rint(random.normal(0, 1.5, shape))).astype(dtype)
            found += [encode(values, coder) for coder in ("huffman", "rans", "context", "planes")]
    return found


@cache
def checkpoint() -> bytes:
    """A sound safetensors file."""
    file = io.BytesIO()
    values = {
        "a.weight": ("float32", np.ones((2, 3), "f4")),
        "a.bias": ("bfloat16", np.ones(3, "u2")),
        "b": ("int64", np.array(5)),
        "none": ("uint8", np.zeros((0, 4), "u1")),
    }
    outlines = [(name, dtype, array.shape) for name, (dtype, array) in values.items()]
    made = SafetensorsWriter(file, outlines, {"format": "pt"})
    for name, (_, array) in values.items():
        made.add(name, array)
    return file.getvalue()


_ODD = (
    *(None, True, -1, 1.5, 0, 1, 3, 12, 1 << 31, (1 << 63) - 1, 1 << 64, 10**4000, float("nan")),
    *("", "F32", "U8", "x" * 300, "a\0b", "\ud800", "..", "/"),
    *([], [0], [0, 0], [0, 12], [1] * 70, [0, 1 << 62, 1 << 62], [[]], {}, {"dtype": "F32"}),
    [10**4000] * 90,
)


def _odd_json(random: Random, document: object) -> object:
    """A document with something odd in one place."""
    if not isinstance(document, dict) or not document or random.random() < 0.05:
        if isinstance(document, list) and document and random.random() < 0.6:
            return [*document[:-1], random.choice(_ODD)]
        return random.choice(_ODD)
    key = random.choice([*document])
    change = random.randrange(8)
    if change == 0:
        return {name: value for name, value in document.items() if name != key}
    if change == 1:
        return document | {str(random.choice(_ODD))[:50]: document[key]}
    return document | {key: _odd_json(random, document[key])}


def safetensors(random: Random, kind: str) -> Case:
    """A damaged checkpoint: any of its bytes, or what its header says."""
    data = checkpoint()
    length = int.from_bytes(data[:8], "little")
    text, values = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.2:
        return Case(kind, "safetensors", mutated(random, data, text))
    if random.random() < 0.8:
        text = json.dumps(_odd_json(random, json.loads(text))).encode("ascii")
    if random.random() < 0.3:
        text = mutated(random, text, b"[" * 2000 + text)
    data = len(text).to_bytes(8, "little") + text + values
    return Case(kind, "safetensors", data)


def shards(random: Random, kind: str) -> Case:
    """A damaged index of shards; beside it lies one sound shard, ``a.safetensors``."""
    names = ("a.weight", "a.bias", "b", "none")
    index = {
        "metadata": {"total_size": 38, "note": "x"},
        "weight_map": dict.fromkeys(names, "a.safetensors"),
    }
    document = _odd_json(random, index) if random.random() < 0.9 else index
    text = json.dumps(document).encode("ascii")
    return Case(
        kind, "shards", mutated(random, text, b"[" * 2000) if random.random() < 0.3 else text
    )


KINDS: dict[str, tuple[float, Callable[[Random, str], Case]]] = {
    "any byte": (4, file_bytes),
    "preamble": (4, preamble),
    "header": (10, header),
    "fields": (12, fields),
    "parts": (32, parts),
    "streams": (22, streams),
    "vast": (2, vast),
    "long": (0.5, long),
    "chunks": (0.1, chunks),
    "arrays": (7, arrays),
    "safetensors": (4, safetensors),
    "shards": (2, shards),
}
"""For each kind of damage, how many cases of a hundred are of it, and what makes one."""


def case(seed: int, number: int) -> Case:
    """The case of a number; the same on every machine."""
    random = Random(f"{seed} {number}")
    kind = random.choices([*KINDS], [share for share, _ in KINDS.values()])[0]
    return KINDS[kind][1](random, kind)
