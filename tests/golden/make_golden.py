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
    decode_channels,
    decode_shared,
    encode_alias,
    encode_lossless,
    encode_shared,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.format import Container, dumps

FOLDER = Path(__file__).parent


def noise(size, seed):
    """Integers in 0..65535 from a linear congruential generator."""
    out, state = np.empty(size, dtype=np.int64), seed
    for index in range(size):
        state = (state * 1103515245 + 12345) % 2**31
        out[index] = state >> 15
    return out


def arrays():
    """Return name -> (dtype, array, whether it is shared)."""
    levels = np.array([0, -24, -10, -3, 5, 11, 30], dtype="f4") / 16

    def shared(size, shape, kept_of_100, seed):
        which = 1 + noise(size, seed) * 11 % 6
        kept = noise(size, seed + 1) % 100 < kept_of_100
        return levels[np.where(kept, which, 0)].reshape(shape)

    far = np.zeros(3000, dtype="f4")
    far[[0, 1, 700, 2998]] = 1
    return {
        "conv1.weight": ("float32", shared(432, (16, 3, 3, 3), 35, 1), True),
        "layer1.0.conv1.weight": ("float32", shared(2304, (16, 16, 3, 3), 20, 2), True),
        "layer1.0.bn1.weight": ("float32", noise(16, 3).astype("f4") / 7, False),
        "layer1.0.bn1.bias": ("float32", noise(16, 4).astype("f4") / 65536 - 0.5, False),
        "layer1.0.bn1.num_batches_tracked": ("int64", np.int64(31200), False),
        "layer1.0.conv2.weight": ("float32", shared(7500, (7500,), 25, 5), True),
        "dense.mostly_kept": ("float32", shared(800, (40, 20), 93, 6), True),
        "dense.coarse": ("float32", (noise(500, 14) % 4).astype("f4").reshape(20, 25), True),
        "dense.one_level": ("float32", (noise(700, 15) % 16 > 0).astype("f4"), True),
        "dense.half_kept": ("float32", shared(64, (8, 8), 50, 7), True),
        "dense.all_kept": ("float32", shared(300, (300,), 100, 8), True),
        "dense.all_pruned": ("float32", np.zeros((7, 9), dtype="f4"), True),
        "far.apart": ("float32", far, True),
        "one.level": ("float32", np.full((2, 3), levels[1]), True),
        "empty": ("float32", np.zeros((0, 4), dtype="f4"), False),
        "scalar": ("float64", np.float64(0.1), False),
        "zeros": ("float32", np.zeros((3, 5), dtype="f4"), False),
        "ones": ("float16", np.ones(6, dtype="f2"), False),
        "bits.bfloat16": ("bfloat16", noise(10, 9).astype("u2"), False),
        "bits.float8": ("float8_e4m3fn", (noise(10, 10) % 256).astype("u1"), False),
        "flags": ("bool", noise(11, 11) % 2 == 1, False),
        "integers": ("int32", (noise(9, 12) - 40000).astype("i4"), False),
        "ünïcode.名前": ("uint8", (noise(5, 13) % 256).astype("u1"), False),
    }


def container():
    """Return the content of ``v1.fly``."""
    tensors = []
    for name, (dtype, values, is_shared) in arrays().items():
        if is_shared:
            levels = np.unique(values[values != 0])
            symbols = np.where(values == 0, 0, np.searchsorted(levels, values) + 1)
            tensors.append(encode_shared(name, symbols, levels=levels, dtype=dtype, coder="plain"))
        else:
            tensors.append(encode_lossless(name, values, dtype=dtype, planes=False))
    tensors.append(encode_alias("tied.weight", tensors[1], target=1))
    return Container(tensors=tuple(tensors), metadata={"made by": "flyweight", "用": "golden"})


def weights(size, seed):
    """Return sums of noise: bell-shaped, between -2 and 2."""
    four = sum(noise(size, seed + 7 * part) for part in range(4))
    return (four - 2 * 65536) / 65536


