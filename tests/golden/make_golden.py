"""Write the golden files: ``python tests/golden/make_golden.py`` (flyweight importable).

A golden file is written once and then loads for ever: do not run this again for a version of
the format that has been released. The content comes from integer formulas alone.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np

from flyweight.coding import (
    carrier,
    encode_alias,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.format import Container, dumps

FOLDER = Path(__file__).parent
CODERS = ("huffman", "rans", "context")
DENSE_CODERS = ("raw", "planes", "sparse", "matches")
STORAGES = {
    "int16": ("uint8", "int8"),
    "int32": ("uint8", "int8", "uint16", "int16"),
    "int64": ("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    "float32": ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    "float64": ("float16", "float32"),
}


def noise(size, seed):
    """Integers in 0..65535 from a linear congruential generator."""
    out, state = np.empty(size, dtype=np.int64), seed
    for index in range(size):
        state = (state * 1103515245 + 12345) % 2**31
        out[index] = state >> 15
    return out


def bell(size, seed):
    """Sums of noise, between -2 and 2."""
    four = sum(noise(size, seed + 7 * part) for part in range(4))
    return (four - 2 * 65536) / 65536


def bits_of(values, dtype):
    """Float32 values that are exact in 16 bits, as the carrier of a dtype."""
    values = np.asarray(values, "f4")
    return values.view("u4") >> 16 if dtype == "bfloat16" else values


def rounded(values, dtype):
    """Round to a dtype, as its carrier; to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = values.view("u4")
        values = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return values.astype(carrier(dtype))


def dense(name, dtype, values, storage=None):
    """An uncoded tensor, and its values."""
    values = np.asarray(values).astype(carrier(dtype))
    return prepare_lossless(name, values, dtype=dtype, storage=storage), values


def shared(name, shape, seed, *, dtype="float32", levels=8, density=75, tables=0):
    """An uncoded tensor with scales, or these and offsets, if there are tables; and its values."""
    size = int(np.prod(shape))
    middle = np.clip(np.rint((bell(size, seed) + 1) / 2 * levels), 1, levels)
    symbols = np.where(noise(size, seed + 1) % 100 < density, middle, 0).astype(np.int64)
    symbols = symbols.reshape(shape)
    # Half of an odd number, so that no level is 0, unless there are offsets.
    codes = (2 * np.arange(levels) + (tables < 2) - levels) / np.float32(16)
    scales = (1 + noise(shape[0] if tables else 0, seed + 2) % 60).astype("f4") / 256
    offsets = (noise(len(scales), seed + 3) % 61 - 30).astype("f4") / 64
    channels = {"scales": bits_of(scales, dtype), "offsets": bits_of(offsets, dtype)}
    channels = {
        kind: channels[kind].astype(carrier(dtype)) for kind in ("scales", "offsets")[:tables]
    }
    book = bits_of(codes, dtype).astype(carrier(dtype))
    tensor = prepare_shared(name, symbols, levels=book, dtype=dtype, **channels)
    wide = "f8" if dtype == "float64" else "f4"
    values = np.append(np.float32(0), codes)[symbols].astype(wide)
    if tables:
        across = (shape[0], *[1] * (len(shape) - 1))
        values = values * scales.astype(wide).reshape(across)
        if tables > 1:
            values = values + offsets.astype(wide).reshape(across)
        values = np.where(symbols == 0, 0, values).astype(wide)
    return tensor, rounded(values, dtype)


def forms():
    """Return the tensors of ``v1.fly``: every dtype and form, but those that share."""
    floats = bell(600, 20).astype("f4") * np.float32(0.37)
    runs = np.zeros(3000, "f4")
    runs[[0, 1, 700, 2998]] = 1, 2, 3, np.float32(0.1)
    tensors = [
        dense("raw", "float32", floats[:7]),
        dense("constant", "float16", np.ones((2, 3))),
        dense("zeros", "float32", np.zeros((3, 5))),
        dense("empty", "float32", np.zeros((0, 4))),
        dense("scalar", "float64", 0.1),
        dense("planes", "float32", floats),
        dense("planes.bool", "bool", noise(900, 21) % 3 == 0),
        dense("planes.bfloat16", "bfloat16", bits_of(floats, "bfloat16")),
        dense("planes.complex64", "complex64", floats[:300] + 1j * floats[300:]),
        dense("planes.narrow", "float32", floats.astype("f2")),
        dense("sparse.far", "float32", runs),
        dense("sparse.bits", "float32", np.where(noise(600, 22) % 2, floats, 0)),
        dense("sparse.dense", "float32", np.where(noise(600, 23) % 12, floats, 0)),
        dense("matches", "int32", np.tile(noise(97, 24) * 65537, 20)),
        dense("matches.float32", "float32", np.tile(floats[:97], 9)),
        dense("matches.differences", "int32", np.arange(900) * 3_000_001),
        dense("ünïcode.名前", "uint8", noise(5, 25) % 256),
    ]
    for place, dtype in enumerate(("uint8", "uint16", "uint32", "uint64", "int8")):
        tensors.append(dense(f"raw.{dtype}", dtype, noise(11, 30 + place) * 0x10001 % 100_003))
    for dtype in ("float8_e4m3fn", "float8_e5m2"):
        tensors.append(dense(f"raw.{dtype}", dtype, noise(10, 40) % 256))
    tensors.append(dense("raw.complex128", "complex128", floats[:3] * 1j + 0.1))
    for dtype, storages in STORAGES.items():
        for storage in storages:
            values = [1, 3, 12, 0, 5] if "u" in storage else [1, -3, 12, 0, -0.5]
            values = np.trunc(values) if "int" in dtype else values
            tensors.append(dense(f"{dtype}.{storage}", dtype, values, storage))
    return tensors


