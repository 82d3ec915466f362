"""Any checkpoint becomes a file: few values a tensor, or bit for bit; memory stays small."""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flyweight import decompress, ledger, load
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.proof_old import decompress_to_file
from flyweight.quantization import kmeans_1d
from flyweight.compression import quantize
from flyweight.checkpoints import compress_checkpoint

FLOATS = [torch.float16, torch.bfloat16, torch.float32]


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
        "double": weights(torch.float64, seed=3),
        "eight": weights(torch.float32, seed=4).to(torch.float8_e4m3fn),
        "steps": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "flags": torch.arange(6000) % 3 == 0,
        "ids": torch.arange(5000, dtype=torch.int32).reshape(50, 100),
        "nan": torch.full((70, 70), float("nan")),
    }


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(ours, theirs):
    return all(
        ours[name].dtype == tensor.dtype
        and ours[name].shape == tensor.shape
        and torch.equal(bits(ours[name]), bits(tensor))
        for name, tensor in theirs.items()
    ) and set(ours) == set(theirs)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(state(), path, metadata={"format": "pt", "by": "hand"})
    return path


@pytest.mark.parametrize("effort", ["fast", "balanced", "smallest"])
def test_lossless_is_equal_bit_for_bit_and_keeps_the_metadata(tmp_path, checkpoint, effort):
    report = compress_checkpoint(checkpoint, tmp_path / "a.fly", effort=effort)
    assert report.file_bytes == (tmp_path / "a.fly").stat().st_size
    assert report.quantized == 0
    assert report.tensors == len(state())
    assert report.tensor_bytes == sum(len(bits(t)) for t in state().values())
    assert same(decompress(tmp_path / "a.fly"), state())
    decompress_to_file(tmp_path / "a.fly", tmp_path / "b.safetensors")
    assert same(load_file(tmp_path / "b.safetensors"), state())
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "by": "hand"}


def test_random_bits_of_floats_survive(tmp_path):
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (40_000,), generator=generator, dtype=torch.uint8)
    names = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int64")
    made = {name: raw.view(getattr(torch, name)) for name in names}
    made = {name: tensor.clone().reshape(10, -1) for name, tensor in made.items()}
    save_file(made, tmp_path / "a.safetensors")
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly")
    assert same(decompress(tmp_path / "a.fly"), made)


@pytest.mark.parametrize("grid", ["kmeans", "uniform"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits_", [1, 3, 8])
def test_large_float_tensors_share_few_values_and_keep_their_zeros(tmp_path, grid, dtype, bits_):
    made = {"w": weights(dtype), "small": weights(dtype, shape=(10, 10))}
    save_file(made, tmp_path / "a.safetensors")
    report = compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly", bits=bits_, grid=grid)
    got = decompress(tmp_path / "a.fly")
    assert report.quantized == 1
    assert torch.equal(bits(got["small"]), bits(made["small"]))
    assert got["w"].dtype == dtype
    assert len(got["w"].unique()) <= 2**bits_ + 1
    assert not got["w"][made["w"] == 0].any()
    error = (got["w"].double() - made["w"].double()).square().mean() / made["w"].double().var()
    assert error < {1: 0.5, 3: 0.06, 8: 0.001}[bits_]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_floats_get_the_centroids_of_k_means_itself(tmp_path, dtype):
    weight = weights(dtype)
    save_file({"w": weight}, tmp_path / "a.safetensors")
    compress_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.fly", bits=3)
    levels = decompress(tmp_path / "a.fly")["w"].unique()
    expected = kmeans_1d(weight[weight != 0].double(), 8, init="density").to(dtype)
    assert torch.equal(levels[levels != 0], expected)


def test_what_is_not_large_and_finite_float_is_kept(tmp_path, checkpoint):
    report = compress_checkpoint(checkpoint, tmp_path / "a.fly", bits=4)
    got = decompress(tmp_path / "a.fly")
    lossy = {"layer.weight", "tied.weight", "half.weight", "brain.weight"}
    kept = {name: tensor for name, tensor in state().items() if name not in lossy}
    assert same({name: got[name] for name in kept}, kept)
    assert report.quantized == 3  # one of the tied pair is an alias
    assert all(len(got[name].unique()) <= 17 for name in lossy)


def test_equal_tensors_are_stored_once(tmp_path, checkpoint):
    compress_checkpoint(checkpoint, tmp_path / "a.fly")
    rows = {row.name: row for row in inspect(tmp_path / "a.fly").rows}
    tied = {rows["layer.weight"].encoding, rows["tied.weight"].encoding}
    assert tied == {"alias", "dense"}


def test_only_the_tensors_named_are_read(tmp_path, checkpoint):
    path = tmp_path / "a.fly"
    compress_checkpoint(checkpoint, path)
    got = load(path, names=["tied.weight", "steps"])
    assert same(got, {name: state()[name] for name in ("tied.weight", "steps")})
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # in the last of the large tensors
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged"):
        decompress(path)
    assert same(load(path, names=["steps"]), {"steps": state()["steps"]})
    with pytest.raises(FormatError, match="no tensor 'nope'"):
        load(path, names=["nope"])


def test_the_same_bytes_on_any_number_of_threads(tmp_path, checkpoint):
    for threads in (1, 3):
        compress_checkpoint(checkpoint, tmp_path / f"{threads}.fly", bits=4, threads=threads)
    assert (tmp_path / "1.fly").read_bytes() == (tmp_path / "3.fly").read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 0}, "1 to 8 bits; 0"),
        ({"bits": 9}, "1 to 8 bits; 9"),
        ({"grid": "round"}, "grid 'round'"),
        ({"effort": "some"}, "effort 'some'"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, checkpoint, settings, said):
    with pytest.raises(ModelError, match=said):
        compress_checkpoint(checkpoint, tmp_path / "a.fly", **settings)
    assert not (tmp_path / "a.fly").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path, checkpoint, monkeypatch):
    target = tmp_path / "a.fly"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        compress_checkpoint(checkpoint, target, bits=4)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.fly", "model.safetensors"]


def test_a_damaged_checkpoint_is_refused_before_anything_is_written(tmp_path, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        compress_checkpoint(checkpoint, tmp_path / "a.fly")
    with pytest.raises(CheckpointError, match="does not exist"):
        compress_checkpoint(checkpoint, tmp_path / "no" / "a.fly")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_progress_counts_bytes(tmp_path, checkpoint):
    seen = []
    report = compress_checkpoint(checkpoint, tmp_path / "a.fly", progress=lambda *told: seen.append(told))
    assert seen[-1][1:] == (report.tensor_bytes, report.tensor_bytes)
    assert all(text.endswith("MB/s") for text, _, _ in seen)
    assert dataclasses.asdict(report) == report.to_dict()
    assert np.isfinite(report.ratio)


def test_the_bytes_are_the_same_without_compiled_loops(tmp_path, checkpoint, monkeypatch):
    pytest.importorskip("numba")
    compress_checkpoint(checkpoint, tmp_path / "compiled.fly", bits=4)
    used = []
    monkeypatch.setattr(quantize, "loops_for", lambda module, size: used.append(size))
    compress_checkpoint(checkpoint, tmp_path / "plain.fly", bits=4)
    assert used
    assert (tmp_path / "plain.fly").read_bytes() == (tmp_path / "compiled.fly").read_bytes()
