"""Any bytes whatever either load or raise `FormatError`, in bounded memory."""

from __future__ import annotations

import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sealing import file_of, sealed

from flyweight.coding import (
    DTYPES,
    decode,
    decode_huffman,
    decode_tensor,
    encode_alias,
    encode_constant,
    encode_huffman,
    encode_lossless,
    encode_shared,
)
from flyweight.coding.lossless import decode_matches
from flyweight.coding.rans import decode_rans
from flyweight.coding.varint import varint
from flyweight.errors import FormatError
from flyweight.format import Container, dumps, loads
from flyweight.size_report import inspect

GOLDEN = (Path(__file__).parents[1] / "golden" / "v1.fly").read_bytes()


def small_container():
    rng = np.random.default_rng(3)
    symbols = rng.integers(1, 4, (8, 4, 3)) * (rng.random((8, 4, 3)) < 0.3)
    weight = encode_shared("a.weight", symbols, levels=np.float32([-1, 0.5, 2]))
    return Container(
        tensors=(
            weight,
            encode_lossless("a.bias", np.float32([0.1, 0.2]), dtype="float32"),
            encode_constant("a.steps", (), value=np.int64(9), dtype="int64"),
            encode_alias("b.weight", weight, target=0),
            encode_lossless("flags", np.array([True, False, True]), dtype="bool"),
        ),
        metadata={"k": "v"},
    )


SMALL = dumps(small_container())
ONE, _ = encode_huffman(np.uint8([1]), 2)  # a table of one byte


def open_all(data):
    """Load, and decode every tensor; only `FormatError` may come out."""
    container = loads(data)
    for tensor in container.tensors:
        if tensor.encoding != "alias":
            decode_tensor(tensor)
    return container


def word(text):
    return varint(len(text)) + text


def one_tensor(encoding, dtype, storage, shape, rest=b"", name=b"t"):
    """Return a header of one tensor, field by field."""
    kind = bytes([encoding, DTYPES.index(dtype), DTYPES.index(storage)])
    extents = varint(len(shape)) + b"".join(map(varint, shape))
    return b"\0\1" + b"\0\1\0" + word(name) + b"\0" + kind + b"\0" + extents + rest


