"""The size report: rows, totals, entropies, peers and the table."""

from __future__ import annotations

import json
import lzma
import sys

import numpy as np
import pytest
import torch

from flyweight.coding import (
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
    encode_tensors,
    entropy,
    prepare_lossless,
    prepare_shared,
)
from flyweight.compressed import CompressedModel
from flyweight.errors import FormatError, ModelError
from flyweight.format import Container, dumps, write
from flyweight.size_report import inspect


def example():
    rng = np.random.default_rng(1)
    symbols = rng.integers(1, 4, (32, 16, 3, 3)) * (rng.random((32, 16, 3, 3)) < 0.25)
    levels = np.float32([-1, 0.5, 2])
    weight = encode_shared("conv.weight", symbols, levels=levels, coder="huffman")
    return symbols, Container(
        tensors=(
            weight,
            encode_dense("conv.bias", np.float32([0, 0.1, -0.0, np.nan]), dtype="float32"),
            encode_constant("steps", (), value=np.int64(7), dtype="int64"),
            encode_alias("tied.weight", weight, target=0),
            encode_dense("half", np.uint16([0x8000, 0x3F80]), dtype="bfloat16"),
            encode_shared(
                "dense", rng.integers(0, 4, 500), levels=np.float32([1, 2, 3]), coder="huffman"
            ),
            encode_shared("zero level", [0, 1, 2, 2], levels=np.float32([0, 1])),
        ),
        metadata={"recipe": "quick"},
    )


def report_of(*tensors, **options):
    return inspect(dumps(Container(tensors=tensors)), **options)


def test_total_bytes_is_the_size_of_the_file(tmp_path):
    _, container = example()
    size = write(container, tmp_path / "model.fly")
    for source in (dumps(container), tmp_path / "model.fly", str(tmp_path / "model.fly")):
        report = inspect(source)
        assert report.total_bytes == size
        assert report.total_bytes == report.tensor_bytes + report.overhead_bytes
        assert report.tensor_bytes == sum(report.part_bytes.values())


def test_rows_describe_each_tensor():
    symbols, container = example()
    rows = {row.name: row for row in inspect(dumps(container)).rows}
    assert list(rows) == [tensor.name for tensor in container.tensors]
    conv = rows["conv.weight"]
    assert (conv.shape, conv.encoding, conv.parameters) == ((32, 16, 3, 3), "shared", 4608)
    assert (conv.coder, conv.group) == ("huffman", None)
    assert conv.nonzeros == np.count_nonzero(symbols)
    assert conv.part_bytes == {kind: len(part) for kind, part in container.tensors[0].parts.items()}
    assert conv.bits_per_weight == 8 * conv.total_bytes / 4608
    assert (rows["tied.weight"].parameters, rows["tied.weight"].total_bytes) == (0, 0)
    assert rows["tied.weight"].bits_per_weight == 0
    assert rows["conv.bias"].nonzeros == 2  # -0.0 is zero, NaN is not
    assert rows["half"].nonzeros == 1
    assert rows["zero level"].nonzeros == 2
    assert (rows["steps"].parameters, rows["steps"].total_bytes) == (1, 1)


def test_entropy_bytes_is_the_order_zero_entropy_and_the_codebook():
    symbols, container = example()
    report = inspect(dumps(container))
    rows = {row.name: row for row in report.rows}
    by_hand = entropy(np.bincount(symbols.ravel(), minlength=4)) / 8
    assert rows["conv.weight"].entropy_bytes == 3 + by_hand
    assert by_hand < rows["conv.weight"].part_bytes["symbols"]
    assert rows["conv.bias"].entropy_bytes == rows["conv.bias"].total_bytes
    assert report.entropy_bytes < report.total_bytes


def test_entropy_bytes_can_exceed_what_the_context_coder_takes():
    symbols = np.random.default_rng(0).integers(1, 5, 512) * (np.arange(512) % 5 < 2)
    repeated = np.tile(symbols, (64, 1))
    tensor = encode_shared("w", repeated, levels=np.float32([-2, -1, 1, 2]), coder="context")
    (row,) = report_of(tensor).rows
    assert row.entropy_bytes == 4 + entropy(np.bincount(repeated.ravel())) / 8
    assert row.total_bytes < 0.5 * row.entropy_bytes


