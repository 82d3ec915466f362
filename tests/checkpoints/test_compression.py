"""Checkpoints become files and come back: bit for bit, or quantized."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from flyweight.checkpoints import compress_checkpoint, tensor_quantization
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.format import Reader
from flyweight.io import decompress, load, load_state_dict
from flyweight.quantization import kmeans_1d


def weights(dtype, *, seed=0, shape=(64, 96)):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 0.02
    values[torch.rand(shape, generator=generator) < 0.2] = 0
    return values.to(dtype)


def state():
    first = weights(torch.float32)
    return {
        "layer.weight": first,
        "layer.bias": torch.linspace(-1, 1, 64),
        "half.weight": weights(torch.float16, seed=1),
        "brain.weight": weights(torch.bfloat16, seed=2),
        "tied.weight": first.clone(),
        "double": weights(torch.float64, seed=3, shape=(256, 96)),  # has a checksum of its own
        "eight": weights(torch.float32, seed=4).to(torch.float8_e4m3fn),
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flags": torch.arange(6000) % 3 == 0,
        "ids": torch.arange(5000, dtype=torch.int32).reshape(50, 100),
        "nan": torch.full((70, 70), float("nan")),
    }


def bits_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(ours, theirs):
    return all(
        ours[name].dtype == tensor.dtype
        and ours[name].shape == tensor.shape
        and torch.equal(bits_of(ours[name]), bits_of(tensor))
        for name, tensor in theirs.items()
    ) and set(ours) == set(theirs)


def encodings_of(path):
    with Reader(path) as reader:
        return {outline.name: outline.encoding for outline in reader.outlines}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(state(), path, metadata={"format": "pt", "by": "hand"})
    return path


def test_compress_checkpoint_is_lossless_without_bits(tmp_path, checkpoint):
    report = compress_checkpoint(checkpoint, tmp_path / "a.fly")
    assert report.file_bytes == (tmp_path / "a.fly").stat().st_size
    assert report.tensor_bytes == sum(len(bits_of(t)) for t in state().values())
    assert report.tensor_ratio == report.tensor_bytes / report.file_bytes
    assert (report.tensors, report.quantized) == (len(state()), 0)
    assert same(load_state_dict(tmp_path / "a.fly"), state())
    decompress(tmp_path / "a.fly", tmp_path / "b.safetensors")
    assert same(load_file(tmp_path / "b.safetensors"), state())
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "by": "hand"}


def test_compress_checkpoint_keeps_random_bits_of_every_type(tmp_path):
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (40_000,), generator=generator, dtype=torch.uint8)
    names = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int64")
    made = {name: raw.view(getattr(torch, name)) for name in names}
    made = {name: tensor.clone().reshape(10, -1) for name, tensor in made.items()}
    save_file(made, tmp_path / "a.safetensors")
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly")
    assert same(load_state_dict(tmp_path / "a.fly"), made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32])
def test_compress_checkpoint_is_small_for_repeated_values(tmp_path, dtype):
    draw = torch.Generator().manual_seed(0)
    sparse = torch.randn(128, 128, generator=draw) * (torch.rand(128, 128, generator=draw) < 0.1)
    few = torch.randint(-8, 8, (128, 128), generator=draw) / 16 - 0.01
    scale = 1000 if dtype == torch.int32 else 1
    made = {"sparse": (scale * sparse).to(dtype), "few": (scale * few).to(dtype)}
    made["negative zeros"] = -made["sparse"]
    save_file(made, tmp_path / "a.safetensors")
    report = compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly")
    assert report.quantized == 0
    assert same(load_state_dict(tmp_path / "a.fly"), made)
    assert report.file_bytes < 0.3 * report.tensor_bytes


BIT_TYPES = ("float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz", "float4_e2m1fn_x2")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("name", BIT_TYPES)
def test_compress_checkpoint_keeps_the_bits_of_types_it_lacks(tmp_path, name, suffix):
    raw = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(getattr(torch, name))
    source, back = tmp_path / f"a.{suffix}", tmp_path / "b.safetensors"
    (save_file if suffix == "safetensors" else torch.save)({"w": raw}, source)
    compress_checkpoint(source, tmp_path / "a.fly")
    decompress(tmp_path / "a.fly", back)
    assert same(load_file(back), {"w": raw})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_compress_checkpoint_with_kmeans_gives_levels_and_keeps_zeros(tmp_path, dtype, bits):
    made = {"w": weights(dtype), "small": weights(dtype, shape=(10, 10))}
    save_file(made, tmp_path / "a.safetensors")
    report = compress_checkpoint(
        tmp_path / "a.safetensors", tmp_path / "a.fly", bits=bits, grid="kmeans"
    )
    got = load_state_dict(tmp_path / "a.fly")
    assert report.quantized == 1
    assert torch.equal(bits_of(got["small"]), bits_of(made["small"]))
    assert got["w"].dtype == dtype
    assert len(got["w"].unique()) <= 2**bits + 1
    assert not got["w"][made["w"] == 0].any()
    error = (got["w"].double() - made["w"].double()).square().mean() / made["w"].double().var()
    assert error < {1: 0.5, 3: 0.06, 8: 0.001}[bits]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_compress_checkpoint_uses_the_centroids_of_kmeans_itself(tmp_path, dtype):
    weight = weights(dtype)
    save_file({"w": weight}, tmp_path / "a.safetensors")
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly", bits=3, grid="kmeans")
    levels = load_state_dict(tmp_path / "a.fly")["w"].unique()
    expected = kmeans_1d(weight[weight != 0].double(), 8, init="optimal").to(dtype)
    assert torch.equal(levels[levels != 0], expected)


def test_compress_checkpoint_quantizes_large_finite_float_tensors_only(tmp_path, checkpoint):
    report = compress_checkpoint(checkpoint, tmp_path / "a.fly", bits=4)
    got = load_state_dict(tmp_path / "a.fly")
    lossy = {"layer.weight", "tied.weight", "half.weight", "brain.weight"}
    exact = {name: tensor for name, tensor in state().items() if name not in lossy}
    assert same({name: got[name] for name in exact}, exact)
    assert report.quantized == 3  # one of the tied pair is an alias
    assert torch.equal(got["tied.weight"], got["layer.weight"])
    for name in lossy:
        assert 0 < (got[name].double() - state()[name].double()).norm() < 0.3


def test_compress_checkpoint_stores_equal_tensors_once(tmp_path, checkpoint):
    compress_checkpoint(checkpoint, tmp_path / "a.fly")
    encodings = encodings_of(tmp_path / "a.fly")
    assert {encodings["layer.weight"], encodings["tied.weight"]} == {"alias", "dense"}


def test_load_state_dict_reads_only_the_tensors_named(tmp_path, checkpoint):
    path = tmp_path / "a.fly"
    compress_checkpoint(checkpoint, path)
    got = load_state_dict(path, names=["tied.weight", "steps"])
    assert same(got, {name: state()[name] for name in ("tied.weight", "steps")})
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 1  # in the largest tensor
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        load_state_dict(path)
    assert same(load_state_dict(path, names=["steps"]), {"steps": state()["steps"]})
    with pytest.raises(FormatError, match="'nope'"):
        load_state_dict(path, names=["nope"])


def test_compress_checkpoint_gives_the_same_bytes_on_any_number_of_threads(tmp_path, checkpoint):
    for threads in (1, 3):
        compress_checkpoint(checkpoint, tmp_path / f"{threads}.fly", bits=4, threads=threads)
    assert (tmp_path / "1.fly").read_bytes() == (tmp_path / "3.fly").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 0}, "1 to 8 bits, not to 0"),
        ({"bits": 9}, "1 to 8 bits, not to 9"),
        ({"bits": 4.5}, "1 to 8 bits, not to 4.5"),
        ({"bits": 4.0}, "1 to 8 bits, not to 4.0"),
        ({"bits": True}, "1 to 8 bits, not to True"),
        ({"bits": "4"}, "1 to 8 bits, not to '4'"),
        ({"bits": 4, "grid": "round"}, "grid 'round' is unknown; choose 'auto', 'kmeans'"),
        ({"bits": 4, "effort": "most"}, "effort 'most' is unknown"),
        ({"grid": "uniform"}, "grid 'uniform' has no effect on a lossless checkpoint"),
        ({"threads": 0}, "encoded on 1 thread or more, not 0"),
        ({"threads": -1, "bits": 4}, "encoded on 1 thread or more, not -1"),
        ({"effort": "smallest"}, "effort 'smallest' has no effect on a lossless checkpoint"),
    ],
)
def test_compress_checkpoint_refuses_impossible_settings(tmp_path, checkpoint, settings, said):
    with pytest.raises(ModelError, match=said):
        compress_checkpoint(checkpoint, tmp_path / "a.fly", **settings)
    assert not (tmp_path / "a.fly").exists()


def test_compress_checkpoint_warns_if_no_tensor_is_quantized(tmp_path):
    made = {"vector": torch.randn(5000), "small": torch.randn(63, 65)}
    save_file(made, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="2 or more dimensions and at least 4,096 elements"):
        report = compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly", bits=4)
    assert report.quantized == 0
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "b.fly")  # no warning


def test_compress_checkpoint_leaves_the_old_file_on_a_full_disk(tmp_path, checkpoint, monkeypatch):
    target = tmp_path / "a.fly"
    target.write_bytes(b"old")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensor_quantization, "prepare_shared", full)
    with pytest.raises(OSError, match="No space left"):
        compress_checkpoint(checkpoint, target, bits=4)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fly", "model.safetensors"]


def test_compress_checkpoint_refuses_a_damaged_checkpoint_before_writing(tmp_path, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        compress_checkpoint(checkpoint, tmp_path / "a.fly")
    with pytest.raises(CheckpointError, match="does not exist"):
        compress_checkpoint(checkpoint, tmp_path / "no" / "a.fly")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
def test_compress_checkpoint_refuses_to_overwrite_its_input(tmp_path, checkpoint, how):
    before, output = checkpoint.read_bytes(), tmp_path / "link.fly"
    if how == "itself":
        output = checkpoint
    elif how == "hard link":
        os.link(checkpoint, output)
    else:
        output.symlink_to(checkpoint)
    with pytest.raises(CheckpointError, match="is an input of this operation"):
        compress_checkpoint(checkpoint, output, bits=2)
    assert checkpoint.read_bytes() == before


def test_compress_checkpoint_refuses_to_overwrite_index_and_shards(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "m-00001-of-00001.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m-00001-of-00001.safetensors"}}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for source in (index, tmp_path):
        for output in before:
            with pytest.raises(CheckpointError, match="is an input of this operation"):
                compress_checkpoint(source, output)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_compress_checkpoint_replaces_an_existing_output_only_if_allowed(tmp_path, checkpoint):
    (tmp_path / "a.fly").write_bytes(b"old")
    with pytest.raises(CheckpointError, match="exists"):
        compress_checkpoint(checkpoint, tmp_path / "a.fly", force=False)
    assert (tmp_path / "a.fly").read_bytes() == b"old"
    compress_checkpoint(checkpoint, tmp_path / "a.fly", force=True)
    assert same(load_state_dict(tmp_path / "a.fly"), state())


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs devices")  # noqa: PTH110
def test_compress_checkpoint_writes_into_a_device(checkpoint):
    before = os.stat("/dev/null").st_mode  # noqa: PTH116
    report = compress_checkpoint(checkpoint, "/dev/null", bits=4)
    assert report.file_bytes > 0
    assert os.stat("/dev/null").st_mode == before  # noqa: PTH116


def test_compress_checkpoint_refuses_a_fly_file(tmp_path, checkpoint):
    compress_checkpoint(checkpoint, tmp_path / "a.fly")
    with pytest.raises(CheckpointError, match=r"is a \.fly file already; decompress it first"):
        compress_checkpoint(tmp_path / "a.fly", tmp_path / "b.fly")


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state", "model_state_dict"])
def test_compress_checkpoint_takes_torch_state_dicts(tmp_path, nested):
    torch.save({nested: state(), "epoch": 3} if nested else state(), tmp_path / "a.pt")
    report = compress_checkpoint(tmp_path / "a.pt", tmp_path / "a.fly")
    assert report.tensors == len(state())
    assert same(load_state_dict(tmp_path / "a.fly"), state())


def test_compress_checkpoint_stores_a_tied_and_a_strided_tensor_of_torch(tmp_path):
    weight = weights(torch.float32)
    made = {"weight": weight, "tied": weight, "strided": weight.T[::2]}
    torch.save(made, tmp_path / "a.pt")
    compress_checkpoint(tmp_path / "a.pt", tmp_path / "a.fly")
    assert same(load_state_dict(tmp_path / "a.fly"), made)
    assert encodings_of(tmp_path / "a.fly")["tied"] == "alias"


def test_compress_checkpoint_reports_progress_in_bytes(tmp_path, checkpoint):
    seen = []
    report = compress_checkpoint(
        checkpoint, tmp_path / "a.fly", progress=lambda *call: seen.append(call)
    )
    assert seen[-1][1:] == (report.tensor_bytes, report.tensor_bytes)
    assert {text for text, _, _ in seen} == {"compress tensors"}
    assert set(report.to_dict()) == {
        "tensor_bytes",
        "file_bytes",
        "tensor_ratio",
        "tensors",
        "quantized",
        "seconds",
    }


def test_compress_checkpoint_holds_no_more_tensors_than_threads(tmp_path, monkeypatch):
    made = {f"w{place}": torch.full((70, 70), float(place)) for place in range(6)}
    save_file(made, tmp_path / "a.safetensors")
    running, most, lock = [0], [0], threading.Lock()
    original = tensor_quantization.prepare_shared

    def counted(*arguments, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return original(*arguments, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(tensor_quantization, "prepare_shared", counted)
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly", bits=4, threads=2)
    assert 1 <= most[0] <= 2


def test_file_metadata_has_the_keys_of_the_checkpoint_with_a_prefix(tmp_path, checkpoint):
    compress_checkpoint(checkpoint, tmp_path / "a.fly")
    with Reader(tmp_path / "a.fly") as reader:
        assert dict(reader.metadata) == {"checkpoint.format": "pt", "checkpoint.by": "hand"}
    assert np.isfinite(compress_checkpoint(checkpoint, tmp_path / "b.fly").seconds)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_names_of_wrapped_models_are_written_and_load(tmp_path, prefix, suffix):
    layer = nn.Linear(80, 70)
    made = {prefix + name: value for name, value in layer.state_dict().items()}
    (torch.save if suffix == "pt" else save_file)(made, tmp_path / f"a.{suffix}")
    compress_checkpoint(tmp_path / f"a.{suffix}", tmp_path / "a.fly")
    assert set(load_state_dict(tmp_path / "a.fly")) == set(made)
    loaded = load(tmp_path / "a.fly", nn.Linear(80, 70))
    assert torch.equal(loaded.weight, layer.weight)
    assert torch.equal(loaded.bias, layer.bias)
