"""The package and a reader that was written from `docs/format.md` alone read the same.

They read what the package writes, what the small writer below writes, and damaged files.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import sys
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.coding import (
    carrier,
    decode_tensor,
    encode_lossless,
    encode_shared,
    encode_tensors,
    prepare_lossless,
    prepare_shared,
)
from flyweight.coding.varint import varint
from flyweight.errors import FormatError
from flyweight.format import Container, dumps, loads

FOLDER = Path(__file__).parent
HOSTILE = FOLDER.parent / "hostile" / "files"
sys.path.insert(0, str(FOLDER))

from fly_reader import ITEM, NAMES, SCALED, STORAGES, Cursor, converted, read_fly  # noqa: E402

CODERS = ["huffman", "rans", "context"]
FLOATS = [*SCALED, "complex64", "complex128"]


def decoded(data, shapes=None):
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


def test_the_example_in_the_text():
    text = (FOLDER.parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    example = text[text.index("## Example") : text.index("## The header")]
    data = bytes.fromhex(" ".join(re.findall(r"^\| `([0-9a-f ]+)` \|", example, re.MULTILINE)))
    assert f"A whole file of {len(data)} bytes" in example
    expected = {
        "a.w": ("float32", (2, 3), np.float32([0, 0, 0, -0.5, 0, 0.25]).tobytes()),
        "a.b": ("float32", (2,), np.float32([1, 1]).tobytes()),
    }
    assert read_fly(data) == decoded(data) == (expected, {})
    weight = encode_shared("a.w", [[0, 0, 0], [1, 0, 2]], levels=np.float32([-0.5, 0.25]))
    bias = encode_lossless("a.b", np.ones(2, "f4"), dtype="float32")
    assert loads(data).tensors == (weight, bias)


# Files of the package


def symbols_of(shape, density, levels, seed=0):
    """Symbols of which the given share is not zero and those in the middle are frequent."""
    random = np.random.default_rng(seed)
    middle = np.clip(np.round(random.normal(levels / 2, levels / 6 + 0.3, shape)), 1, levels)
    return np.where((random.random(shape) < density) & (levels > 0), middle, 0).astype(np.int64)


def floats(size, dtype, scale=1.0, seed=0):
    """Ascending values of a dtype that can have scales."""
    values = np.sort(np.random.default_rng(seed).normal(0, scale, size)).astype("f4")
    return values.view("u4") >> 16 if dtype == "bfloat16" else values


def quantized(name, shape, dtype, levels, density, tables, seed):
    """An uncoded tensor, whose channels may have scales, and offsets beside these."""
    symbols = symbols_of(shape, density, levels, seed)
    arrays = [floats(n, dtype, 2, seed + n) for n in (levels, *shape[:1] * tables)]
    made = [array.astype(carrier(dtype)) for array in arrays] + [None, None]
    channels = {"scales": made[1], "offsets": made[2]} if tables else {}
    return prepare_shared(name, symbols, levels=made[0], dtype=dtype, **channels)


shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple) | st.just((5000,))
seeds = st.integers(0, 999)
densities = st.sampled_from([0, 0.03, 0.3, 0.9, 1])
level_counts = st.sampled_from([0, 1, 2, 15, 300])


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(CODERS), shapes, st.sampled_from(SCALED), densities, seeds)
def test_shared_tensors(data, coder, shape, dtype, density, seed):
    tables = data.draw(st.integers(0, 2 if shape else 0))
    levels = data.draw(level_counts)
    agree(quantized("a.b", shape, dtype, levels, density, tables, seed).encode(coder=coder))


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from(CODERS), st.booleans())
def test_groups(data, coder, bare):
    tensors = []
    for number in range(data.draw(st.integers(2, 6))):
        rows, seed, kind = data.draw(st.tuples(st.integers(1, 9), seeds, st.integers(0, 5)))
        shape, levels = (rows, 4, 3), data.draw(st.sampled_from([3, 9]))
        if kind < 3:
            made = quantized(f"{number}.w", shape, "float32", levels, 0.6, kind, seed % 2)
        elif kind == 3:
            values = floats(40 * rows, "float32", seed=seed).astype("f2").astype("f4")
            made = prepare_lossless(f"{number}.b", values, dtype="float32")
        else:
            made = prepare_lossless(f"{number}.s", np.full(rows, kind, "f4"), dtype="float32")
        tensors.append(made)
    agree(*encode_tensors(tensors, coder=coder), bare=bare, architecture="a", recipe="b", z="c")


def test_a_group_of_more_levels_on_both_sides_of_zero_than_symbols():
    levels = np.arange(1, 40_001, dtype="f4") / 65536
    below = prepare_shared("below", [[1], [2]], levels=-levels[::-1])
    above = prepare_shared("above", [[25_536], [7]], levels=levels)
    read = agree(*encode_tensors([below, above], coder="context"))
    assert read["above"][2] == levels[[25_535, 6]].tobytes()


@pytest.mark.parametrize("shape", [(40, 20, 7), (12, 10, 5, 5), (4, 6, 3, 3, 3)], ids=str)
def test_contexts_of_smooth_kernels(shape):
    """Neighbors are alike, so contexts by kernel are worth it."""
    random = np.random.default_rng(1)
    smooth = random.normal(0, 3, shape[:2] + (1,) * (len(shape) - 2)) + random.normal(0, 0.5, shape)
    values = np.clip(np.round(smooth), -8, 8).astype(np.int64)
    symbols = np.where(values == 0, 0, values + 8 + (values < 0))
    levels = np.float32([*range(-8, 0), *range(1, 9)]) / 16
    agree(encode_shared("w", symbols, levels=levels, coder="context"))


def test_contexts_of_rows_and_columns_of_unlike_size():
    random = np.random.default_rng(2)
    scale = random.gamma(1, 1, (120, 1)) * random.gamma(1, 1, (1, 90))
    values = np.clip(np.round(random.normal(0, 20, scale.shape) * scale), -500, 500)
    symbols = np.where(values == 0, 0, values + 500 + (values < 0)).astype(np.int64)
    levels = np.float32([*range(-500, 0), *range(1, 501)]) / 1024
    agree(encode_shared("w", symbols, levels=levels, coder="context"))


def dense_values(kind, size, dtype, seed=0):
    """Values of any dtype: bits that are constant, few, arbitrary, often zero and so on."""
    random = np.random.default_rng(seed)
    item = carrier(dtype).itemsize
    words = {
        "constant": np.full(size, seed),
        "few": random.integers(0, 7, size),
        "any": random.integers(0, 1 << min(8 * item - 1, 62), size),
        "zeros": random.integers(0, 99, size) * (random.random(size) < 0.02),
        "ascending": np.arange(size) * 7 % (1 << min(8 * item - 1, 62)),
        "repeated": np.tile(random.integers(0, 256, 97), size // 97 + 1)[:size],
    }[kind]
    if dtype == "bool":
        return words % 2 == 1
    if dtype.startswith("complex"):
        return (words / 64 + 1j).astype(carrier(dtype))
    return words.astype(f"<u{item}").view(carrier(dtype))


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(["constant", "few", "any", "zeros", "repeated"]),
    st.lists(st.integers(0, 20), max_size=3).map(tuple) | st.just((3000,)),
    seeds,
)
def test_dense_tensors(dtype, kind, shape, seed):
    values = dense_values(kind, prod(shape), dtype, seed).reshape(shape)
    tensors = agree(encode_lossless("w", values, dtype=dtype))
    assert tensors["w"] == (dtype, shape, values.tobytes())


@pytest.mark.parametrize(
    ("coder", "kind"),
    [
        *[("raw", "any"), ("planes", "few"), ("sparse", "zeros")],
        *[("matches", "repeated"), ("matches", "ascending")],
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_coders_of_dense_tensors(coder, kind, dtype):
    values = dense_values(kind, 20_000, dtype)
    tensor = encode_lossless("w", values, dtype=dtype, coder=coder)
    assert tensor.coder == coder
    assert agree(tensor)["w"][2] == values.tobytes()


@pytest.mark.parametrize(
    ("dtype", "storage"), [(dtype, storage) for dtype in STORAGES for storage in STORAGES[dtype]]
)
def test_narrow_storage(dtype, storage):
    """All values of eight bits, and many of more, that are not refused."""
    item = ITEM[storage]
    stored = (np.arange(256 if item == 1 else 5000) * (256**item // 5000 | 1)).astype(f"<u{item}")
    raws = []
    for raw in stored:
        with contextlib.suppress(ValueError):
            raws.append(converted(raw.tobytes(), dtype, storage))
    values = np.frombuffer(b"".join(raws), carrier(dtype))
    assert values.size > stored.size * 0.9
    tensor = encode_lossless("w", values, dtype=dtype, storage=storage)
    assert tensor.storage == storage
    assert agree(tensor)["w"][2] == values.tobytes()


def many():
    return (
        *(
            encode_lossless(f"net.{i}.weight", floats(i * 40, "float32", seed=i), dtype="float32")
            for i in range(40)
        ),
        encode_shared("net.w", symbols_of((90, 90), 0.4, 9), levels=floats(9, "f4"), coder="rans"),
        encode_shared("", symbols_of((90, 9), 0.4, 9), levels=floats(9, "f4"), coder="huffman"),
        encode_lossless("a..b", np.full((3, 4), 7), dtype="int64"),
        encode_lossless("nothing", np.zeros((3, 4), np.float32), dtype="float32"),
    )


@pytest.mark.parametrize("bare", [False, True])
def test_many_tensors_and_metadata(bare):
    agree(*many(), bare=bare, architecture="none", 用="ü", a="")


def test_no_tensors():
    agree()
    agree(bare=True)


def test_blocks_of_several_tensors():
    values = dense_values("any", 9000, "int64")
    sizes = (3, 8191, 4, 8192, 5, 9000, 6, 7, 8000, 3000, 2)
    agree(*(encode_lossless(f"{n}", values[:n], dtype="int64") for n in sizes))


def test_a_bare_file_is_not_read_as_another_architecture():
    tensors = many()
    data = dumps(Container(tensors=tensors, metadata={}), bare=True)
    known = {tensor.name: tensor.shape for tensor in tensors}
    for other in (None, {}, {**known, "more": ()}, {**known, "nothing": (4, 3)}):
        with pytest.raises(ValueError, match="bare"):
            read_fly(data, other)


# Files of a small writer


def packed_bits(bits, order="big"):
    return np.packbits(np.array(bits, np.uint8), bitorder=order).tobytes()


def equal_lengths(symbols, bits):
    """A Huffman stream of less than 4096 symbols, whose codewords all have so many bits."""
    stream = [symbol >> place & 1 for symbol in symbols for place in reversed(range(bits))]
    return packed_bits([0] * (1 << bits)), packed_bits(stream, "little")


def raw_planes(raw, dtype):
    """Byte planes of less than 65,536 values, all of them as they are."""
    width = ITEM[dtype] // (2 if dtype.startswith("complex") else 1)
    words = np.frombuffer(raw, f"<u{width}")
    if dtype in FLOATS:
        words = words << 1 | words >> (8 * width - 1)
    planes = words.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T
    return bytes(-(-width // 4)) + planes.tobytes() if len(words) else b""


def file_of(*tensors, flags=0):
    """A file of tensors: kind, shape, number of levels or None, parts, which lengths are stated."""
    header = varint(0) + varint(len(tensors))
    components, kinds, extents = [], [], []
    for place, (kind, shape, levels, parts, stated) in enumerate(tensors):
        header += b"\0\1" + varint(len(components)) + varint(1) + bytes([97 + place])
        components.append(place)
        for value, seen, new in ((kind, kinds, bytes(kind)), (shape, extents, bytes(shape))):
            number = seen.index(value) if value in seen else len(seen)
            header += varint(number)
            if number == len(seen):
                seen.append(value)
                header += new if seen is kinds else varint(len(shape)) + new
        header += b"" if levels is None else varint(levels)
        header += b"".join(varint(len(parts[part])) for part in stated)
    payload = b"".join(part for tensor in tensors for part in tensor[3])
    head = b"FLYW\1" + bytes([flags]) + varint(len(header)) + varint(bool(payload)) + header
    head += crc32(payload).to_bytes(4, "little") if payload else b""
    data = head + crc32(head).to_bytes(4, "little") + payload
    return data + crc32(data).to_bytes(4, "little")


def dense_file(form, dtype, values, distance):
    """A file of one dense tensor; matches are of differences at a distance, if it is not 0."""
    number, raw, item = NAMES.index(dtype), values.tobytes(), ITEM[dtype]
    if form == 0:
        kept = [any(raw[at : at + item]) for at in range(0, len(raw), item)]
        nonzero = b"".join(raw[at * item :][:item] for at, bit in enumerate(kept) if bit)
        parts = b"\1", packed_bits(kept), raw_planes(nonzero, dtype)
    elif form == 9:
        size = min(max(4096, 1 << (len(raw) - 1).bit_length()), 1 << 26)
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": size, "lc": 1, "lp": 2, "pb": 1}]
        if distance:
            filters.insert(0, {"id": lzma.FILTER_DELTA, "dist": distance})
        parts = (bytes([distance]) + lzma.compress(raw, lzma.FORMAT_RAW, filters=filters),)
    else:
        parts = (raw if form == 1 else raw_planes(raw, dtype),)
    stated = {0: (0, 1, 2), 1: (), 8: (0,), 9: (0,)}[form]
    return file_of(((form, number, number), values.shape, None, parts, stated))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([0, 1, 8, 9]), st.sampled_from(NAMES), st.integers(0, 120), seeds)
def test_dense_tensors_of_another_writer(form, dtype, size, seed):
    if dtype == "bool" and form in (0, 8):
        dtype = "uint8"  # whose planes have another form
    values = dense_values("zeros" if seed % 2 else "any", size, dtype, seed)
    data = dense_file(form, dtype, values, seed % 17)
    assert read_fly(data) == decoded(data) == ({"a": (dtype, (size,), values.tobytes())}, {})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1)), max_size=20), seeds)
def test_groups_of_another_writer(rest, seed):
    """Huffman-coded tensors in two groups, each with a codebook of its own."""
    random = np.random.default_rng(seed)
    members, expected = {0: [], 1: []}, {}
    for place, (rows, group) in enumerate([(2, 0), (1, 1), *rest]):
        symbols = random.integers(0, 8, (rows, 2 + group))
        book = floats(7, "float32", seed=seed + place).astype("f2")
        members[group].append((place, symbols, book.tobytes()))
        values = np.append(np.float16(0), book)[symbols].astype("f4")
        expected[chr(97 + place)] = "float32", symbols.shape, values.tobytes()
    tensors = [None] * len(expected)
    for group in members.values():
        table, payload = equal_lengths(np.concatenate([m[1].ravel() for m in group]), 3)
        for number, (place, symbols, book) in enumerate(group):
            parts, stated = ((book,), ()) if number else ((table, book, payload), (0, 2))
            tensors[place] = (5 + 16 * (number > 0), 11, 9), symbols.shape, 7, parts, stated
    data = file_of(*tensors)
    assert read_fly(data) == decoded(data) == (expected, {})


UNSOUND = {
    "an alias of itself": [((3, 1, 1), (), None, (), ())],
    "form 10": [((10, 1, 1), (1,), None, (b"1",), ())],
    "constant and NaN in float16": [((2, 11, 9), (1,), None, (b"\1\x7e",), ())],
    "constant and NaN in float8_e4m3fn": [((2, 11, 13), (1,), None, (b"\xff",), ())],
    "constant and infinite float8_e5m2": [((2, 11, 14), (1,), None, (b"\x7c",), ())],
    "float8 for float16": [((2, 9, 14), (1,), None, (b"\1",), ())],
    "sparse in a group": [
        ((0, 1, 1), (1,), None, (b"", b"", b"\0\1"), (0, 1, 2)),
        ((16, 1, 1), (1,), None, (), ()),
    ],
    "bit 7": [
        ((5, 1, 1), (1,), 0, (b"", b"", b""), (0, 2)),
        ((128 + 16 + 5, 1, 1), (1,), 0, (), ()),
    ],
    "matches of a wrong distance": [((9, 1, 1), (1,), None, (b"\x11\1\0\0a\0",), (0,))],
    "matches that end early": [((9, 1, 1), (2,), None, (b"\0\1\0\0a\0",), (0,))],
    "matches that end late": [((9, 1, 1), (1,), None, (b"\0\1\0\1ab\0",), (0,))],
    "matches without an end": [((9, 1, 1), (1,), None, (b"\0\1\0\0a",), (0,))],
    "bytes after matches": [((9, 1, 1), (1,), None, (b"\0\1\0\0a\0\0",), (0,))],
    "too few values apart": [((0, 1, 1), (2,), None, (b"", b"", b"\0\1"), (0, 1, 2))],
    "too many elements": [((4, 8, 8), (64, 127, 127, 9), None, (), ())],
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_files_of_another_writer(name):
    data = file_of(*UNSOUND[name])
    with pytest.raises(ValueError, match=r"."):
        read_fly(data)
    with pytest.raises(FormatError):
        decoded(data)


@pytest.mark.parametrize("name", ["many_tensors", "many_strings", "long_names"])
def test_files_too_short_for_what_they_state(name):
    data = (HOSTILE / f"{name}.fly").read_bytes()
    with pytest.raises(ValueError, match=r"too (many|long)"):
        read_fly(data)
    with pytest.raises(FormatError):
        decoded(data)


def test_sound_files_beside_the_unsound_ones():
    data = file_of(((9, 1, 1), (1,), None, (b"\0\1\0\0a\0",), (0,)))
    assert read_fly(data) == decoded(data) == ({"a": ("uint8", (1,), b"a")}, {})
    data = file_of(((4, 8, 8), (64, 127, 127, 8), None, (), ()))
    assert read_fly(data)[0]["a"][1] == decoded(data)[0]["a"][1] == (64, 127, 127, 8)


# Damaged files


def test_each_damage_is_found():
    tensor = encode_shared("w", symbols_of((7, 5), 0.6, 5), levels=floats(5, "f4"), coder="huffman")
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
    """The file of one block with all its CRCs made anew."""
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


def tensors_of(kind):
    """Coded tensors of a coder; of one that codes symbols, a group of two."""
    if kind in CODERS:
        group = [quantized(name, (9, 4, 3, 3), "float32", 6, 0.5, 0, 1) for name in "wv"]
        return encode_tensors(group, coder=kind)
    if kind.startswith("scaled"):
        return [quantized("w", (30, 12), kind[7:], 9, 0.7, 2, 0).encode(coder="huffman")]
    content = {"planes": "few", "sparse": "zeros", "matches": "repeated"}[kind]
    values = dense_values(content, 1500, "float64")
    return [encode_lossless("w", values, dtype="float64", coder=kind)]


KINDS = [*CODERS, "planes", "sparse", "matches", "scaled bfloat16", "scaled float32"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_refuse_the_same_files(kind):
    """Files with a changed byte and true CRCs: both refuse one, or both read the same."""
    data = dumps(Container(tensors=tuple(tensors_of(kind)), metadata={}), bare=False)
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
        changed[min(place, len(data) - 5)] ^= int(random.integers(1, 256))
        changed = sealed(changed, header_end)
        assert outcome(read_fly, changed) == outcome(decoded, changed), place


@pytest.mark.slow
@pytest.mark.parametrize("coder", CODERS)
def test_several_chunks(coder):
    symbols = symbols_of((4300, 1000), 0.02, 3)
    agree(encode_shared("w", symbols, levels=floats(3, "float32"), coder=coder))


@pytest.mark.slow
def test_several_chunks_of_planes():
    values = floats((1 << 20) + 70_000, "bfloat16").astype(np.uint16)
    agree(encode_lossless("w", values, dtype="bfloat16"))