def coded_arrays():
    """Return name -> (dtype, array, coder) for every coder but the plain one."""
    table = {}
    for coder in ("interleaved", "rans", "context"):
        for name, shape in {
            "kernels": (24, 16, 3, 3),
            "rows": (64, 80),
            "line": (300,),
            "few": (3, 2),
            "none": (0, 5),
        }.items():
            size = int(np.prod(shape))
            kept = noise(size, 50) % 5 > 0
            values = np.rint(weights(size, len(table)) * 4) * kept / 8 + 0.0  # no zero below zero
            table[f"{coder}.{name}"] = ("float32", values.astype("f4").reshape(shape), coder)
        table[f"{coder}.one"] = ("float16", np.full((40, 3), -0.5, dtype="f2"), coder)
    bell = weights(3000, 90)
    table |= {
        "planes.float32": ("float32", bell.astype("f4") * np.float32(0.37), "planes"),
        "planes.float16": ("float16", bell.astype("f2"), "planes"),
        "planes.bfloat16": ("bfloat16", bell.astype("f4").view("u4") >> 16, "planes"),
        "planes.int64": ("int64", noise(3000, 91) - 40_000 + (1 << 40), "planes"),
        "planes.bool": ("bool", noise(3000, 92) % 2 == 1, "planes"),
        "planes.two blocks": ("int16", noise(70_000, 93) % 11 - 3, "planes"),
    }
    return table


def uncoded(table, storage=None):
    """Return the uncoded tensors of name -> (dtype, array, coder)."""
    tensors = []
    for name, (dtype, array, coder) in table.items():
        values = np.asarray(array).astype(carrier(dtype))
        if coder == "planes":
            own = dtype if storage == "own" else None
            tensors.append(prepare_lossless(name, values, dtype=dtype, storage=own))
        else:
            levels = np.unique(values[values != 0])
            symbols = np.where(values == 0, 0, np.searchsorted(levels, values) + 1)
            tensors.append(prepare_shared(name, symbols, levels=levels, dtype=dtype))
    return tensors


def coder_of(tensor):
    """Return the coder that the name of a quantized tensor begins with."""
    return tensor.name.partition(".")[0] if tensor.encoding == "shared" else None


def coded_container():
    """Return the content of ``v1-coders.fly``."""
    tensors = uncoded(coded_arrays(), storage="own")
    coded = tuple(tensor.encode(coder=coder_of(tensor)) for tensor in tensors)
    return Container(tensors=coded, metadata={"made by": "flyweight"})


def shapes():
    """Return the names and shapes that ``v1-bare.fly`` leaves to its architecture."""
    return {name: np.shape(values) for name, (_, values, _) in coded_arrays().items()}


def grouped_arrays():
    """Return name -> (dtype, array, coder): tensors that form groups, others between them."""
    table = {}
    for coder in ("plain", "interleaved", "rans", "context"):
        for number, rows in enumerate((16, 3, 8)):
            shape = (rows, 4, 3, 3) if coder == "context" else (rows, 60)
            size = int(np.prod(shape))
            kept = noise(size, 70 + number) % 4 > 0
            step = 8 + number  # codebooks of different lengths
            values = np.rint(weights(size, 300 + number + len(table)) * step) * kept / 8 + 0.0
            table[f"{coder}.{number}.weight"] = (
                "float32",
                values.astype("f4").reshape(shape),
                coder,
            )
            bell = weights(40 * rows, 400 + len(table)).astype("f2")
            table[f"{coder}.{number}.bias"] = ("float32", bell.astype("f4"), "planes")
            table[f"{coder}.{number}.scale"] = ("float32", np.full(rows, 1.5, "f4"), "planes")
            table[f"{coder}.{number}.steps"] = ("int64", np.int64(0), "planes")
    return table


def scaled_tables(name, rows):
    """Return the scales and the offsets of channels: float32 that are exact in 16 bits."""
    scales = (1 + noise(rows, len(name)) % 60).astype("f4") / 256
    return scales, (noise(rows, 7 + len(name)) % 61 - 30).astype("f4") / 64


def scaled_tensors():
    """Return the tensors of ``v1-scaled.fly``, groups last."""
    tensors = []
    alone = [
        ("float32", (16, 40), "plain", False),
        ("float32", (16, 40), "interleaved", True),
        ("float16", (9, 4, 3, 3), "rans", True),
        ("bfloat16", (9, 4, 3, 3), "context", True),
        ("float64", (40,), "rans", False),
        ("float32", (0, 5), "plain", True),
        ("float32", (3, 0), "rans", False),
    ]
    sets = [
        ("float32", (rows, 4, 3, 3), coder, coder != "rans")
        for coder in ("plain", "interleaved", "rans", "context")
        for rows in (8, 5, 16)
    ]
    for number, (dtype, shape, coder, has_offsets) in enumerate(alone + sets):
        size = int(np.prod(shape))
        kept = noise(size, 60 + number) % 4 > 0
        codes = np.rint(weights(size, 500 + number) * 6).reshape(shape)
        # Level 0 is no zero where there are offsets; half levels tell channels from values.
        codes = (codes / 2 if has_offsets else codes) + 0.0  # one zero, as sorting keeps either
        used = np.unique(codes[kept.reshape(shape)])
        used = used if has_offsets else used[used != 0]
        kept = kept.reshape(shape) & np.isin(codes, used)
        symbols = np.where(kept, np.searchsorted(used, codes) + 1, 0)
        tables = [used, *scaled_tables(f"{number}{coder}", shape[0])][: 2 + has_offsets]
        if dtype == "bfloat16":
            tables = [table.astype("f4").view("u4") >> 16 for table in tables]
        levels, scales, *offsets = (table.astype(carrier(dtype)) for table in tables)
        made = prepare_shared(
            f"{coder}.{number}.weight",
            symbols,
            levels=levels,
            scales=scales,
            offsets=offsets[0] if offsets else None,
            dtype=dtype,
        )
        tensors.append(made)
    found = [tensor.encode(coder=coder_of(tensor)) for tensor in tensors[: len(alone)]]
    for first in range(len(alone), len(tensors), 3):
        group = tensors[first : first + 3]
        found += encode_tensors(group, coder=coder_of(group[0]))
    return found