@pytest.mark.parametrize("kind", ["shared", "dense", "constant"])
def test_rows_share_out_the_bytes_of_groups(kind):
    random = np.random.default_rng(0)
    tensors = []
    for number, rows in enumerate((16, 5, 1, 40)):
        name = f"{number}.weight"
        if kind == "shared":
            symbols = random.integers(0, 8, (rows, 30))
            tensors.append(prepare_shared(name, symbols, levels=np.arange(1, 8, dtype="f4")))
        else:
            values = random.normal(0, 0.1, (rows, 30)).astype("f4") if kind == "dense" else 1.5
            values = np.broadcast_to(np.float32(values), (rows, 30))
            tensors.append(prepare_lossless(name, values, dtype="float32"))
    data = dumps(Container(tuple(encode_tensors(tensors, coder="rans"))))
    report = inspect(data)
    assert [row.group for row in report.rows] == ["0.weight"] * 4
    assert report.total_bytes == len(data)
    assert [row.parameters for row in report.rows] == [480, 150, 30, 1200]
    if kind != "constant":
        first, last = report.rows[0], report.rows[3]
        assert all(row.total_bytes > 0 for row in report.rows)
        assert first.bits_per_weight == pytest.approx(last.bits_per_weight, rel=0.2)
    if kind == "shared":
        alone = report_of(*(tensor.encode() for tensor in tensors))
        assert [row.entropy_bytes for row in report.rows] == [r.entropy_bytes for r in alone.rows]


def test_to_dict_is_plain_json():
    _, container = example()
    found = json.loads(json.dumps(inspect(dumps(container)).to_dict()))
    assert found["total_bytes"] == len(dumps(container))
    assert found["tensors"][0]["shape"] == [32, 16, 3, 3]
    assert found["tensors"][0]["part_bytes"]["codebook"] == 3
    parts = sum(sum(row["part_bytes"].values()) for row in found["tensors"])
    assert parts + sum(found["overhead"].values()) == found["total_bytes"]


def test_inspect_of_a_file_without_tensors():
    report = report_of()
    assert report.rows == ()
    assert report.total_bytes == report.overhead_bytes == len(dumps(Container(tensors=())))
    assert report.bits_per_weight == 0
    assert "total" in str(report)


def test_inspect_names_a_damaged_file(tmp_path):
    path = tmp_path / "bad.fly"
    path.write_bytes(dumps(example()[1])[:-1])
    with pytest.raises(FormatError, match=r"bad\.fly: .*cut short"):
        inspect(path)
    with pytest.raises(FormatError, match="FLYW"):
        inspect(b"")


def test_inspect_compares_peers_on_demand():
    symbols, container = example()
    plain = inspect(dumps(container))
    assert plain.peer_bytes == plain.rows[0].peer_bytes == {}
    report = inspect(dumps(container), peers=True)
    rows = {row.name: row for row in report.rows}
    conv = rows["conv.weight"].peer_bytes
    assert list(conv) == ["fp32", "fp16", "zstd -19", "xz -9e"]
    assert (conv["fp32"], conv["fp16"]) == (4 * symbols.size, 2 * symbols.size)
    codebook = b"\xbc\x38\x40"  # of the 8-bit floats -1, 0.5 and 2
    raw = codebook + symbols.astype("u1").tobytes()
    own = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    assert conv["xz -9e"] == len(lzma.compress(raw, format=lzma.FORMAT_RAW, filters=own))
    assert rows["conv.weight"].total_bytes < conv["zstd -19"] < conv["fp16"]
    assert set(rows["tied.weight"].peer_bytes.values()) == {0}
    assert report.peer_bytes["fp32"] == 4 * report.parameters
    assert report.peer_bytes["xz -9e"] < sum(row.peer_bytes["xz -9e"] for row in report.rows)
    assert json.loads(json.dumps(report.to_dict()))["peer_bytes"] == report.peer_bytes
    assert f"as xz -9e: {report.peer_bytes['xz -9e']:,} bytes" in str(report)


def test_inspect_leaves_out_zstd_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    _, container = example()
    with pytest.warns(UserWarning, match="pip install zstandard"):
        report = inspect(dumps(container), peers=True)
    assert list(report.peer_bytes) == ["fp32", "fp16", "xz -9e"]


def test_inspect_compares_byte_planes_as_the_stored_values():
    values = np.random.default_rng(0).normal(size=5000).astype("f2")
    tensor = encode_lossless("w", values.astype("f4"), dtype="float32")
    assert (tensor.coder, tensor.storage) == ("planes", "float16")
    (row,) = report_of(tensor, peers=True).rows
    assert row.total_bytes < row.peer_bytes["xz -9e"] <= 10_020
    assert row.entropy_bytes == row.total_bytes


def test_str_is_a_table_of_eighty_columns():
    name = "transformer.encoder.layers.11.attention.self.query.projection.weight"
    tensors = {name: torch.randn(30, 30), "a\x1b[31mb\nü": torch.eye(3), "x": torch.tensor(1)}
    tensors["deep"] = torch.zeros(1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3)
    report = inspect(CompressedModel(tensors, {"tied": name}).to_bytes())
    text = str(report)
    assert text.isascii()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert lines[0].split() == ["tensor", "shape", "zeros", "bytes", "bits/weight", "entropy"]
    assert f"{report.total_bytes:,}" in lines[-1]
    assert "\\x1b[31mb\\n\\xfc" in text
    assert len(repr(report)) < 80


def test_inspect_refuses_what_is_not_saved():
    with pytest.raises(ModelError, match="source is a dict; save it first, and give the path"):
        inspect({})