def coded():
    """Return the tensors of ``v1-coders.fly``, and the coder of each."""
    tensors = []
    for seed, coder in enumerate(CODERS):
        for name, shape, kind in (
            ("kernels", (16, 6, 3, 3), {"levels": 40}),
            ("rows", (24, 40), {"levels": 40, "tables": 1}),
            ("line", (300,), {"dtype": "float16", "tables": 2}),
            ("bfloat16", (9, 8), {"dtype": "bfloat16", "tables": 2}),
            ("float64", (9, 8), {"dtype": "float64", "tables": 2}),
            ("few", (3, 2), {"levels": 1, "density": 50}),
            ("one", (40, 3), {"levels": 1, "density": 100}),
            ("none", (0, 5), {"tables": 2}),
            ("sparse", (40, 40), {"density": 4}),
        ):
            tensor, values = shared(f"{coder}.{name}", shape, 50 + seed, **kind)
            tensors.append((tensor.encode(coder=coder), values))
    tensor, values = shared("context.thresholds", (64, 70), 60, density=12, levels=200)
    tensors.append((tensor.encode(coder="context"), values))
    integers = noise(70_000, 91)
    two_blocks = np.where(integers % 40 == 0, integers % 5, 7)
    return [*tensors, dense("planes.two blocks", "int16", two_blocks)]


def grouped():
    """Return the tensors of ``v1-groups.fly``: groups that interleave."""
    tensors = []
    for number, rows in enumerate((16, 3, 8)):
        for seed, coder in enumerate(CODERS):
            seed = 10 * seed + number
            for tables, rest in enumerate(((5,), (2, 3, 3), (7,))):
                name, levels = f"{number}.{coder}{tables}", 8 + 2 * number
                tensor = shared(name, (rows, *rest), seed, levels=levels, tables=tables)
                tensors.append((*tensor, coder))
        values = bell(40 * rows, 400 + number).astype("f2").astype("f4")
        tensors.append((*dense(f"{number}.bias", "float32", values), "planes"))
        tensors.append((*dense(f"{number}.scale", "float32", np.full(rows, 1.5)), "constant"))
        tensors.append((*dense(f"{number}.steps", "int64", 0), "zeros"))
    places = {}
    for coder in {kind for _, _, kind in tensors}:
        own = [place for place, (_, _, kind) in enumerate(tensors) if kind == coder]
        forced = coder if coder in CODERS else None
        group = encode_tensors([tensors[place][0] for place in own], coder=forced)
        places |= dict(zip(own, group, strict=True))
    return [(places[place], values) for place, (_, values, _) in enumerate(tensors)]


def encoded(tensor):
    """Encode a tensor by the coder that its name begins with, if any."""
    begin = tensor.name.partition(".")[0]
    return tensor.encode(coder=begin if begin in DENSE_CODERS else None)


def content(tensors, metadata):
    """Return a container and what it decodes to; a tensor, the first of two dimensions, twice.

    Up to 256 bytes stand in hex, of more their SHA-256.
    """
    told = {}
    coded = [tensor if hasattr(tensor, "parts") else encoded(tensor) for tensor, _ in tensors]
    for tensor, (_, values) in zip(coded, tensors, strict=True):
        raw = values.tobytes()
        content = {"hex": raw.hex()} if len(raw) <= 256 else {"sha256": sha256(raw).hexdigest()}
        told[tensor.name] = {"dtype": tensor.dtype, "shape": list(values.shape)} | content
    target = next(place for place, tensor in enumerate(coded) if len(tensor.shape) == 2)
    coded.append(encode_alias("tied.weight", coded[target], target=target))
    told["tied.weight"] = told[coded[target].name]
    return Container(tensors=tuple(coded), metadata=metadata), told


def make():
    """Return stem -> (bytes of the file, what it decodes to)."""
    groups, told = content(grouped(), {"architecture": "none", "recipe": "golden"})
    files = {
        "v1": content(forms(), {"made by": "flyweight", "用": "golden"}),
        "v1-coders": content(coded(), {}),
        "v1-groups": (groups, told),
    }
    made = {stem: (dumps(container), told) for stem, (container, told) in files.items()}
    return made | {"v1-bare": (dumps(groups, bare=True), told)}


if __name__ == "__main__":
    for stem, (data, told) in make().items():
        (FOLDER / f"{stem}.fly").write_bytes(data)
        text = json.dumps(told, indent=1, ensure_ascii=False)
        (FOLDER / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
