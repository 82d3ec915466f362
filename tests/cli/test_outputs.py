"""Outputs that would lose something are refused before any work."""

from pathlib import Path

import pytest

from flyweight.cli.outputs import check_fly_output, check_input, check_no_stream
from flyweight.errors import CheckpointError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.dat").write_bytes(b"weights")
    return tmp_path


def fly(path, *, inputs=("in.dat",), force=False):
    check_fly_output(Path(path), inputs=inputs, force=force)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_check_fly_output_refuses_the_input_under_any_name(link, force):
    if link == "symbolic":
        Path("out.fly").symlink_to("in.dat")
    elif link == "hard":
        Path("out.fly").hardlink_to("in.dat")
    with pytest.raises(CheckpointError, match="input"):
        fly("in.dat" if link == "same" else "out.fly", force=force)


@pytest.mark.parametrize("source", ["model", "model/model.safetensors.index.json"])
def test_check_fly_output_refuses_a_shard(source):
    Path("model").mkdir()
    for name in ("model.safetensors.index.json", "part-1.dat"):
        (Path("model") / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="input"):
        fly("model/part-1.dat", inputs=[source], force=True)


def test_check_fly_output_replaces_a_fly_file_beside_shards():
    Path("model").mkdir()
    for name in ("model.safetensors.index.json", "model.fly"):
        (Path("model") / name).write_bytes(b"x")
    fly("model/model.fly", inputs=["model/model.safetensors.index.json"], force=True)


def test_check_fly_output_needs_force_for_a_file_that_exists():
    Path("out.fly").write_bytes(b"last week's")
    with pytest.raises(CheckpointError, match=r"out\.fly exists already; pass force=True"):
        fly("out.fly")
    fly("out.fly", force=True)
    fly("new.fly")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.PTH", "x.toml"])
def test_check_fly_output_refuses_names_of_other_formats(name):
    with pytest.raises(CheckpointError, match=r"named like a .* name a \.fly file"):
        fly(name)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/stderr"])
def test_check_no_stream_refuses_streams(name):
    with pytest.raises(CheckpointError, match=rf"^{name} is not a file.*; name a file$"):
        check_no_stream(Path(name))
    with pytest.raises(CheckpointError, match=rf"^{name} is not a file.*; name a file$"):
        fly(name, force=True)


def test_check_input_refuses_stdin():
    with pytest.raises(CheckpointError, match="stdin cannot be read; save it to a file"):
        check_input("-")
