from __future__ import annotations

import json
import runpy
from hashlib import sha256
from pathlib import Path

import pytest

from flyweight.coding import carrier, decode_tensor
from flyweight.container import dumps, read

FOLDER = Path(__file__).parent
EXPECTED = json.loads((FOLDER / "v1.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def golden():
    return read(FOLDER / "v1.fly")


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(FOLDER / "make_golden.py"))["container"]()


def test_it_holds_what_it_held_when_it_was_made(golden):
    assert golden.metadata == {"made by": "flyweight", "用": "golden"}
    assert [tensor.name for tensor in golden.tensors] == list(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_tensor_decodes_to_the_same_bits(golden, name):
    tensor = next(tensor for tensor in golden.tensors if tensor.name == name)
    assert tensor.dtype == EXPECTED[name]["dtype"]
    if tensor.target is not None:
        tensor = golden.tensors[tensor.target]
    values = decode_tensor(tensor)
    assert values.dtype == carrier(EXPECTED[name]["dtype"])
    assert list(values.shape) == EXPECTED[name]["shape"]
    raw = values.tobytes()
    if "hex" in EXPECTED[name]:
        assert raw.hex() == EXPECTED[name]["hex"]
    else:
        assert sha256(raw).hexdigest() == EXPECTED[name]["sha256"]


def test_writing_what_was_read_gives_the_same_bytes(golden):
    assert dumps(golden) == (FOLDER / "v1.fly").read_bytes()


def test_coding_the_same_content_gives_the_same_bytes(made):
    assert dumps(made) == (FOLDER / "v1.fly").read_bytes()


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
