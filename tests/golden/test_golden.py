"""Golden files decode to recorded bits, and encoding their content gives their bytes."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from flyweight.coding import carrier, decode_tensor
from flyweight.coding.scalars import DTYPES
from flyweight.compressed import CompressedModel
from flyweight.format import dumps, loads, read

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from fly_reader import read_fly  # noqa: E402

EXPECTED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.json"))
}
SHAPES = {
    stem: {name: tuple(told["shape"]) for name, told in table.items()}
    for stem, table in EXPECTED.items()
}


def opened(stem):
    return read(FOLDER / f"{stem}.fly", SHAPES[stem])


def check(told, dtype, shape, raw):
    assert (dtype, list(shape)) == (told["dtype"], told["shape"])
    if "hex" in told:
        assert raw.hex() == told["hex"]
    else:
        assert sha256(raw).hexdigest() == told["sha256"]


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(FOLDER / "make_golden.py"))["make"]()


def test_golden_files_are_complete():
    assert set(EXPECTED) == {"v1", "v1-bare", "v1-coders", "v1-groups"}
    assert set(EXPECTED) == {path.stem for path in FOLDER.glob("*.fly")}


@pytest.mark.parametrize("stem", EXPECTED)
def test_decode_tensor_gives_the_recorded_bits(stem):
    container = opened(stem)
    assert [tensor.name for tensor in container.tensors] == list(EXPECTED[stem])
    for tensor in container.tensors:
        source = tensor if tensor.target is None else container.tensors[tensor.target]
        values = decode_tensor(source)
        assert values.dtype == carrier(tensor.dtype)
        check(EXPECTED[stem][tensor.name], tensor.dtype, values.shape, values.tobytes())


@pytest.mark.parametrize("stem", EXPECTED)
def test_the_independent_reader_gives_the_recorded_bits(stem):
    tensors, _ = read_fly((FOLDER / f"{stem}.fly").read_bytes(), SHAPES[stem])
    assert list(tensors) == list(EXPECTED[stem])
    for name, tensor in tensors.items():
        check(EXPECTED[stem][name], *tensor)


@pytest.mark.parametrize("stem", EXPECTED)
def test_state_dict_gives_the_recorded_bits(stem):
    state = CompressedModel.from_container(opened(stem)).state_dict()
    assert list(state) == list(EXPECTED[stem])
    for name, value in state.items():
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        check(EXPECTED[stem][name], str(value.dtype).removeprefix("torch."), value.shape, raw)


@pytest.mark.parametrize("stem", EXPECTED)
def test_dumps_gives_the_bytes_that_were_read(stem):
    data = (FOLDER / f"{stem}.fly").read_bytes()
    assert dumps(opened(stem), bare="bare" in stem) == data


@pytest.mark.parametrize("stem", EXPECTED)
def test_encoding_the_content_gives_the_recorded_bytes(made, stem):
    """But for what LZMA wrote: another version of it may find other matches."""
    data, told = made[stem]
    remade, recorded = loads(data, shapes=SHAPES[stem]), opened(stem)
    assert (told, remade.metadata) == (EXPECTED[stem], recorded.metadata)
    for new, old in zip(remade.tensors, recorded.tensors, strict=True):
        assert new == (replace(old, parts=new.parts) if old.coder == "matches" else old)
    if all(tensor.coder != "matches" for tensor in recorded.tensors):
        assert data == (FOLDER / f"{stem}.fly").read_bytes()


def test_golden_files_hold_every_form():
    forms, coders, groups = (opened(stem).tensors for stem in ("v1", "v1-coders", "v1-groups"))
    assert opened("v1").metadata == {"made by": "flyweight", "用": "golden"}
    assert {tensor.encoding for tensor in forms} == {"dense", "constant", "alias"}
    assert {tensor.coder for tensor in forms} == {"raw", "planes", "sparse", "matches"}
    assert {tensor.dtype for tensor in forms} == set(DTYPES)
    masks = {tensor.parts["tables"][0] & 3 for tensor in forms if tensor.coder == "sparse"}
    assert masks == {1, 2, 3}
    distances = {tensor.parts["dense"][0] for tensor in forms if tensor.coder == "matches"}
    assert distances == {0, 4}
    assert {tensor.coder for tensor in coders} >= {"huffman", "rans", "context", "planes"}
    shared = [tensor for tensor in groups if tensor.encoding == "shared"]
    for coder in ("huffman", "rans", "context"):
        own = [tensor for tensor in shared if tensor.coder == coder]
        assert {len({"scales", "offsets"} & set(tensor.parts)) for tensor in own} == {0, 1, 2}
        assert len({tensor.levels for tensor in own}) == 3
    grouped = {tensor.encoding for tensor in groups if tensor.member}
    assert grouped == {"shared", "dense", "constant"}
    flags = {stem: (FOLDER / f"{stem}.fly").read_bytes()[5] for stem in EXPECTED}
    assert flags["v1"] & 1, "the header is not Huffman-coded"
    assert flags["v1-bare"] & 2, "the header is not bare"
