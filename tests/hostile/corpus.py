"""Sound files, and what they are made of: seeds of hostile ones."""

from __future__ import annotations

import io
import shutil
import struct
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
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
from flyweight.coding.header import outline_of, pack_header
from flyweight.format import Container

__all__ = [
    "CODERS",
    "checkpoint",
    "coded_arrays",
    "constant_planes",
    "containers",
    "grouped",
    "seeds",
    "write_seeds",
]

CODERS = ("huffman", "rans", "context")


@cache
def seeds() -> dict[str, list[CodedTensor]]:
    """Sound tensors of each coder; the last two of each list are the largest."""
    random = np.random.default_rng(0)
    found: dict[str, list[CodedTensor]] = {}
    shapes = [(), (1,), (9,), (0, 5), (7, 5), (4, 6, 5), (9, 4, 3, 3), (300,), (70, 70), (9000,)]
    for coder in CODERS:
        for place, shape in enumerate(shapes):
            levels = (1, 3, 6, 15, 300)[place % 5]
            kept = random.random(shape) < (0.9, 0.3, 0.05)[place % 3]
            bell = np.clip(np.rint(random.normal(levels / 2, levels / 5 + 0.3, shape)), 1, levels)
            dtype = ("float32", "float16", "int8", "int64")[place % 4]
            values = (np.arange(levels) - levels // 2).astype(dtype)
            symbols = np.where(kept, bell, 0).astype(np.int64)
            tensor = encode_shared("t", symbols, levels=values, dtype=dtype, coder=coder)
            found.setdefault(coder, []).append(tensor)
    for dtype in DTYPES:
        item = carrier(dtype)
        raw = (random.normal(0, 9, 70 * item.itemsize).astype(np.int64) & 255).astype(np.uint8)
        values = np.frombuffer((raw & 1 if dtype == "bool" else raw).tobytes(), item)
        found.setdefault("raw", []).append(encode_dense("t", values, dtype=dtype, storage=dtype))
        found.setdefault("constant", []).append(
            encode_constant("t", (3, 4), value=values[0], dtype=dtype, storage=dtype)
        )
    bell = random.normal(0, 0.1, 9000)
    values = {
        "float32": bell[:500].astype("f4"),
        "float64": bell[:300].reshape(30, 10),
        "float16": bell[:800].astype("f2"),
        "complex64": bell[:600].astype("c8"),
        "int64": np.arange(300) % 7,
        "bool": bell[:3000] < 0.1,
        "int8": (bell * 40).astype("i1"),
        "float16 ": bell.astype("f2"),
    }
    for coder in ("planes", "sparse", "matches"):
        for dtype, array in values.items():
            array = np.where(random.random(array.shape) < 0.2, array, 0).astype(array.dtype)
            array = np.resize(array[:70], array.shape) if coder == "matches" else array
            found.setdefault(coder, []).append(
                encode_lossless("t", array, dtype=dtype.strip(), coder=coder)
            )
    found["scaled"] = []
    for place, shape in enumerate([(5,), (0, 3), (4, 0), (7, 5), (9, 4, 3, 3), (600,), (70, 70)]):
        for number, dtype in enumerate(SCALED_DTYPES):
            levels = (1, 6, 15, 300)[(place + number) % 4]
            sizes = ((0, 3, levels), (0, 0.1, shape[0]), (0, 1, shape[0]))
            tables = [random.normal(*size).astype("f4") for size in sizes]
            tables[0].sort()
            if dtype == "bfloat16":
                tables = [table.view("u4") >> 16 for table in tables]
            first, scales, offsets = (table.astype(carrier(dtype)) for table in tables)
            found["scaled"].append(
                encode_shared(
                    "t",
                    random.integers(0, levels + 1, shape),
                    levels=first,
                    scales=scales,
                    offsets=offsets if (place + number) % 2 else None,
                    dtype=dtype,
                    coder=CODERS[(place + number // 2) % 3],
                )
            )
    for coder, tensors in found.items():
        assert coder in ("scaled", "constant") or {tensor.coder for tensor in tensors} == {coder}
    return found


@cache
def grouped() -> list[list[CodedTensor]]:
    """Groups of tensors: of each coder, with scales and offsets, dense ones and constants."""
    random = np.random.default_rng(2)
    found = []
    for coder in CODERS:
        for rows, rest, levels in (
            ((3, 1, 4), (9,), 6),
            ((2, 9), (5, 3, 3), 3),
            ((40, 2, 7), (), 40),
        ):
            tensors = []
            for place, extent in enumerate(rows):
                bell = np.rint(random.normal(levels / 2, levels / 5, (extent, *rest)))
                sizes = (levels, extent, extent) if rest == (9,) else (levels,)
                tables = [random.normal(0, 1, size).astype("f4") for size in sizes]
                first, scales, offsets = [*tables, None, None][:3]
                tensors.append(
                    prepare_shared(
                        f"t{place}",
                        np.clip(bell, 0, levels).astype(np.int64),
                        levels=np.sort(first),
                        scales=scales,
                        offsets=offsets,
                    )
                )
            found.append(encode_tensors(tensors, coder=coder))
    for dtype in ("float32", "float64", "bool", "int8"):
        values = random.normal(0, 1, (3, 80, 4)).astype(dtype) if dtype != "bool" else np.eye(3) > 0
        found.append(
            encode_tensors(
                [prepare_lossless(f"t{at}", rows, dtype=dtype) for at, rows in enumerate(values)]
            )
        )
    ones = np.ones(4, np.float32)
    found.append(
        encode_tensors([prepare_lossless(f"t{at}", ones, dtype="float32") for at in range(5)])
    )
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
                target = random.choice([at for at, t in enumerate(tensors) if t.target is None])
                tensors.append(encode_alias(name, tensors[target], target=target))
            else:
                tensor = random.choice(seeds()[random.choice([*seeds()])][:6])
                tensors.append(replace(tensor, name=name))
        for place, tensor in enumerate(grouped()[3 * number % len(grouped())] if number else []):
            tensors.append(replace(tensor, name=f"grouped.{place}"))
        metadata = {"architecture": "none", "用": "fuzz"} if number % 2 else {}
        found.append(Container(tensors=tuple(tensors), metadata=metadata))
    return found


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
            found += [encode(values, coder) for coder in (*CODERS, "planes")]
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


def write_seeds(folder: Path) -> None:
    """Write sound inputs of the programs in ``native/fuzz``: files, and streams (decode.h)."""
    here = Path(__file__).parent
    for path in chain((here / "files").glob("*.fly"), (here.parent / "golden").glob("*.fly")):
        shutil.copy(path, folder)
    tensors = [tensor for tensors in seeds().values() for tensor in tensors[:-2]]
    for number, tensor in enumerate(tensors):
        parts, shape = tensor.parts, tensor.shape
        table, payload = parts.get("tables", b""), parts.get("symbols", b"")
        inputs = [(CODERS.index(tensor.coder), table, payload, tensor.size)] if payload else []
        if tensor.coder in ("planes", "sparse"):
            inputs = [(3, b"", parts["dense"], tensor.size)]
        if tensor.coder == "sparse":  # how many values are not zero is not known here
            inputs = [(4, table, parts["positions"], tensor.size)]
        header = pack_header([outline_of(tensor)], {"recipe": "x"})
        for decoder, start, rest, count in [*inputs, (5, b"", header, 0)]:
            negatives = DTYPES.index(tensor.storage) if decoder == 3 else tensor.levels // 2
            rank = len(shape) if decoder == 2 else 0
            flags = (rank if rank < 4 else 7) | 8 * (number % 2)
            numbers = (decoder, flags, count, tensor.levels, negatives, len(start))
            extents = [*shape, 0, 0, 0, 0][:4] if rank else [0] * 4
            if max(extents) < 256:
                data = struct.pack("<BBIHHH4B", *numbers, *extents) + start + rest
                (folder / f"{number}-{decoder}").write_bytes(data)
