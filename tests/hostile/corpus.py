"""Sound files, and what they are made of: seeds of hostile ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np

from flyweight.checkpoints import SafetensorsWriter
from flyweight.coding import (
    DTYPES,
    CodedTensor,
    carrier,
    encode,
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.coding.channels import SCALED_DTYPES
from flyweight.coding.context.stream import encode_context
from flyweight.format import Container

__all__ = [
    "CODERS",
    "checkpoint",
    "coded_arrays",
    "coded_zeros",
    "constant_planes",
    "containers",
    "grouped",
    "in_chunks",
    "seeds",
]

CODERS = ("plain", "interleaved", "rans", "context")


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
                encode_shared("t", symbols, levels=values, dtype=dtype, coder=coder)
            )
    for dtype in DTYPES:
        item = carrier(dtype)
        raw = (random.normal(0, 9, 70 * item.itemsize).astype(np.int64) & 255).astype(np.uint8)
        if dtype == "bool":
            raw &= 1
        values = np.frombuffer(raw.tobytes(), item)
        found.setdefault("dense", []).append(encode_dense("t", values, dtype=dtype, storage=dtype))
        found.setdefault("constant", []).append(
            encode_constant("t", (3, 4), value=values[0], dtype=dtype, storage=dtype)
        )
    weights = random.normal(0, 0.1, 70_000)
    found["planes"] = [
        encode_lossless("t", weights[:500].astype("f4"), dtype="float32"),
        encode_lossless("t", weights[:900].astype("f8").reshape(30, 30), dtype="float64"),
        encode_lossless("t", weights[:800].astype("f2"), dtype="float16"),
        encode_lossless("t", weights[:600].astype("c8"), dtype="complex64"),
        encode_lossless("t", np.arange(300) % 7, dtype="int64", storage="int64"),
        encode_lossless("t", weights[:3000] < 0.1, dtype="bool"),
        encode_lossless("t", weights[:5000].astype("f4"), dtype="float32"),
        encode_lossless("t", (weights * 40).astype("i1"), dtype="int8"),
    ]
    assert {tensor.coder for tensor in found["planes"]} == {"planes"}
    found["scaled"] = [*_scaled(random)]
    return found


def _scaled(random: np.random.Generator) -> Iterator[CodedTensor]:
    """Tensors whose channels have scales, each second one offsets too."""
    for place, shape in enumerate([(5,), (0, 3), (4, 0), (7, 5), (9, 4, 3, 3), (600,), (70, 70)]):
        for number, dtype in enumerate(SCALED_DTYPES):
            levels = (1, 6, 15, 300)[(place + number) % 4]
            tables = [
                table.astype("f2")
                for table in (
                    np.sort(random.normal(0, 3, levels)),
                    random.normal(0, 0.1, shape[0]),
                    random.normal(0, 1, shape[0]),
                )
            ][: 2 + (place + number) % 2]
            if dtype == "bfloat16":
                tables = [table.astype("f4").view("u4") >> 16 for table in tables]
            first, scales, *offsets = (table.astype(carrier(dtype)) for table in tables)
            yield encode_shared(
                "t",
                random.integers(0, levels + 1, shape),
                levels=first,
                scales=scales,
                offsets=offsets[0] if offsets else None,
                dtype=dtype,
                coder=CODERS[(place + number // 2) % 4],
            )


@cache
def grouped() -> list[list[CodedTensor]]:
    """Groups of tensors: of each coder, dense ones and constants."""
    random = np.random.default_rng(2)
    found = []
    for coder in CODERS[1:]:
        for rows, rest, levels in (
            ((3, 1, 4), (), 6),
            ((2, 9), (5, 3, 3), 3),
            ((40, 2, 7), (9,), 40),
        ):
            tensors = []
            for place, extent in enumerate(rows):
                symbols = np.rint(random.normal(levels / 2, levels / 5, (extent, *rest)))
                symbols = np.clip(symbols, 0, levels).astype(np.int64)
                values = (np.arange(levels) - levels // 2 + place % 2).astype("f4")
                tensors.append(prepare_shared(f"t{place}", symbols, levels=values))
            found.append(encode_tensors(tensors, coder=coder))
    for coder in CODERS:
        tensors = []
        for place, rows in enumerate((4, 1, 7)):
            tables = [random.normal(0, 1, size).astype("f4") for size in (6, rows, rows)]
            symbols = random.integers(0, 7, (rows, 9))
            levels, scales, offsets = np.sort(tables[0]), tables[1], tables[2]
            tensors.append(
                prepare_shared(f"t{place}", symbols, levels=levels, scales=scales, offsets=offsets)
            )
        found.append(encode_tensors(tensors, coder=coder))
    for dtype in ("float32", "float64", "bool", "int8"):
        values = random.normal(0, 1, (3, 80, 4)).astype(dtype) if dtype != "bool" else np.eye(3) > 0
        tensors = [
            prepare_lossless(f"t{place}", rows, dtype=dtype) for place, rows in enumerate(values)
        ]
        found.append(encode_tensors(tensors))
    ones = np.ones(4, np.float32)
    tensors = [prepare_lossless(f"t{place}", ones, dtype="float32") for place in range(5)]
    found.append(encode_tensors(tensors))
    assert all(tensor.group for tensors in found for tensor in tensors)
    return found


@cache
def containers() -> list[Container]:
    """Sound containers of many tensors: names that share words, aliases, groups, metadata."""
    found = []
    for number, size in enumerate((0, 1, 2, 3, 5, 8, 20)):
        random = Random(number)
        tensors: list[CodedTensor] = []
        for place in range(size):
            name = f"layer.{place // 3}." + ("weight", "bias", "ünïcode")[place % 3]
            if place % 5 == 4:
                targets = [at for at, old in enumerate(tensors) if old.target is None]
                target = random.choice(targets)
                tensors.append(encode_alias(name, tensors[target], target=target))
            else:
                tensor = random.choice(seeds()[random.choice([*seeds()])][:6])
                tensors.append(replace(tensor, name=name))
        for place, tensor in enumerate(grouped()[3 * number % len(grouped())] if number else []):
            tensors.append(replace(tensor, name=f"grouped.{place}"))
        metadata = {"architecture": "none", "用": "fuzz"} if number % 2 else {}
        found.append(Container(tensors=tuple(tensors), metadata=metadata))
    return found


@cache
def in_chunks() -> list[CodedTensor]:
    """Tensors of several chunks, of few bytes."""
    found = []
    for coder, size in (("interleaved", 1 << 20), ("rans", 1 << 21), ("context", 1 << 22)):
        symbols = np.zeros(size + 5000, np.int64)
        symbols[:: 1 << 12] = 1
        found.append(encode_shared("t", symbols, levels=np.uint8([1]), dtype="uint8", coder=coder))
    return found


@cache
def coded_zeros(size: int) -> bytes:
    """A context-coded stream of zeros."""
    return encode_context(np.zeros(size, np.int32))


def constant_planes(size: int, dtype: str) -> bytes:
    """Byte planes of zeros."""
    halves = 2 if dtype.startswith("complex") else 1
    width = carrier(dtype).itemsize // halves
    forms = sum(1 << 2 * at for at in range(width)).to_bytes(-(-width // 4), "little")
    return (forms + bytes(width)) * -(-size * halves // (1 << 16))


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
