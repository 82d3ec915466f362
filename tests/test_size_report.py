from __future__ import annotations

import json
import lzma
import sys

import numpy as np
import pytest

from flyweight.coding import (
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
    entropy,
)
from flyweight.format import Container, dumps, write
from flyweight.errors import FormatError
from flyweight.size_report import inspect


def example():
    rng = np.random.default_rng(1)
    symbols = rng.integers(1, 4, (32, 16, 3, 3)) * (rng.random((32, 16, 3, 3)) < 0.25)
    levels = np.float32([-1, 0.5, 2])
    weight = encode_shared("conv.weight", symbols, levels=levels, coder="plain")
    return symbols, Container(
        tensors=(
            weight,
            encode_dense("conv.bias", np.float32([0, 0.1, -0.0, np.nan]), dtype="float32"),
            encode_constant("steps", (), value=np.int64(7), dtype="int64"),
            encode_alias("tied.weight", weight, target=0),
            encode_dense("half", np.uint16([0x8000, 0x3F80]), dtype="bfloat16"),
            encode_shared(
                "dense", rng.integers(0, 4, 500), levels=np.float32([1, 2, 3]), coder="plain"
            ),
            encode_shared("zero level", [0, 1, 2, 2], levels=np.float32([0, 1])),
        ),
        metadata={"recipe": "quick"},
    )


def test_total_is_the_size_of_the_file(tmp_path):
    _, container = example()
    size = write(container, tmp_path / "model.fly")
    for source in (
        container,
        dumps(container),
        tmp_path / "model.fly",
        str(tmp_path / "model.fly"),
    ):
        account = inspect(source)
        assert account.total_bytes == size
        assert account.total_bytes == account.tensor_bytes + account.overhead_bytes
        assert account.tensor_bytes == sum(account.part_bytes.values())


def test_rows_say_what_each_tensor_takes():
    symbols, container = example()
    rows = {row.name: row for row in inspect(container).rows}
    assert list(rows) == [tensor.name for tensor in container.tensors]
    conv = rows["conv.weight"]
    assert (conv.shape, conv.encoding, conv.parameters) == ((32, 16, 3, 3), "shared", 4608)
    assert conv.nonzeros == np.count_nonzero(symbols)
    assert conv.part_bytes == {kind: len(part) for kind, part in container.tensors[0].parts.items()}
    assert conv.bits_per_weight == 8 * conv.total_bytes / 4608
    assert (rows["tied.weight"].parameters, rows["tied.weight"].total_bytes) == (0, 0)
    assert rows["tied.weight"].bits_per_weight == 0
    assert rows["conv.bias"].nonzeros == 2  # -0.0 is zero, NaN is not
    assert rows["half"].nonzeros == 1
    assert rows["zero level"].nonzeros == 2
    assert (rows["steps"].parameters, rows["steps"].total_bytes) == (1, 1)


def test_bounds_are_the_order_zero_entropy():
    symbols, container = example()
    rows = {row.name: row for row in inspect(container).rows}
    bound = rows["conv.weight"].bound_bytes
    kept = np.count_nonzero(symbols)
    assert bound["symbols"] == entropy(np.bincount(symbols[symbols > 0])) / 8
    assert bound["positions"] == entropy([kept, symbols.size - kept]) / 8
    assert bound["codebook"] == 6
    assert bound["positions"] < rows["conv.weight"].part_bytes["positions"]
    dense = rows["dense"]
    assert dense.part_bytes["positions"] == dense.bound_bytes["positions"] == 0
    assert 0.9 < dense.bound_bytes["symbols"] / dense.part_bytes["symbols"] <= 1
    account = inspect(container)
    assert account.total_bound_bytes < account.total_bytes


def test_zeros_in_the_alphabet_have_one_bound_and_a_context_coder_can_beat_it():
    symbols = np.random.default_rng(0).integers(1, 5, 512) * (np.arange(512) % 5 < 2)
    repeated = np.tile(symbols, (64, 1))
    tensor = encode_shared("w", repeated, levels=np.float32([-2, -1, 1, 2]), coder="context")
    (row,) = inspect(Container(tensors=(tensor,))).rows
    assert row.bound_bytes["symbols"] == entropy(np.bincount(repeated.ravel())) / 8
    assert row.bound_bytes["positions"] == 0
    assert row.part_bytes["symbols"] < 0.5 * row.bound_bytes["symbols"]


def test_it_is_plain_json():
    _, container = example()
    account = inspect(container)
    found = json.loads(json.dumps(account.to_dict()))
    assert found["total_bytes"] == len(dumps(container))
    assert found["tensors"][0]["shape"] == [32, 16, 3, 3]
    assert found["tensors"][0]["part_bytes"]["codebook"] == 6
    parts = sum(sum(row["part_bytes"].values()) for row in found["tensors"])
    assert parts + sum(found["overhead"].values()) == found["total_bytes"]


def test_an_empty_file_has_overhead_only():
    account = inspect(Container(tensors=()))
    assert account.rows == ()
    assert account.total_bytes == account.overhead_bytes == len(dumps(Container(tensors=())))
    assert account.bits_per_weight == 0


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "bad.fly"
    path.write_bytes(dumps(example()[1])[:-1])
    with pytest.raises(FormatError, match=r"bad\.fly: .*cut short"):
        inspect(path)
    with pytest.raises(FormatError, match="FLYW"):
        inspect(b"")


def test_peers_get_the_same_values_and_are_left_out_unless_asked_for():
    symbols, container = example()
    assert inspect(container).peer_bytes == {}
    assert inspect(container).rows[0].peer_bytes == {}
    account = inspect(container, peers=True)
    rows = {row.name: row for row in account.rows}
    conv = rows["conv.weight"].peer_bytes
    assert list(conv) == ["fp32", "fp16", "zstd -19", "xz -9e"]
    assert (conv["fp32"], conv["fp16"]) == (4 * symbols.size, 2 * symbols.size)
    codebook = np.float16([-1, 0.5, 2]).tobytes()
    raw = codebook + symbols.astype("u1").tobytes()
    own = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    assert conv["xz -9e"] == len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=own))
    assert rows["conv.weight"].total_bytes < conv["zstd -19"] < conv["fp16"]
    assert set(rows["tied.weight"].peer_bytes.values()) == {0}
    assert account.peer_bytes["fp32"] == 4 * account.parameters
    assert account.peer_bytes["xz -9e"] < sum(row.peer_bytes["xz -9e"] for row in account.rows)
    assert json.loads(json.dumps(account.to_dict()))["peer_bytes"] == account.peer_bytes


def test_without_zstandard_the_others_are_still_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    _, container = example()
    with pytest.warns(UserWarning, match="pip install zstandard"):
        assert list(inspect(container, peers=True).peer_bytes) == ["fp32", "fp16", "xz -9e"]


def test_planes_are_compared_as_what_is_stored():
    values = np.random.default_rng(0).normal(size=5000).astype("f2")
    tensor = encode_lossless("w", values.astype("f4"), dtype="float32")
    assert (tensor.coder, tensor.storage) == ("planes", "float16")
    (row,) = inspect(Container((tensor,)), peers=True).rows
    assert row.total_bytes < row.peer_bytes["xz -9e"] <= 10_020
    assert row.over_bound_percent == 0
