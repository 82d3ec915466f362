"""Safetensors tensor by tensor, against the library of that name; what is damaged is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flyweight.checkpoints import SafetensorsWriter, open_checkpoint, read_values
from flyweight.errors import CheckpointError

TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, dtype in TORCH.items():
        item = torch.empty(0, dtype=dtype).element_size()
        raw = torch.randint(0, 256, (6 * item,), generator=generator, dtype=torch.uint8)
        made[f"a.{name}"] = (
            (raw % 2).bool().reshape(2, 3) if dtype == torch.bool else raw.view(dtype).reshape(2, 3)
        )
    made["empty"] = torch.zeros(0, 4)
    made["scalar"] = torch.tensor(3.5)
    return made


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_what_the_library_wrote_is_read_bit_for_bit(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.metadata == {"format": "pt"}
    assert {entry.name for entry in checkpoint.entries} == set(tensors())
    for entry in checkpoint.entries:
        expected = tensors()[entry.name]
        assert entry.shape == tuple(expected.shape)
        assert entry.dtype == str(expected.dtype).removeprefix("torch.")
        assert read_values(entry).tobytes() == bits(expected).numpy().tobytes()


def test_the_library_reads_what_is_written(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    with (tmp_path / "b.safetensors").open("wb") as file:
        told = [(entry.name, entry.dtype, entry.shape) for entry in checkpoint.entries]
        writer = SafetensorsWriter(file, told, {"für": "名前"})
        for entry in checkpoint.entries:
            writer.add(entry.name, read_values(entry))
    loaded = load_file(tmp_path / "b.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
        name: (t.dtype, t.shape) for name, t in tensors().items()
    }
    for name, tensor in tensors().items():
        assert torch.equal(bits(loaded[name]), bits(tensor))
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"für": "名前"}


def test_the_writer_insists_on_the_order_that_was_told(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        writer = SafetensorsWriter(file, [("a", "int8", (2,)), ("b", "int8", (1,))])
        with pytest.raises(ValueError, match="'b' of 1 bytes comes where 'a'"):
            writer.add("b", np.int8([1]))
        with pytest.raises(CheckpointError, match="no dtype complex128"):
            SafetensorsWriter(file, [("a", "complex128", (2,))])


def shards(folder):
    made = tensors()
    names = sorted(made)
    places = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: made[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    document = {"metadata": {"total_size": 1, "made by": "hand"}, "weight_map": places}
    index.write_text(json.dumps(document))
    return index, places


def test_shards_are_one_checkpoint_by_index_or_by_folder(tmp_path):
    index, places = shards(tmp_path)
    for path in (index, tmp_path):
        checkpoint = open_checkpoint(path)
        assert [entry.name for entry in checkpoint.entries] == list(places)
        assert checkpoint.metadata == {"format": "pt", "made by": "hand"}
    assert checkpoint.tensor_bytes == sum(len(bits(t)) for t in tensors().values())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda i, p: i.with_name(p["scalar"]).unlink(), "is missing"),
        (lambda i, p: i.write_text(json.dumps({"weight_map": p | {"x": p["scalar"]}})), "'x'"),
        (lambda i, p: i.write_text(json.dumps({"weight_map": {"x": "../y"}})), "another folder"),
        (lambda i, p: i.write_text(json.dumps({"weight_map": {"x": "y" * 999}})), "is missing"),
        (lambda i, p: i.write_text("{"), "not an index"),
        (lambda i, p: i.write_text("[1]"), "not an index"),
        (lambda i, p: i.write_text('{"weight_map": 3}'), "not an index"),
    ],
)
def test_a_defect_of_an_index_is_named(tmp_path, damage, said):
    index, places = shards(tmp_path)
    damage(index, places)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(index)


def test_a_folder_without_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no safetensors"):
        open_checkpoint(tmp_path)
    for name in "ab":
        save_file(tensors(), tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="holds 2 safetensors"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        open_checkpoint(tmp_path / "c.safetensors")


def described(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "too short"),
        (b"\xff" * 8 + b"{}", "too short"),
        (described([1]), "no table"),
        (described({"a": 3}), "not described"),
        (described({"a": ONE | {"dtype": "F7"}}, bytes(8)), "dtype 'F7'"),
        (described({"a": ONE | {"dtype": ["F32"]}}, bytes(8)), "unknown dtype"),
        (described({"a": ONE | {"dtype": {}}}, bytes(8)), "unknown dtype"),
        (described({"a": ONE | {"shape": [1] * 70 + [2]}}, bytes(8)), "too many dimensions"),
        (described({"a": ONE | {"shape": [10**4000] * 90}}, bytes(8)), "too many dimensions"),
        (described({"a": ONE | {"shape": [10**4000]}}, bytes(8)), "too large ones"),
        (
            described({"a": ONE | {"shape": [0, 1 << 40, 1 << 40], "data_offsets": [0, 0]}}),
            "more than 2",
        ),
        (described({"a": ONE | {"shape": [-2]}}, bytes(8)), "no whole number"),
        (described({"a": ONE | {"shape": [2.0]}}, bytes(8)), "no whole number"),
        (described({"a": ONE | {"shape": [3]}}, bytes(8)), "within the file"),
        (described({"a": ONE}, bytes(7)), "within the file"),
        (described({"a": ONE}, bytes(9)), "bytes follow"),
        (described({"a": ONE, "b": ONE}, bytes(8)), "overlaps"),
        (described({"a": ONE | {"data_offsets": [4, 12]}}, bytes(12)), "gap"),
        (described({"__metadata__": {"a": 1}}), "metadata"),
        (b"\x09" + bytes(7) + b"[" * 9, "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(path)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(described({"a": ONE}, bytes(8)))
    (entry,) = open_checkpoint(path).entries
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cut short"):
        read_values(entry)
