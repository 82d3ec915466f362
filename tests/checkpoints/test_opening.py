"""Checkpoints of several files: indexes, shards and folders; no tensor is left out silently."""

import json

import pytest
import torch
from safetensors.torch import save_file

from flyweight.checkpoints import compress_checkpoint, open_checkpoint, read_state_dict
from flyweight.errors import CheckpointError

ONE = "model-00001-of-00002.safetensors"
TWO = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def values(checkpoint):
    return {name: tensor.tolist() for name, tensor in read_state_dict(checkpoint).items()}


def put(folder, files, index=None, *, name=INDEX):
    for file, names in files.items():
        (folder / file).parent.mkdir(exist_ok=True, parents=True)
        tensors = {tensor: torch.tensor([float(ord(tensor[0]))]) for tensor in names}
        save_file(tensors, folder / file) if file.endswith("s") else torch.save(
            tensors, folder / file
        )
    if index is not None:
        (folder / name).write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": index}))


def test_open_checkpoint_follows_an_index_and_a_folder_with_one(tmp_path):
    put(tmp_path, {ONE: ["b"], TWO: ["a"]}, {"a": TWO, "b": ONE})
    for source in (tmp_path, tmp_path / INDEX):
        assert [entry.name for entry in open_checkpoint(source).entries] == ["a", "b"]
        assert values(source) == {"a": [97.0], "b": [98.0]}


def test_open_checkpoint_keeps_tensors_that_the_index_lacks(tmp_path):
    put(tmp_path, {ONE: ["a", "extra"], TWO: ["b"]}, {"a": ONE, "b": TWO})
    assert values(tmp_path) == {"a": [97.0], "b": [98.0], "extra": [101.0]}
    report = compress_checkpoint(tmp_path, tmp_path / "out.fly")
    assert report.tensors == 3


def test_open_checkpoint_takes_shards_without_an_index(tmp_path):
    put(tmp_path, {ONE: ["a"], TWO: ["b"]})
    assert values(tmp_path) == {"a": [97.0], "b": [98.0]}
    (tmp_path / TWO).unlink()
    with pytest.raises(CheckpointError, match=r"holds 1 of the 2 shards .*copy the missing"):
        open_checkpoint(tmp_path)


def test_open_checkpoint_takes_shards_in_subfolders(tmp_path):
    put(tmp_path, {f"x/{ONE}": ["a"], f"y/{TWO}": ["b"]}, {"a": f"x/{ONE}", "b": f"y/{TWO}"})
    assert values(tmp_path) == {"a": [97.0], "b": [98.0]}


def test_open_checkpoint_takes_torch_shards(tmp_path):
    one, two = ONE.replace("safetensors", "bin"), TWO.replace("safetensors", "bin")
    put(
        tmp_path,
        {one: ["a"], two: ["b"]},
        {"a": one, "b": two},
        name="pytorch_model.bin.index.json",
    )
    assert values(tmp_path) == {"a": [97.0], "b": [98.0]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"], "m"),
        (["model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin"], "m"),
        (["adapter_model.safetensors", "adapter_config.json"], "a"),
        (["diffusion_pytorch_model.safetensors", "config.json"], "d"),
        (["pytorch_model.bin", "optimizer.pt", "training_args.bin"], "p"),
        (["model.safetensors", "pytorch_model.bin"], "m"),
        (["kws.pt"], "k"),
        (["epoch=3.ckpt", "optimizer.pt"], "e"),
    ],
)
def test_open_checkpoint_takes_folders_as_libraries_write_them(tmp_path, files, expected):
    for file in files:
        if file.endswith(".json"):
            (tmp_path / file).write_text("{}")
        else:
            put(tmp_path, {file: [file[0]]})
    assert list(values(tmp_path)) == [expected]


def test_open_checkpoint_refuses_a_folder_with_several_or_none(tmp_path):
    with pytest.raises(CheckpointError, match="holds no safetensors checkpoints"):
        open_checkpoint(tmp_path)
    put(tmp_path, {"unet/model.safetensors": ["u"], "vae/model.safetensors": ["v"]})
    with pytest.raises(CheckpointError, match=r"sub-folders hold unet.model\.safetensors, vae"):
        open_checkpoint(tmp_path)
    put(tmp_path, {"one.safetensors": ["a"], "two.safetensors": ["b"]})
    said = r"holds 2 checkpoints \(one.safetensors, two.safetensors\); name one"
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


def test_open_checkpoint_refuses_a_file_beside_an_index_that_is_none_of_its_shards(tmp_path):
    put(tmp_path, {ONE: ["a"], TWO: ["b"], "other.safetensors": ["c"]}, {"a": ONE, "b": TWO})
    with pytest.raises(CheckpointError, match=r"2 checkpoints .*other.safetensors"):
        open_checkpoint(tmp_path)


def test_open_checkpoint_refuses_shards_that_contradict_each_other(tmp_path):
    put(tmp_path, {ONE: ["a"], TWO: ["a", "b"]}, {"a": ONE, "b": TWO})
    assert list(values(tmp_path)) == ["a", "b"]  # equal twins do no harm
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / TWO)
    with pytest.raises(CheckpointError, match="different tensors 'a'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"a": "../out.safetensors"}, "outside its folder"),
        ({"a": "/etc/passwd"}, "outside its folder"),
        ({"a": "missing.safetensors"}, "which is missing"),
        ({"a": "x" * 5000}, "which is missing"),
        ({"a": "nul\0.safetensors"}, "outside its folder"),
        ({"nope": ONE}, "names the tensor 'nope', which its shard lacks"),
        ([1], "is not an index of shards"),
    ],
)
def test_open_checkpoint_refuses_an_unsound_index(tmp_path, index, said):
    put(tmp_path, {ONE: ["a"]}, index)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path / INDEX)


@pytest.mark.parametrize("text", ["{}", "{nonsense", '{"weight_map": 3}', "[" * 100_000])
def test_open_checkpoint_refuses_json_that_is_no_index(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"is not an index of shards|is neither"):
        open_checkpoint(tmp_path / "a.json")


def test_open_checkpoint_refuses_what_is_not_saved():
    with pytest.raises(CheckpointError, match="source is a dict; save it first, and give the path"):
        open_checkpoint({})
