"""Other people's files: read without running them, and put into a module whole or not at all."""

import errno
import os
import pickle
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flyweight.errors import CheckpointError, ModelError
from flyweight.modules import build, fill_
from flyweight.models import checkpoint_files
from flyweight.cifar import create_model
from flyweight.checkpoints import read_state_dict, write_state_dict


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(4, 3, generator=generator),
        "bias": torch.randn(4, generator=generator).half(),
        "count": torch.tensor(7),
    }


def same(first, second):
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and torch.equal(first[n], second[n]) for n in first
    )


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_torch_checkpoints_are_read(tmp_path, state, wrapped):
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "a.pt")
    assert same(read_state_dict(tmp_path / "a.pt"), state)


def test_safetensors_and_the_old_form_are_read(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "a.safetensors"), state)
    assert same(read_state_dict(str(tmp_path / "old.pth")), state)


class _Attack:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_no_code_is_run(tmp_path, monkeypatch, state):
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
        ({"weight": torch.ones(1), "epoch": 3}, "'epoch', which is not a tensor"),
        ({3: torch.ones(1)}, "3, which is not a tensor"),
    ],
)
def test_other_plain_contents_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said):
        read_state_dict(tmp_path / "a.pt")


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
    assert not any("\n" in sentence for sentence in refused)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_state_dict(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no file .*resnet20"):
        read_state_dict(tmp_path / "missing.pt")


def test_writing_keeps_every_bit_of_tied_and_strided_tensors(tmp_path, state):
    state |= {"tied": state["weight"], "strided": state["weight"].T[::2]}
    path = tmp_path / "a.safetensors"
    write_state_dict(state, path)
    assert same(read_state_dict(path), state)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_writing_is_all_or_nothing(tmp_path, state, monkeypatch):
    def half(tensors, path):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.safetensors"
    write_state_dict(state, path)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint_files, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        write_state_dict({}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_module_is_filled_whole_or_not_at_all():
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight, bias = torch.ones(2, 3), torch.ones(2)
    for state, said in [
        ({"weight": weight}, r"m does not fit .*'bias' is missing \(1 tensors missing, 0 too many"),
        ({"weight": weight, "bias": bias, "x": bias}, "'x' is not known to it"),
        ({"weight": weight, "bias": torch.ones(3)}, r"'bias' has shape \(3,\), not \(2,\)"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            fill_(model, state, where="m")
        assert same(dict(model.state_dict()), before)
    fill_(model, {"weight": weight, "bias": bias}, where="m")
    assert torch.equal(model.weight, weight)


def test_a_checkpoint_of_another_architecture_is_refused():
    state = create_model("resnet20-b").state_dict()
    with pytest.raises(CheckpointError, match="too many"):
        fill_(create_model("resnet20"), state, where="m")


def test_build_takes_names_paths_and_functions(tmp_path, monkeypatch):
    (tmp_path / "some_networks.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Linear(2, 5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_networks", raising=False)
    assert build("some_networks:small").out_features == 5
    assert build(lambda: nn.Linear(2, 6)).out_features == 6
    assert sum(p.numel() for p in build("resnet20").parameters()) == 269_722
    monkeypatch.delitem(sys.modules, "some_networks")


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("resnet21", "'resnet21' is unknown; known are resnet20"),
        ("nosuch:thing", "cannot be imported .*nosuch"),
        ("torch.nn:Nosuch", "cannot be imported"),
        (":", "cannot be imported"),
        ("..up:thing", "cannot be imported"),
        ("torch.nn:Linear", "failed to build a module"),
        ("os:getcwd", "gave a str, not a torch.nn.Module"),
    ],
)
def test_what_cannot_be_built_is_said(architecture, said):
    with pytest.raises(ModelError, match=said):
        build(architecture)
