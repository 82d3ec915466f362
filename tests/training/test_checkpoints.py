"""States of training on disk: round trip, damage, and other contents."""

import pytest
import torch

from flyweight.errors import CheckpointError
from flyweight.training import read_checkpoint, write_checkpoint

STATE = {"a": torch.tensor([1.0, 2.0]), "n": 3, "list": [0.5, None], "inner": {"b": torch.ones(2)}}


@pytest.fixture
def path(tmp_path):
    write_checkpoint(STATE, tmp_path / "state.pt")
    return tmp_path / "state.pt"


def test_read_checkpoint_returns_what_was_written(path):
    state = read_checkpoint(path)
    assert torch.equal(state["a"], STATE["a"])
    assert torch.equal(state["inner"]["b"], STATE["inner"]["b"])
    assert (state["n"], state["list"]) == (3, [0.5, None])
    assert [found.name for found in path.parent.iterdir()] == ["state.pt"]


def test_read_checkpoint_detects_every_flipped_bit(path):
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 0x40
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"state\.pt .*delete it and start again"):
            read_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 20, 27, 58, 59, 60, 400, -1])
def test_read_checkpoint_refuses_truncated_files(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="delete it"):
        read_checkpoint(path)


def test_read_checkpoint_refuses_files_of_other_programs(tmp_path):
    torch.save(STATE, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="is not a training state"):
        read_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("wrong", [[1, 2], torch.ones(2), "text", None])
def test_read_checkpoint_refuses_other_contents(tmp_path, wrong):
    write_checkpoint(wrong, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="no training state, which is a dict"):
        read_checkpoint(tmp_path / "state.pt")


class Runs:
    def __reduce__(self):
        return print, ("run",)


def test_read_checkpoint_runs_no_code(tmp_path, capsys):
    write_checkpoint({"a": Runs()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="plain tensors"):
        read_checkpoint(tmp_path / "state.pt")
    assert capsys.readouterr().out == ""


def test_read_checkpoint_names_what_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path)


def test_write_checkpoint_leaves_the_old_file_on_a_full_disk(path, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint({"n": 4}, path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["state.pt"]
