"""compress-checkpoint, decompress and inspect."""

import errno
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import flyweight
from tests.cli.conftest import contents

LOSSLESS = ("compress-checkpoint", "tiny.safetensors", "-o", "out.fly", "--lossless")


def test_compress_checkpoint_prints_one_json_object(folder, cli):
    report = cli(*LOSSLESS, "--json").json()
    assert report["file_bytes"] == (folder / "out.fly").stat().st_size
    assert report["quantized"] == 0


def test_compress_checkpoint_prints_a_table(folder, cli):
    result = cli(*LOSSLESS, "--quiet")
    assert (result.code, result.err) == (0, "")
    assert f"{(folder / 'out.fly').stat().st_size:,}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.filterwarnings("always")
def test_compress_checkpoint_warns_if_nothing_was_quantized(folder, cli):
    result = cli("compress-checkpoint", "tiny.safetensors", "-o", "out.fly", "--bits", "4", "-q")
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "flyweight: no tensor was quantized, and out.fly is lossless; only" in result.err
    assert "2 or more dimensions and at least 4,096 elements" in result.err


def test_compress_checkpoint_names_the_rule_of_its_bits(folder, cli):
    save_file({"weight": torch.randn(64, 64), "bias": torch.randn(64)}, "big.safetensors")
    result = cli("compress-checkpoint", "big.safetensors", "-o", "out.fly", "--bits", "4", "-q")
    assert (result.code, result.err) == (0, "")
    assert "2, 1 quantized, the others lossless" in result.out
    assert "float tensors of 2+ dimensions and 4,096+ elements" in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert "4,096" not in cli(*LOSSLESS, "-q").out
    text = " ".join(cli("compress-checkpoint", "--help").out.split())
    assert "4,096" in text


def test_compress_checkpoint_names_its_phases_off_a_terminal(folder, cli):
    lines = cli(*LOSSLESS).err.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("flyweight: ") for line in lines)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "choose --bits N with N from 1 to 8, or --lossless"),
        (("--bits", "4", "--lossless"), "--bits has no effect with --lossless"),
        (("--lossless", "--grid", "uniform"), "--grid has no effect with --lossless"),
        (("--bits", "9"), "1 to 8"),
        (("--bits", "4", "--grid", "x"), "'x'"),
        (("--lossless", "--effort", "fast"), "--effort has no effect with --lossless"),
        (("--bits", "4", "--effort", "x"), "'x'"),
    ],
)
def test_compress_checkpoint_refuses_options_that_contradict(folder, refused, options, expected):
    command = ("compress-checkpoint", "tiny.safetensors", "-o", "out.fly", *options)
    assert expected in refused(*command)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("-", "stdin cannot be read"),
        ("tiny.fly", ".fly file already"),
        ("missing.safetensors", "missing.safetensors"),
        ("tiny.toml", "tiny.toml"),
    ],
)
def test_compress_checkpoint_refuses_what_is_no_checkpoint(folder, refused, source, expected):
    found = refused("compress-checkpoint", source, "-o", "out.fly", "--bits", "4")
    assert expected in found


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_compress_checkpoint_never_overwrites_its_source(folder, refused, force):
    (folder / "link.fly").symlink_to("tiny.safetensors")
    for output in ("tiny.safetensors", "./tiny.safetensors", "link.fly"):
        refused("compress-checkpoint", "tiny.safetensors", "-o", output, "--bits", "2", *force)


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_compress_checkpoint_never_overwrites_a_shard(folder, refused, force):
    (folder / "model").mkdir()
    shutil.copy("tiny.safetensors", "model/model.safetensors")
    (folder / "link.fly").hardlink_to(folder / "model" / "model.safetensors")
    refused("compress-checkpoint", "model", "-o", "link.fly", "--lossless", *force)


