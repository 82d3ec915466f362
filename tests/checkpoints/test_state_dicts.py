"""State dicts of other people: read without running them, written whole or not at all."""

import errno
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flyweight.checkpoints import SafetensorsWriter, read_state_dict, write_state_dict
from flyweight.errors import CheckpointError


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bias": torch.randn(4, generator=generator).half(),
        "brain": torch.randn(4, generator=generator).bfloat16(),
        "count": torch.tensor(7),
    }


def same(first, second):
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and torch.equal(first[n], second[n]) for n in first
    )


@pytest.mark.parametrize(
    "nested", [None, "state_dict", "model", "model_state", "model_state_dict", "module"]
)
@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin"])
def test_read_state_dict_takes_nested_torch_checkpoints(tmp_path, state, nested, suffix):
    path = tmp_path / f"a.{suffix}"
    torch.save({nested: state, "epoch": 3, "optimizer": {}} if nested else state, path)
    assert same(read_state_dict(path), state)


def test_read_state_dict_takes_safetensors_and_the_old_form(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "a.safetensors"), state)
    assert same(read_state_dict(str(tmp_path / "old.pth")), state)


def test_read_state_dict_gives_tensors_of_their_own(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    found = read_state_dict(tmp_path / "a.pt")
    found["weight"].zero_()
    assert (tmp_path / "a.pt").read_bytes() == before
    assert same(read_state_dict(tmp_path / "a.pt"), state)


class _Attack:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_read_state_dict_runs_no_code(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    torch.save(state | {"evil": _Attack()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(_Attack()))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")  # a whole module asks for its class
    for name in ("a.pt", "b.pt", "module.pt"):
        with pytest.raises(CheckpointError, match=rf"{name} is not a state dict.*runs no code"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "executed").exists()
    pickle.loads((tmp_path / "b.pt").read_bytes())
    assert (tmp_path / "executed").exists()  # the attack is a real one


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(1)], "no tensors by name"),
        ({}, "no tensors by name"),
        (torch.ones(2), "no tensors by name"),
        ({"state_dict": {}}, "no tensors by name"),
        ({"weight": torch.ones(1), "epoch": 3}, "'epoch', which is not a tensor"),
        ({3: torch.ones(1)}, "3, which is not a tensor"),
    ],
)
def test_read_state_dict_refuses_other_contents(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore")  # torch warns of prototypes
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.eye(3).to_sparse(), "is sparse; save its dense values"),
        (lambda: torch.eye(3).to_sparse_csr(), "is sparse; save its dense values"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "is quantized by torch; save its values",
        ),
        (lambda: torch.empty(3, device="meta"), "is on the meta device and holds no values"),
        (
            lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "is a nested tensor; save its parts",
        ),
        (lambda: torch.zeros(3, dtype=torch.complex32), "is of torch.complex32, which no file"),
    ],
)
def test_odd_tensors_are_refused_in_one_sentence(tmp_path, make, said):
    odd = make()
    with pytest.raises(CheckpointError, match=f"tensor 'w' {said}"):
        write_state_dict({"w": odd}, tmp_path / "a.safetensors")
    torch.save({"w": odd}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"a.pt cannot be used: tensor 'w' {said}"):
        read_state_dict(tmp_path / "a.pt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_parameters_conjugates_and_negatives_are_read(tmp_path):
    value = torch.tensor([1 + 2j, 3 - 1j])
    state = {"p": nn.Parameter(torch.ones(2)), "c": value.conj(), "n": value.clone().conj().imag}
    torch.save(state, tmp_path / "a.pt")
    found = read_state_dict(tmp_path / "a.pt")
    assert torch.equal(found["p"], torch.ones(2))
    assert torch.equal(found["c"], torch.tensor([1 - 2j, 3 + 1j]))
    assert torch.equal(found["n"], torch.tensor([-2.0, 1.0]))


def test_damaged_files_raise_nothing_but_checkpoint_errors(tmp_path, state):
    torch.save(state, tmp_path / "new.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors")
    drawn, refused = random.Random(5), []
    for name in ("new.pt", "old.pt", "a.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(drawn.randint(1, 4)):
                damaged[drawn.randrange(min(600, len(whole)))] = drawn.randrange(256)
            if drawn.random() < 0.3:
                del damaged[drawn.randrange(len(damaged)) :]
            path = tmp_path / f"damaged{Path(name).suffix}"
            path.write_bytes(damaged)
            try:
                found = read_state_dict(path)
            except CheckpointError as error:
                refused.append(str(error))
            else:
                assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert len(refused) > 100
    assert all(sentence.isprintable() for sentence in refused)


def test_read_state_dict_names_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*missing\.pt"):
        read_state_dict(tmp_path / "missing.pt")


def test_write_state_dict_keeps_every_bit_of_tied_and_strided_tensors(tmp_path, state):
    state |= {
        "tied": state["weight"],
        "strided": state["weight"].T[::2],
        "empty": torch.zeros(0, 4),
        "scale": torch.arange(4, dtype=torch.uint8).view(torch.float8_e8m0fnu),
    }
    path = tmp_path / "a.safetensors"
    write_state_dict(state, path)
    for found in (load_file(path), read_state_dict(path)):
        raw = found.pop("scale")
        assert raw.dtype == torch.float8_e8m0fnu
        assert raw.view(torch.uint8).tolist() == [0, 1, 2, 3]
        assert same(found, {name: found[name] for name in state if name != "scale"})
        assert all(torch.equal(found[name], state[name]) for name in found)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_write_state_dict_is_all_or_nothing(tmp_path, state, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_state_dict(state, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SafetensorsWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        write_state_dict({"x": torch.ones(2)}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_read_state_dict_reads_what_numpy_lacks(tmp_path):
    raw = torch.arange(256, dtype=torch.uint8)
    state = {
        name: raw.clone().view(getattr(torch, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
    }
    write_state_dict(state, tmp_path / "a.safetensors")
    for name, value in read_state_dict(tmp_path / "a.safetensors").items():
        assert value.dtype == getattr(torch, name)
        assert np.array_equal(value.view(torch.uint8).numpy(), raw.numpy())
