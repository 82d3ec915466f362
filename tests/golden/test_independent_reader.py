"""The package writes what `docs/format.md` says: a reader written from that text alone agrees."""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from flyweight.coding import (
    decode_tensor,
    encode_lossless,
    encode_shared,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.errors import FormatError
from flyweight.format import Container, dumps, loads

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from fly_reader import NUMPY, Cursor, huffman, interleaved, read_fly  # noqa: E402

CODERS = ["plain", "interleaved", "rans", "context"]
SHAPES = [(), (0,), (1,), (7, 5), (16, 3, 3, 3), (5000,)]


def symbols_of(shape, density, levels, seed=0):
    """Symbols of which the given share is not zero and those in the middle are frequent."""
    random = np.random.default_rng(seed)
    middle = np.clip(np.round(random.normal(levels / 2, levels / 6 + 0.3, shape)), 1, levels)
    return np.where(random.random(shape) < density, middle, 0).astype(np.int64)


def levels_of(count):
    levels = np.linspace(-0.7, 0.9, count) + 0.01
    return np.float32(levels)


def weights(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.04, shape).astype(np.float32)


def decoded(data, shapes):
    """What the package reads."""
    container = loads(data, shapes=shapes)
    result = {}
    for tensor in container.tensors:
        source = tensor if tensor.target is None else container.tensors[tensor.target]
        values = decode_tensor(source)
        result[tensor.name] = tensor.dtype, values.shape, values.tobytes()
    return result, dict(container.metadata)


def agree(*tensors, bare=False, **metadata):
    data = dumps(Container(tensors=tensors, metadata=metadata), bare=bare)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    result = read_fly(data, shapes if bare else None)
    assert result == decoded(data, shapes)
    assert list(result[0]) == list(shapes)
    return result[0]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.fly")), ids=lambda path: path.name)
def test_each_file_beside_this_one(path):
    expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    shapes = {name: tuple(facts["shape"]) for name, facts in expected.items()}
    tensors, _ = read_fly(path.read_bytes(), shapes)
    assert sorted(tensors) == sorted(expected)
    for name, (dtype, shape, raw) in tensors.items():
        assert dtype == expected[name]["dtype"]
        assert shape == shapes[name]
        if "hex" in expected[name]:
            assert raw.hex() == expected[name]["hex"]
        else:
            assert sha256(raw).hexdigest() == expected[name]["sha256"]


def test_the_example_in_the_text():
    assert interleaved(b"\xb0", b"\xc8", 6, 3).tolist() == [0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize("density", [0, 0.03, 0.3, 0.9, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("coder", CODERS)
def test_shared_tensors(coder, shape, density):
    for count in (1, 2, 15):
        symbols = symbols_of(shape, density, count)
        levels = levels_of(count)
        tensors = agree(encode_shared("a.b", symbols, levels=levels, coder=coder))
        assert tensors["a.b"][2] == np.append(np.float32(0), levels)[symbols].tobytes()


def scaled(name, rows=7, rest=(5,), dtype="float32", offsets=True, seed=0):
    """An uncoded tensor whose channels have scales, and maybe offsets, with all bits in use."""
    random = np.random.default_rng(seed)
    tables = [
        np.sort(random.normal(0, 3, 9)),
        random.normal(0, 0.1, rows),
        random.normal(0, 2, rows),
    ][: 2 + offsets]
    if dtype == "bfloat16":
        tables = [(table.astype("f4").view("u4") >> 16).astype("u2") for table in tables]
    levels, scales, *more = (table.astype(NUMPY[dtype]) for table in tables)
    return prepare_shared(
        name,
        symbols_of((rows, *rest), 0.7, 9, seed),
        levels=levels,
        scales=scales,
        offsets=more[0] if more else None,
        dtype=dtype,
    )


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("coder", CODERS)
def test_scales_and_offsets(coder, dtype, offsets):
    for rows, rest in ((7, (5,)), (20, (6, 3, 3)), (9, ()), (0, (4,)), (3, (0,))):
        agree(scaled("w", rows, rest, dtype, offsets).encode(coder=coder))


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("coder", CODERS)
def test_groups_with_scales(coder, bare):
    tensors = [scaled(f"{rows}.a", rows, (4,), seed=rows) for rows in (3, 8, 1)]
    tensors += [scaled(f"{rows}.b", rows, (4,), offsets=False) for rows in (5, 2)]
    tensors.append(prepare_shared("c", symbols_of((6, 4), 0.5, 9), levels=levels_of(9)))
    coded = encode_tensors(tensors, coder=coder)
    assert [tensor.member for tensor in coded] == [0, 1, 2, 0, 1, 0]
    agree(*coded, bare=bare)


@pytest.mark.parametrize("coder", CODERS)
def test_many_levels(coder):
    symbols = symbols_of((60, 500), 0.8, 700)
    agree(encode_shared("w", symbols, levels=levels_of(700), coder=coder))


@pytest.mark.parametrize("shape", [(40, 50, 7), (12, 10, 5, 5), (4, 6, 3, 3, 3)], ids=str)
def test_contexts_of_smooth_kernels(shape):
    """Neighbors are alike, so contexts by kernel are worth it."""
    random = np.random.default_rng(1)
    smooth = random.normal(0, 3, shape[:2] + (1,) * (len(shape) - 2)) + random.normal(0, 0.5, shape)
    values = np.clip(np.round(smooth), -8, 8).astype(np.int64)
    symbols = np.where(values < 0, values + 9, np.where(values > 0, values + 8, 0))
    levels = np.float32([*range(-8, 0), *range(1, 9)]) / 16
    agree(encode_shared("w", symbols, levels=levels, coder="context"))


def test_contexts_of_rows_and_columns_of_unlike_size():
    random = np.random.default_rng(2)
    scale = random.gamma(1, 1, (120, 1)) * random.gamma(1, 1, (1, 90))
    values = np.clip(np.round(random.normal(0, 20, scale.shape) * scale), -500, 500)
    values = values.astype(np.int64)
    symbols = np.where(values < 0, values + 501, np.where(values > 0, values + 500, 0))
    levels = np.float32([*range(-500, 0), *range(1, 501)]) / 1024
    agree(encode_shared("w", symbols, levels=levels, coder="context"))


@pytest.mark.parametrize("shape", [(50_000,), (300, 200), (9,), (), (0,)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16", "complex64"])
def test_floats_without_loss(dtype, shape):
    values = weights(shape)
    if dtype == "bfloat16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "complex64":
        values = (values + 1j * weights(shape, 1)).astype(np.complex64)
    else:
        values = values.astype(dtype)
    tensors = agree(encode_lossless("w", values, dtype=dtype))
    assert tensors["w"] == (dtype, shape, values.tobytes())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_small_floats_without_loss(dtype):
    values = symbols_of((50_000,), 0.9, 90).astype(np.uint8)
    agree(encode_lossless("w", values, dtype=dtype))


@pytest.mark.parametrize("spread", [0.4, 30, 3e4, 3e9])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint64", "int16", "uint8"])
def test_integers_without_loss(dtype, spread):
    information = np.iinfo(dtype)
    values = np.abs(np.random.default_rng(3).normal(0, spread, 30_000))
    values = np.clip(values, 0, min(information.max, 1 << 60)).astype(dtype)
    agree(encode_lossless("w", values, dtype=dtype), encode_lossless("v", values[:7], dtype=dtype))


@pytest.mark.parametrize("density", [0, 0.01, 0.5, 1])
def test_booleans_without_loss(density):
    values = np.random.default_rng(4).random(30_001) < density
    agree(
        encode_lossless("w", values, dtype="bool"), encode_lossless("v", values[:77], dtype="bool")
    )


def test_narrow_storage():
    half = weights((300, 70)).astype(np.float16)
    upper = (weights((300, 70)).view(np.uint32) & 0xFFFF0000).view(np.float32)
    agree(
        encode_lossless("half", half.astype(np.float32), dtype="float32"),
        encode_lossless("upper", upper, dtype="float32"),
        encode_lossless("single", weights((300, 70)).astype(np.float64), dtype="float64"),
        encode_lossless("few", upper[0, :5], dtype="float32"),
        encode_lossless("far", upper[0, :5] * np.float32(2**60), dtype="float32"),
    )


def test_more_than_a_block_of_few_values():
    values = np.zeros(150_000, np.float32)
    values[70_000:] = weights((80_000,)).astype(np.float16)
    agree(encode_lossless("w", values, dtype="float32"))


def many():
    return (
        *(
            encode_lossless(f"net.{i}.weight", weights((i, 40), i), dtype="float32")
            for i in range(40)
        ),
        encode_shared("net.w", symbols_of((90, 90), 0.4, 9), levels=levels_of(9), coder="rans"),
        encode_shared("", symbols_of((90, 9), 0.4, 9), levels=levels_of(9), coder="plain"),
        encode_lossless("a..b", np.full((3, 4), 7), dtype="int64"),
        encode_lossless("nothing", np.zeros((3, 4), np.float32), dtype="float32"),
    )


@pytest.mark.parametrize("bare", [False, True])
def test_many_tensors_and_metadata(bare):
    agree(*many(), bare=bare, architecture="none", 用="ü", a="")


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("coder", CODERS)
def test_groups(coder, bare):
    tensors = []
    for layer in range(5):
        rows, rest = 3 + 2 * layer, (4, 3, 3) if layer < 4 else (4, 3, 2)
        symbols = symbols_of((rows, *rest), 0.6, 3 + layer, layer)
        tensors.append(prepare_shared(f"{layer}.w", symbols, levels=levels_of(3 + layer)))
        values = weights((60 + layer,), layer).astype("f2").astype("f4")
        tensors.append(prepare_lossless(f"{layer}.b", values, dtype="float32"))
        one = np.full(rows, 1 if layer < 3 else 2, "f4")
        tensors.append(prepare_lossless(f"{layer}.s", one, dtype="float32"))
    coded = encode_tensors(tensors, coder=coder)
    assert [t.member for t in coded if t.encoding == "shared"] == [0, 1, 2, 3, 0]
    agree(*coded, bare=bare, architecture="a", recipe="b", z="c")


def test_no_tensors():
    agree()
    agree(bare=True)


def test_a_bare_file_is_not_read_as_another_architecture():
    tensors = many()
    data = dumps(Container(tensors=tensors, metadata={}), bare=True)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for other in (None, {}, {**shapes, "more": ()}, {**shapes, "nothing": (4, 3)}):
        with pytest.raises(ValueError, match="bare"):
            read_fly(data, other)


def test_each_damage_is_found():
    symbols = symbols_of((7, 5), 0.6, 5)
    tensor = encode_shared("w", symbols, levels=levels_of(5), coder="plain")
    data = dumps(Container(tensors=(tensor,), metadata={"a": "b"}), bare=False)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            read_fly(data[:length])
        changed = bytearray(data)
        changed[length] ^= 1 << length % 8
        with pytest.raises(ValueError, match=r"."):
            read_fly(bytes(changed))
    with pytest.raises(ValueError, match="longer"):
        read_fly(data + b"\0")


def sealed(data, header_end):
    """The file of one group with all its CRCs made anew."""
    data = bytearray(data)
    data[header_end : header_end + 4] = crc32(data[header_end + 8 : -4]).to_bytes(4, "little")
    data[header_end + 4 : header_end + 8] = crc32(data[: header_end + 4]).to_bytes(4, "little")
    data[-4:] = crc32(data[:-4]).to_bytes(4, "little")
    return bytes(data)


def outcome(reader, *arguments):
    try:
        return reader(*arguments)
    except (ValueError, FormatError):
        return "refused"


@pytest.mark.parametrize("kind", [*CODERS, "planes", "scaled", "scaled bfloat16"])
def test_both_refuse_the_same_files(kind):
    """Files with a changed byte and true CRCs: both refuse one, or both read the same."""
    if kind == "planes":
        tensor = encode_lossless("w", weights((1500,)), dtype="float32")
    elif kind.startswith("scaled"):
        tensor = scaled("w", 30, (12,), "bfloat16" if "bf" in kind else "float32")
        tensor = tensor.encode(coder="plain")
    else:
        symbols = symbols_of((9, 4, 3, 3), 0.5, 6)
        tensor = encode_shared("w", symbols, levels=levels_of(6), coder=kind)
    data = dumps(Container(tensors=(tensor,), metadata={}), bare=False)
    cursor = Cursor(data)
    coded = cursor.take(6)[5]
    length, *_, checks = [cursor.varint() for _ in range(4 if coded else 2)]
    assert checks == 1
    header_end = cursor.at + length
    assert sealed(data, header_end) == data
    random = np.random.default_rng(5)
    places = [*range(cursor.at, header_end), *range(header_end + 8, header_end + 60)]
    places += random.integers(header_end + 8, len(data) - 4, 60).tolist()
    for place in places:
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        changed = sealed(changed, header_end)
        assert outcome(read_fly, changed) == outcome(decoded, changed, {}), place


def test_streams_of_no_symbols():
    assert huffman(b"", b"", 0, 5).tolist() == interleaved(b"", b"", 0, 5).tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("coder", CODERS)
def test_several_chunks(coder):
    symbols = symbols_of((4300, 1000), 0.02, 3)
    agree(encode_shared("w", symbols, levels=levels_of(3), coder=coder))


@pytest.mark.slow
def test_several_chunks_of_planes():
    values = (weights((1 << 20) + 70_000).view(np.uint32) >> 16).astype(np.uint16)
    agree(encode_lossless("w", values, dtype="bfloat16"))