@pytest.mark.parametrize("command", ["compress-checkpoint", "decompress"])
def test_an_output_that_exists_needs_force(folder, cli, refused, command):
    output = "out.fly" if command == "compress-checkpoint" else "out.safetensors"
    arguments = {
        "compress-checkpoint": LOSSLESS,
        "decompress": ("decompress", "tiny.fly", "-o", output),
    }[command]
    (folder / output).write_bytes(b"last week's")
    assert f"{output} exists already; pass --force to replace it" in refused(*arguments)
    assert cli(*arguments, "--force").code == 0
    assert (folder / output).read_bytes() != b"last week's"


@pytest.mark.parametrize("command", ["compress-checkpoint", "decompress"])
def test_a_file_that_appears_during_the_run_stays(folder, cli, monkeypatch, command):
    name = "out.fly" if command == "compress-checkpoint" else "out.safetensors"
    source = "tiny.safetensors" if command == "compress-checkpoint" else "tiny.fly"
    lossless = ("--lossless",) if command == "compress-checkpoint" else ()

    def show(*_):
        (folder / name).write_bytes(b"of another")

    monkeypatch.setattr("flyweight.cli.progress._Lines.__call__", show)
    result = cli(command, source, "-o", name, *lossless)
    assert result.code == 2
    assert f"{name} exists already; pass --force" in result.err
    assert (folder / name).read_bytes() == b"of another"


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "missing/out.safetensors", "x.pt", "."])
def test_decompress_refuses_outputs(folder, refused, output):
    refused("decompress", "tiny.fly", "-o", output)


def test_decompress_writes_the_tensors_of_the_file(folder, cli):
    report = cli("decompress", "tiny.fly", "-o", "out.safetensors", "--json").json()
    expected = flyweight.load_state_dict(folder / "tiny.fly")
    found = load_file(folder / "out.safetensors")
    assert report["tensors"] == len(expected)
    assert report["bytes"] == (folder / "out.safetensors").stat().st_size
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_decompress_stopped_does_not_speak_of_epochs(folder, cli, monkeypatch):
    def decompress(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(flyweight, "decompress", decompress)
    result = cli("decompress", "tiny.fly", "-o", "out.safetensors")
    assert result == (130, "", "flyweight: stopped; out.safetensors was not written\n")


@pytest.mark.parametrize("command", [("inspect",), ("decompress", "-o", "out.safetensors")])
@pytest.mark.parametrize("defect", ["missing", "folder", "empty", "flipped", "short", "long"])
def test_commands_refuse_what_is_no_fly_file(folder, refused, command, defect):
    whole = (folder / "tiny.fly").read_bytes()
    middle = len(whole) // 2
    content = {
        "empty": b"",
        "flipped": whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :],
        "short": whole[:-20],
        "long": whole + b"\0",
    }
    if defect == "folder":
        (folder / "bad.fly").mkdir()
    elif defect in content:
        (folder / "bad.fly").write_bytes(content[defect])
    found = refused(command[0], "bad.fly", *command[1:])
    assert "bad.fly" in found
    assert "nothing was written" not in found


def test_inspect_prints_a_table_that_fits_80_columns(folder, cli):
    result = cli("inspect", "tiny.fly")
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert f"{(folder / 'tiny.fly').stat().st_size:,}" in result.out
    assert "3.weight" in result.out


def test_inspect_prints_one_json_object(folder, cli):
    found = cli("inspect", "tiny.fly", "--json").json()
    assert found["total_bytes"] == (folder / "tiny.fly").stat().st_size


def test_inspect_escapes_names(folder, cli):
    save_file({"a\x1b[2Jb\nc": torch.ones(3)}, "odd.safetensors")
    assert cli("compress-checkpoint", "odd.safetensors", "-o", "odd.fly", "--lossless").code == 0
    out = cli("inspect", "odd.fly").out
    assert "\x1b" not in out
    assert r"a\x1b[2Jb\nc" in out


@pytest.mark.parametrize("command", [LOSSLESS, ("decompress", "tiny.fly", "-o", "o.safetensors")])
def test_a_full_disk_leaves_no_file(folder, refused, monkeypatch, command):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    before = contents()
    assert "No space left on device" in refused(*command)
    assert contents() == before
