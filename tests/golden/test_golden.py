"""Version-1 files load for ever, to the same bits; coding the same content gives the same bytes."""

from __future__ import annotations

import json
import runpy
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from flyweight.coding import carrier, decode_tensor
from flyweight.compressed import CompressedModel
from flyweight.format import dumps, read

FOLDER = Path(__file__).parent
MAKER = runpy.run_path(str(FOLDER / "make_golden.py"))
EXPECTED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.json"))
}


def opened(stem):
    return read(FOLDER / f"{stem}.fly", skeleton=MAKER["shapes"])


@pytest.fixture(scope="module")
def golden():
    return opened("v1")


@pytest.fixture(scope="module")
def made():
    return MAKER["make"]()


def test_all_files_are_here():
    assert {"v1", "v1-bare", "v1-coders", "v1-scaled"} <= set(EXPECTED)
    assert set(EXPECTED) == {path.stem for path in FOLDER.glob("*.fly")}


def test_it_holds_what_it_held_when_it_was_made(golden):
    assert golden.metadata == {"made by": "flyweight", "用": "golden"}
    assert [tensor.name for tensor in golden.tensors] == list(EXPECTED["v1"])


@pytest.mark.parametrize(
    ("stem", "name"), [(stem, name) for stem, table in EXPECTED.items() for name in table]
)
def test_each_tensor_decodes_to_the_same_bits(stem, name):
    container, expected = opened(stem), EXPECTED[stem][name]
    tensor = next(tensor for tensor in container.tensors if tensor.name == name)
    assert tensor.dtype == expected["dtype"]
    if tensor.target is not None:
        tensor = container.tensors[tensor.target]
    values = decode_tensor(tensor)
    assert values.dtype == carrier(expected["dtype"])
    assert list(values.shape) == expected["shape"]
    raw = values.tobytes()
    if "hex" in expected:
        assert raw.hex() == expected["hex"]
    else:
        assert sha256(raw).hexdigest() == expected["sha256"]


def test_torch_has_the_same_bits_where_channels_have_scales():
    state = CompressedModel.from_container(opened("v1-scaled")).state_dict()
    assert list(state) == list(EXPECTED["v1-scaled"])
    for name, value in state.items():
        expected = EXPECTED["v1-scaled"][name]
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        found = raw.hex() if "hex" in expected else sha256(raw).hexdigest()
        assert found == expected.get("hex", expected.get("sha256"))


@pytest.mark.parametrize("stem", EXPECTED)
def test_writing_what_was_read_gives_the_same_bytes(stem):
    data = (FOLDER / f"{stem}.fly").read_bytes()
    assert dumps(opened(stem), bare="bare" in stem) == data


@pytest.mark.parametrize("stem", EXPECTED)
def test_coding_the_same_content_gives_the_same_bytes(made, stem):
    assert made[stem][0] == (FOLDER / f"{stem}.fly").read_bytes()
    assert made[stem][1] == EXPECTED[stem]


def test_every_form_of_the_format_occurs(golden):
    shared = [tensor for tensor in golden.tensors if tensor.encoding == "shared"]
    apart = [tensor.parts["tables"] for tensor in shared if tensor.parts["tables"][0]]
    assert len(apart) < len(shared), "no tensor has zeros in the alphabet"
    forms = {table[1] & 3 if table[0] > 1 else "all kept" for table in apart}
    assert forms == {0, 1, 2, 3, "all kept"}
    assert {tensor.encoding for tensor in golden.tensors} == {
        "shared",
        "dense",
        "constant",
        "alias",
    }
    assert any(tensor.stored_bytes >= 1024 for tensor in golden.tensors)
    assert (FOLDER / "v1.fly").read_bytes()[5] == 1, "the header is not Huffman-coded"
    assert (FOLDER / "v1-bare.fly").read_bytes()[5] & 2, "the header is not bare"
    coders = {tensor.coder for tensor in opened("v1-coders").tensors}
    assert coders >= {"interleaved", "rans", "context", "planes"}
    scaled = [tensor for tensor in opened("v1-scaled").tensors if tensor.scaled]
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        assert any(tensor.dtype == dtype for tensor in scaled)
    for wanted in (True, False):
        for joined in (True, False):
            assert any(
                ("offsets" in tensor.parts, tensor.joint is not None) == (wanted, joined)
                for tensor in scaled
            )
