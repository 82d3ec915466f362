"""Reading and writing .safetensors against the library."""

import io
import json
import random

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import save_file

from flyweight.checkpoints import SafetensorsWriter, open_checkpoint, read_state_dict
from flyweight.errors import CheckpointError


def test_safetensors_writer_aligns_all_tensors_in_any_order(tmp_path):
    file = io.BytesIO()
    outlines = [("odd", "int8", (3,)), ("wide", "float64", (2,)), ("half", "float16", (1, 3))]
    writer = SafetensorsWriter(file, outlines, {"k": "v"})
    arrays = {
        "half": np.float16([[1, 2, 3]]),
        "odd": np.int8([1, 2, 3]),
        "wide": np.float64([0.5, 2]),
    }
    for name, array in arrays.items():
        writer.add(name, array)
    data = file.getvalue()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"k": "v"}
    for name, described in header.items():
        assert (8 + length + described["data_offsets"][0]) % arrays[name].itemsize == 0
    back = load(data)
    assert all(np.array_equal(back[name], array) for name, array in arrays.items())


def test_safetensors_writer_refuses_what_the_format_lacks():
    with pytest.raises(CheckpointError, match=r"'c' is of complex128, which a \.safetensors"):
        SafetensorsWriter(io.BytesIO(), [("c", "complex128", (1,))])
    writer = SafetensorsWriter(io.BytesIO(), [("a", "int8", (2,))])
    with pytest.raises(ValueError, match="3 bytes instead of 2"):
        writer.add("a", np.int8([1, 2, 3]))


def test_open_checkpoint_reads_values_at_their_places(tmp_path):
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.arange(5, dtype=torch.int8)}
    save_file(state, tmp_path / "a.safetensors", metadata={"x": "y"})
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.metadata == {"x": "y"}
    assert checkpoint.tensor_bytes == 29
    for entry in checkpoint.entries:
        assert np.array_equal(entry.values(), state[entry.name].numpy())


def test_values_of_a_file_cut_short_meanwhile_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(100)}, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="was cut short while it was read"):
        checkpoint.entries[0].values()


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}, "data type `F31`.*upgrade"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "is damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "is damaged"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "is damaged"),
        ({"dtype": "F32", "shape": [2]}, "is damaged"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "is damaged"),
        ({"dtype": "F32", "shape": [2, *[1] * 40], "data_offsets": [0, 8]}, "42 dim|41 dim"),
        ({"dtype": "F32", "shape": [0, 1 << 50], "data_offsets": [0, 0]}, "damaged|2\\*\\*40"),
    ],
)
def test_open_checkpoint_refuses_an_unsound_header(tmp_path, described, said):
    header = json.dumps({"a": described}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path / "a.safetensors")


def test_damaged_headers_raise_nothing_but_checkpoint_errors(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(20), "b": torch.zeros(3, dtype=torch.int16)}, path)
    whole, drawn, refused = path.read_bytes(), random.Random(3), []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(drawn.randint(1, 4)):
            damaged[drawn.randrange(200)] = drawn.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state_dict(path)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(sentence.isprintable() for sentence in refused)
