"""Scalars in narrower types, and words of bits: by torch, NumPy and hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.coding import decode_shared, encode_shared
from flyweight.coding.lossless import exact_levels
from flyweight.coding.scalars import (
    all_equal,
    carrier,
    distinct_words,
    pack_scalars,
    unpack_scalars,
    word_places,
)
from flyweight.errors import FormatError, ModelError

FLOATS = {
    "float32": ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"],
    "float64": ["float16", "float32"],
}
PAIRS = [(dtype, storage) for dtype, storages in FLOATS.items() for storage in storages]
WORDS = [np.uint8, np.float16, np.float32, np.int64, np.complex128]


def every(storage):
    """All values of 8 or 16 bits; of float32 the ends of the range and some between."""
    if storage == "float32":
        bits = np.random.default_rng(0).integers(0, 1 << 32, 10_000, dtype=np.uint32)
        bits[:6] = [0, 1 << 31, 1, 0x7FFFFF, 0x807FFFFF, 0x7F7FFFFF]
        return torch.from_numpy(bits.view(np.float32))
    item = carrier(storage).itemsize
    bits = torch.arange(1 << 8 * item, dtype=torch.int32)
    return bits.to(torch.uint8 if item == 1 else torch.uint16).view(getattr(torch, storage))


def stored_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(("dtype", "storage"), PAIRS)
def test_pack_scalars_keeps_every_value_of_the_narrower_type(dtype, storage):
    narrow = every(storage)
    wide = narrow.to(torch.float32 if storage != "float32" else narrow.dtype)
    wide = wide.to(getattr(torch, dtype))
    used = wide.isfinite() if "8" in storage else ~wide.isnan()
    values = wide[used].numpy()
    raw, found = pack_scalars(values, dtype, storage)
    assert found == storage
    assert raw == stored_bytes(narrow[used])
    assert unpack_scalars(raw, dtype, storage).tobytes() == values.tobytes()


@pytest.mark.parametrize(("dtype", "storage"), PAIRS)
def test_pack_scalars_refuses_what_the_narrower_type_rounds(dtype, storage):
    narrow = every(storage)
    wide = narrow[~narrow.float().isnan()].to(getattr(torch, dtype)).numpy()
    between = np.nextafter(wide, np.array(np.inf, wide.dtype))
    exact = torch.from_numpy(between)
    exact = (exact.to(narrow.dtype).to(exact.dtype) == exact).numpy() & np.isfinite(between)
    for value in [*between[~exact][:: max(1, wide.size // 500)], wide.dtype.type(np.nan)]:
        if storage != "bfloat16" or not np.isnan(value):
            with pytest.raises(ModelError, match="not exact"):
                pack_scalars(value, dtype, storage)


def test_pack_scalars_takes_the_first_type_that_is_exact():
    for values, storage in (
        ([0, 416, -0.0625], "float8_e4m3fn"),
        ([57344, 0.25], "float8_e5m2"),
        ([449, 0.25], "float16"),
        ([2**20, 0.25], "bfloat16"),
        ([np.inf], "float16"),
        ([0.1], "float32"),
    ):
        assert pack_scalars(np.float32(values), "float32")[1] == storage
    for values, storage in (([0, 255], "uint8"), ([-1], "int8"), ([-1, 255], "int16")):
        raw, found = pack_scalars(np.int64(values), "int64")
        assert found == storage
        assert unpack_scalars(raw, "int64", found).tolist() == values


@pytest.mark.parametrize(
    ("raw", "dtype", "storage"),
    [
        (b"\x7f", "float32", "float8_e4m3fn"),
        (b"\x7c", "float32", "float8_e5m2"),
        (b"\0\x7e", "float32", "float16"),
        (b"\0\0\xc0\x7f", "float64", "float32"),
    ],
)
def test_unpack_scalars_refuses_what_is_no_number(raw, dtype, storage):
    with pytest.raises(FormatError, match="can hold"):
        unpack_scalars(raw, dtype, storage)


@pytest.mark.parametrize("kind", WORDS)
@given(data=st.data())
def test_all_equal_compares_every_bit(kind, data):
    item = np.dtype(kind).itemsize
    bits = data.draw(st.lists(st.sampled_from([0, 1, 1 << 7]), max_size=40))
    raw = np.zeros((len(bits), item), np.uint8)
    raw[:, data.draw(st.integers(0, item - 1))] = bits
    assert all_equal(raw.view(kind)) == (len({*bits}) == 1)


@pytest.mark.parametrize("kind", WORDS[:-1])
@pytest.mark.parametrize("distinct", [1, 2, 256, 257])
def test_distinct_words_match_numpy(kind, distinct):
    item = np.dtype(kind).itemsize
    draw = np.random.default_rng(0)
    known = np.unique(draw.integers(0, 1 << min(8 * item, 63), distinct, dtype=np.uint64))
    words = draw.choice(known, 5000).astype(f"<u{item}").reshape(50, 100)
    wanted, counts = np.unique(words, return_counts=True)
    found = distinct_words(words.view(kind), wanted.size)
    assert found[0].tolist() == wanted.tolist()
    assert found[1].tolist() == counts.tolist()
    assert distinct_words(words.view(kind), wanted.size - 1) is None
    places = word_places(words.view(kind), found[0][::-1].copy())
    assert places.dtype == (np.uint8 if wanted.size <= 256 else np.uint16)
    assert (wanted[::-1][places] == words).all()
    with pytest.raises(ValueError, match="do not match"):
        word_places(words, found[0][1:].copy())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float16", "bfloat16", "float64"])
def test_exact_levels_ascend_and_give_the_same_bits(dtype):
    bits = np.random.default_rng(1).integers(0, 256, (20, 30)).astype(carrier(dtype))
    if dtype == "bool":
        values = bits % 2 == 0
    else:  # of all signs and exponents
        values = (bits << 8 * (bits.itemsize - 1)).view() if bits.dtype.kind != "f" else bits
    symbols, levels, _ = exact_levels(values.reshape(-1), dtype, 1 << 20)
    assert exact_levels(values.reshape(-1), dtype, levels.nbytes) is None
    coded = encode_shared("w", symbols, levels=levels, dtype=dtype)
    found, table = decode_shared(coded)
    table = np.concatenate([np.zeros(1, table.dtype), table])
    assert table[found].tobytes() == values.tobytes()
    tensor = torch.from_numpy(levels.copy())
    ordered = (tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor).double()
    ordered = ordered[~ordered.isnan()]
    assert bool((ordered.diff() >= 0).all())