def scaled_container():
    """Return the content of ``v1-scaled.fly``."""
    tensors = scaled_tensors()
    tensors.append(encode_alias("tied.weight", tensors[3], target=3))
    return Container(tensors=tuple(tensors), metadata={"made by": "flyweight"})


def scaled_values():
    """Return what they decode to, name -> (dtype, array, coder), computed by single steps."""
    table = {}
    for tensor in scaled_tensors():
        symbols, levels = decode_shared(tensor)
        tables = [levels, *(one for one in decode_channels(tensor) if one is not None)]
        if tensor.dtype == "bfloat16":
            tables = [(one.astype("u4") << 16).view("f4") for one in tables]
        elif tensor.dtype == "float16":
            tables = [one.astype("f4") for one in tables]
        levels, scales, *offsets = tables
        values = np.zeros(tensor.shape, levels.dtype)
        for channel, own in enumerate(symbols):
            products = np.append(levels[:1] * 0, levels)[own] * scales[channel]
            products = products + offsets[0][channel] if offsets else products
            values[channel] = np.where(own == 0, levels.dtype.type(0), products)
        if tensor.dtype == "bfloat16":  # to nearest, ties to even
            bits = values.view("u4")
            values = bits + 0x7FFF + (bits >> 16 & 1) >> 16
        table[tensor.name] = (tensor.dtype, values.astype(carrier(tensor.dtype)), tensor.coder)
    return table


def grouped_container():
    """Return the content of ``v1-groups.fly``."""
    tensors = {tensor.name: tensor for tensor in uncoded(grouped_arrays())}
    coded = {}
    for coder in ("plain", "interleaved", "rans", "context"):
        group = [tensor for tensor in tensors.values() if coder_of(tensor) == coder]
        coded |= {tensor.name: tensor for tensor in encode_tensors(group, coder=coder)}
    others = [tensor for tensor in tensors.values() if tensor.encoding != "shared"]
    coded |= {tensor.name: tensor for tensor in encode_tensors(others)}
    content = tuple(coded[name] for name in tensors)
    return Container(tensors=content, metadata={"architecture": "none", "recipe": "golden"})


def expected(table):
    """Return what a file must decode to: dtype, shape and little-endian bytes.

    Up to 256 bytes stand in hex, of more their SHA-256.
    """
    told = {}
    for name, (dtype, values, _) in table.items():
        raw = np.asarray(values).astype(carrier(dtype)).tobytes()
        content = {"hex": raw.hex()} if len(raw) <= 256 else {"sha256": sha256(raw).hexdigest()}
        told[name] = {"dtype": dtype, "shape": list(np.shape(values))} | content
    return told


def make():
    """Return stem -> (bytes of the file, what it decodes to)."""
    first = expected(arrays())
    coded = expected(coded_arrays())
    scaled = expected(scaled_values())
    scaled["tied.weight"] = scaled["context.3.weight"]
    return {
        "v1": (dumps(container()), first | {"tied.weight": first["layer1.0.conv1.weight"]}),
        "v1-coders": (dumps(coded_container()), coded),
        "v1-groups": (dumps(grouped_container()), expected(grouped_arrays())),
        "v1-scaled": (dumps(scaled_container()), scaled),
        "v1-bare": (dumps(coded_container(), bare=True), coded),
    }


if __name__ == "__main__":
    for stem, (data, told) in make().items():
        (FOLDER / f"{stem}.fly").write_bytes(data)
        text = json.dumps(told, indent=1, ensure_ascii=False)
        (FOLDER / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