@contextmanager
def memory_below(limit):
    """Fail if Python and numpy together take more than ``limit`` bytes at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


def test_builders_of_files_match_the_writer():
    container = small_container()
    assert open_all(sealed(container.tensors, container.metadata)) == container
    data = file_of(one_tensor(4, "float32", "float32", (2, 3)))
    assert loads(data).tensors == (
        encode_constant("t", (2, 3), value=np.float32(0), dtype="float32", storage="float32"),
    )


@pytest.mark.parametrize("data", [SMALL, GOLDEN], ids=["small", "golden"])
def test_loads_refuses_a_file_cut_anywhere_and_any_flipped_byte(data):
    for place in range(0, len(data), 1 if len(data) < 1000 else 31):
        with pytest.raises(FormatError):
            loads(data[:place])
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= change
            with pytest.raises(FormatError):
                loads(bytes(damaged))


def test_loads_refuses_random_bytes():
    rng = np.random.default_rng(0)
    for length in range(200):
        noise = rng.bytes(length)
        for data in (noise, b"FLYW" + noise, b"FLYW\1\0" + noise, b"FLYW\1\1" + noise):
            with pytest.raises(FormatError):
                loads(data)


VAST = [
    one_tensor(4, "float32", "float32", (1 << 40,)),
    one_tensor(4, "float32", "float32", (1 << 20, 1 << 20)),
    one_tensor(4, "bool", "bool", (1 << 27,)),
    one_tensor(4, "float32", "float32", (1 << 62,) * 30),
    one_tensor(1, "float32", "float32", (1 << 40,)),
    *(one_tensor(form, "float32", "float32", (1 << 40,), b"\1\0\0") for form in (5, 6, 7)),
    *(one_tensor(form, "float32", "float32", (1 << 40,), b"\1") for form in (8, 9)),
    one_tensor(0, "float32", "float32", (1 << 40,), b"\1\0\0"),
    one_tensor(0, "float32", "float32", (8,), varint(1 << 62) * 3),
    one_tensor(5, "float32", "float32", (8,), varint(1 << 60) + b"\1\0"),
    one_tensor(5, "float32", "float32", (8,), b"\0" + varint(1 << 62) * 2),
    one_tensor(37, "float32", "float16", (1 << 40, 0), b"\1\0\0"),
    one_tensor(103, "float64", "float64", (1 << 40, 0), b"\1\0\0"),
    b"\0" + varint(1 << 60),
    varint(1 << 60),
    b"\0\1\0" + varint(1 << 60),
    b"\0\1\0\1\0" + varint(1 << 60),
    one_tensor(4, "float32", "float32", ())[:-1] + varint(1 << 50),
]


@pytest.mark.parametrize("header", VAST)
def test_loads_allocates_nothing_for_vast_counts(header):
    for payload in ((), (b"\1",), (b"\1" + bytes(4),), (bytes(1000),)):
        with memory_below(1 << 20), pytest.raises(FormatError):
            loads(file_of(header, *payload))


def test_loads_refuses_vast_lengths_in_the_preamble():
    for data in (
        b"FLYW\1\0" + varint(1 << 60) + b"\0" + bytes(100),
        b"FLYW\1\0" + b"\2" + varint(1 << 60) + bytes(100),
        file_of(b"\0\0", flags=1, sizes=varint(1 << 60) + b"\1"),
        file_of(b"\0\0", flags=1, sizes=b"\2" + varint(1 << 60)),
        file_of(encode_huffman(np.uint8([0, 0]), 256)[0], flags=1, sizes=varint(1 << 40) + b"\2"),
    ):
        with memory_below(1 << 20), pytest.raises(FormatError):
            loads(data)


def test_loads_bounds_bytes_of_tensors_by_the_file():
    header = one_tensor(4, "bool", "bool", (1 << 20,))
    with memory_below(4 << 20):
        (tensor,) = open_all(file_of(header)).tensors
    assert tensor.size == 1 << 20
    three = b"\0\3" + b"\0\1\0" + word(b"t") + b"\0\4\20\20" + b"\0\1" + varint(3 << 19)
    three += b"\0\1\1" + word(b"u") + b"\0\0" + b"\0\1\2" + word(b"v") + b"\0\0"
    with pytest.raises(FormatError, match="75497472 bytes in all"):
        loads(file_of(three))


def test_decode_bounds_memory_of_a_long_table():
    long = b"\x0f" + bytes(500_000)
    for decoder in (decode_huffman, decode_rans):
        for alphabet in (9, 1 << 16):
            with memory_below(20 * len(long)), pytest.raises(FormatError):
                decoder(long, bytes(9), 40, alphabet)


def test_decode_matches_bounds_memory():
    values = np.zeros(1 << 24, dtype=np.uint8)
    tensor = encode_lossless("t", values, dtype="uint8", coder="matches")
    with memory_below(1 << 20), pytest.raises(FormatError):
        decode_matches(tensor.parts["dense"], 1000)


@pytest.mark.parametrize("coder", range(4))
@pytest.mark.parametrize("shape", [(0, 1 << 62, 1 << 62), (0,) * 33])
def test_decode_refuses_vast_extents_without_values(shape, coder):
    with pytest.raises(FormatError, match=r"shape|dimensions"):
        decode(bytes([coder, 1]) + b"".join(map(varint, (len(shape), *shape))))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file_of(b"\0\0", version=0), "version 0"),
        (file_of(b"\0\0", flags=4), "flags"),
        (file_of(b"\0\0\0"), "bytes too many"),
        (file_of(b"\0\0", b"x"), "1 checksums for 0 blocks"),
        (file_of(b"\0\0") + b"x", "followed"),
        (file_of(b"\0\0", checks=1), "cut short|checksum"),
        (file_of(b"\1" + b"\3\xff" + word(b"v") + b"\0"), "UTF-8"),
        (file_of(b"\2" + (b"\3k" + word(b"v")) * 2 + b"\0"), "repeated"),
        (file_of(b"\2" + (b"\1" + word(b"v")) * 2 + b"\0"), "repeated"),
        (file_of(b"\0\1" + b"\0\1\0\1t" + b"\1\1\1"), "repeats 1 tensors from 1 before number 0"),
        (file_of(b"\0\1" + b"\0\1\0\1t" + b"\3"), "kind 3 where 0 are known"),
        (file_of(one_tensor(4, "bool", "bool", (), name=b"\xc3\x28")), "UTF-8"),
        (file_of(one_tensor(4, "bool", "bool", (), name=b"\xed\xa0\x80")), "UTF-8"),
        (file_of(one_tensor(4, "bool", "bool", (), name=b"a.b")), "dot"),
        (file_of(one_tensor(4, "bool", "bool", (), name=b"n" * 1025)), "longer"),
        (file_of(one_tensor(10, "bool", "bool", ())), "encoding 10"),
        (file_of(one_tensor(4, "bool", "float32", ())), "cannot be stored"),
        (file_of(one_tensor(128, "float32", "float32", (2,))), "encoding 128"),
        (file_of(one_tensor(69, "float32", "float32", (2,), b"\1\0\0")), "encoding 69"),
        (file_of(one_tensor(33, "float32", "float32", (2,))), "encoding 33"),
        (file_of(one_tensor(37, "int64", "int64", (2,), b"\1\0\0")), "int64 cannot have scales"),
        (file_of(one_tensor(37, "float32", "float32", (), b"\1\0\0")), "'t' has scales and no"),
        (
            file_of(one_tensor(37, "float32", "float16", (1,), b"\1\1\0"), ONE + b"\0<\0|"),
            "'t' has scales that are NaN or infinite",
        ),
        (file_of(one_tensor(4, "bool", "bool", ()).replace(b"\4\0\0", b"\4\x63\0")), "dtype 99"),
        (file_of(one_tensor(4, "bool", "bool", (1,) * 33)), "33 dimensions"),
        (file_of(b"\0\1" + b"\1\1\0" + word(b"t") + b"\0\4\0\0\0\0"), "name before"),
        (file_of(b"\0\1" + b"\0\0" + b"\0\4\0\0\0\0"), "missing"),
        (file_of(b"\0\1" + b"\0\1\1" + b"\0\4\0\0\0\0"), "word 1"),
        (file_of(b"\0\2" + b"\0\1\0\1t" + b"\0\4\0\0\0\0" + b"\1\0\0\0"), "two tensors"),
        (file_of(b"\0\1" + b"\0\1\0\1t" + b"\0\3\0\0" + b"\0"), "no earlier"),
        (file_of(one_tensor(5, "float32", "float32", (2,), b"\1\0\0"), bytes(4)), "damaged"),
        (file_of(one_tensor(2, "bool", "bool", ()), b"\2"), "neither 0 nor 1"),
        (file_of(one_tensor(1, "float32", "float32", (2,)), bytes(7)), "cut short"),
        (file_of(one_tensor(1, "float32", "float32", (2,)), bytes(8), b""), "2 checksums"),
    ],
)
def test_loads_names_the_defect(data, message):
    with pytest.raises(FormatError, match=message):
        open_all(data)
    with pytest.raises(FormatError, match=message):
        inspect(data)


def test_loads_bounds_the_number_of_tensors_by_the_length_of_the_file():
    names = (f"{place // 70}.{place % 70}" for place in range(4500))
    tensors = [encode_constant(name, (), value=np.uint8(0), dtype="uint8") for name in names]
    shortest = 64 * (4500 - 4096)
    padding = "." * (shortest - len(sealed(tensors, {"padding": ""})) - 1)
    data = sealed(tensors, {"padding": padding})
    assert len(data) == shortest
    assert len(loads(data).tensors) == 4500
    with pytest.raises(FormatError, match="4500 tensors; so few bytes have at most 4499"):
        loads(sealed(tensors, {"padding": padding[1:]}))


def test_loads_refuses_a_file_spliced_of_two():
    for place in range(11, min(len(SMALL), len(GOLDEN)), 11):
        with pytest.raises(FormatError):
            loads(SMALL[:place] + GOLDEN[place:])
        with pytest.raises(FormatError):
            loads(GOLDEN[:place] + SMALL[place:])


def test_loads_checks_block_checksums():
    data = file_of(one_tensor(1, "float32", "float32", (300,)), bytes(1200))
    assert open_all(data).tensors[0].size == 300
    damaged = bytearray(data)
    damaged[-10] ^= 1
    damaged[-4:] = zlib.crc32(damaged[:-4]).to_bytes(4, "little")
    with pytest.raises(FormatError, match="tensor 't' is damaged"):
        loads(bytes(damaged))
