"""Golden files decode to recorded bits, and encoding their content gives their bytes."""

from __future__ import annotations

import itertools
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
    return read(FOLDER / f"{stem}.fly", MAKER["shapes"]())


@pytest.fixture(scope="module")
def golden():
    return opened("v1")


@pytest.fixture(scope="module")
def made():
    return MAKER["make"]()


def test_golden_files_are_complete():
    assert {"v1", "v1-bare", "v1-coders", "v1-scaled"} <= set(EXPECTED)
    assert set(EXPECTED) == {path.stem for path in FOLDER.glob("*.fly")}


def test_read_returns_metadata_and_names(golden):
    assert golden.metadata == {"made by": "flyweight", "用": "golden"}
    assert [tensor.name for tensor in golden.tensors] == list(EXPECTED["v1"])


@pytest.mark.parametrize(
    ("stem", "name"), [(stem, name) for stem, table in EXPECTED.items() for name in table]
)
def test_decode_tensor_gives_the_recorded_bits(stem, name):
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


def test_state_dict_gives_the_recorded_bits_of_scaled_tensors():
    state = CompressedModel.from_container(opened("v1-scaled")).state_dict()
    assert list(state) == list(EXPECTED["v1-scaled"])
    for name, value in state.items():
        expected = EXPECTED["v1-scaled"][name]
        raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        found = raw.hex() if "hex" in expected else sha256(raw).hexdigest()
        assert found == expected.get("hex", expected.get("sha256"))


@pytest.mark.parametrize("stem", EXPECTED)
def test_dumps_gives_the_bytes_that_were_read(stem):
    data = (FOLDER / f"{stem}.fly").read_bytes()
    assert dumps(opened(stem), bare="bare" in stem) == data


@pytest.mark.parametrize("stem", EXPECTED)
def test_encoding_the_content_gives_the_recorded_bytes(made, stem):
    assert made[stem][0] == (FOLDER / f"{stem}.fly").read_bytes()
    assert made[stem][1] == EXPECTED[stem]


def test_golden_files_hold_every_form(golden):
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
    for form in itertools.product((True, False), repeat=2):
        assert any(
            ("offsets" in tensor.parts, tensor.group is not None) == form for tensor in scaled
        )
