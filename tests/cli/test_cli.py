"""The commands at work: what they print, what they write, and how they go on after Ctrl-C."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from flyweight.cifar import Cifar10, Split
from flyweight.io import decompress
from flyweight.cifar import create_model
from flyweight.training import fit

TINY = ("--architecture", "networks:tiny")
COMPRESS = ("compress", "tiny.safetensors", *TINY, "-o", "out.fly", "--device", "cpu")
TRAINED = """\
[pruning]
sparsity = 0.5
[pruning.training]
epochs = 2
batch_size = 20
[sharing.training]
epochs = 2
batch_size = 20
"""


def test_compress_prints_one_json_object_that_describes_the_file(folder, cli):
    report = cli(*COMPRESS, "--recipe", "tiny.toml", "--seed", "7", "--json").json()
    size = (folder / "out.fly").stat().st_size
    dense = 4 * (8 * 27 + 16 + 8 * 72 + 16 + 80 + 10)
    assert report["file_bytes"] == size
    assert report["dense_bytes"] == dense
    assert report["compression_ratio"] == dense / size
    assert report["course_ratio"] > report["compression_ratio"]
    assert report["reload_identical"] is True
    assert report["seed"] == 7
    assert report["sparsity"] == 0.5
    assert isinstance(report["device"], str)
    assert report["device"]
    for accuracy in (report["accuracy_before"], report["accuracy_after"]):
        assert 0 <= accuracy <= 1
        assert accuracy * 40 == pytest.approx(round(accuracy * 40))
    assert not (folder / "out.fly.partial").exists()


def test_evaluate_prints_the_accuracy_that_compress_promised(folder, cli):
    report = cli(*COMPRESS, "--recipe", "tiny.toml", "--json").json()
    after = cli("evaluate", "out.fly", *TINY, "--json").json()
    before = cli("evaluate", "tiny.safetensors", *TINY, "--json").json()
    assert after["accuracy"] == report["accuracy_after"]
    assert after["file_bytes"] == report["file_bytes"]
    assert before["accuracy"] == report["accuracy_before"]


def test_compress_in_words(folder, cli):
    result = cli(*COMPRESS, "--recipe", "tiny.toml", "--quiet")
    size = (folder / "out.fly").stat().st_size
    assert (result.code, result.err) == (0, "")
    assert f"{size:,}" in result.out
    assert "logits identical after reload" in result.out
    assert "course ratio" in result.out


def test_a_network_by_name_is_named_in_the_file_and_needs_no_architecture(
    folder, cli, monkeypatch, tiny_data
):
    test = Split(tiny_data.test.images[:10], tiny_data.test.labels[:10])
    monkeypatch.setattr(
        "flyweight.proof_old.load_cifar10",
        lambda path, *, progress: Cifar10(tiny_data.train, test),
    )
    state = create_model("resnet20", seed=3).state_dict()
    torch.save(state, folder / "resnet20.pt")
    arguments = ("resnet20.pt", "--architecture", "resnet20", "-o", "resnet20.fly")
    report = cli("compress", *arguments, "--recipe", "tiny.toml", "--json").json()
    assert report["dense_bytes"] == 4 * 269_722
    assert cli("evaluate", "resnet20.fly", "--json").json() == {
        "accuracy": report["accuracy_after"],
        "file_bytes": report["file_bytes"],
        "device": report["device"],
    }


def test_inspect_accounts_for_every_byte(folder, cli):
    account = cli("inspect", "tiny.fly", "--json").json()
    size = (folder / "tiny.fly").stat().st_size
    parts = {"symbols", "positions", "codebook", "tables", "dense"}
    assert account["total_bytes"] == size
    assert set(account["part_bytes"]) <= parts
    assert sum(account["part_bytes"].values()) + sum(account["overhead"].values()) == size
    assert account["total_bound_bytes"] <= size
    assert [row["name"] for row in account["tensors"]] == list(decompress(folder / "tiny.fly"))
    for row in account["tensors"]:
        assert row["total_bytes"] == sum(row["part_bytes"].values())


def test_inspect_in_words_ends_with_the_size_on_disk(folder, cli):
    result = cli("inspect", "tiny.fly")
    size = (folder / "tiny.fly").stat().st_size
    *_, total, last = result.out.splitlines()
    assert result.code == 0
    assert last == f"tiny.fly: {size:,} bytes on disk"
    assert total.split()[0] == "total"
    assert str(size) in total.split()
    assert "3.weight" in result.out
    assert "3.weight" not in cli("inspect", "tiny.fly", "--quiet").out


def test_decompress_writes_the_tensors_of_the_file(folder, cli):
    report = cli("decompress", "tiny.fly", "-o", "out.safetensors", "--json").json()
    expected = decompress(folder / "tiny.fly")
    found = load_file(folder / "out.safetensors")
    assert report == {
        "path": "out.safetensors",
        "tensors": len(expected),
        "bytes": (folder / "out.safetensors").stat().st_size,
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    result = cli("decompress", "tiny.fly", "-o", "out.safetensors")
    assert result.out.startswith("out.safetensors: 14 tensors")
    assert cli("decompress", "tiny.fly", "-o", "out.safetensors", "--quiet").out == ""


def test_train_prints_its_card_and_does_not_write_over_a_run(folder, cli, monkeypatch):
    networks: dict = {}
    exec((folder / "networks.py").read_text(), networks)
    monkeypatch.setattr(
        "flyweight.cifar.train.create_model", lambda name, seed: networks["tiny"]()
    )
    arguments = ("train", "resnet20", "-o", "run", "--epochs", "1", "--device", "cpu")
    card = cli(*arguments, "--seed", "5", "--json").json()
    weights = load_file(folder / "run" / "model.safetensors")
    assert card["seed"] == 5
    assert card["epochs"] == 1
    assert card["parameters"] == 914
    assert weights.keys() == networks["tiny"]().state_dict().keys()
    evaluated = cli("evaluate", "run/model.safetensors", *TINY, "--json").json()
    assert evaluated["accuracy"] == card["test_accuracy"]
    again = cli(*arguments)
    assert again.code == 2
    assert "finished run" in again.err
    assert torch.equal(
        load_file(folder / "run" / "model.safetensors")["0.weight"], weights["0.weight"]
    )


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_ctrl_c_keeps_the_state_and_the_same_command_goes_on(folder, cli, monkeypatch, epochs_done):
    (folder / "trained.toml").write_text(TRAINED)
    command = [*COMPRESS, "--recipe", "trained.toml", "--quiet"]
    real, done = fit.write_checkpoint, []

    def write(state, path):
        real(state, path)
        done.append(path.name)
        if len(done) == epochs_done:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, "write_checkpoint", write)
    stopped = cli(*command)
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.startswith("flyweight: stopped")
    assert stopped.err.count("\n") == 1
    assert not (folder / "out.fly").exists()
    states = [path.name for path in (folder / "out.fly.partial").rglob("*") if path.is_file()]
    assert sorted(states) == sorted(set(done))

    assert cli(*command).code == 0
    assert done == ["prune.pt", "prune.pt", "share.pt", "share.pt"]  # no epoch was run twice
    assert not (folder / "out.fly.partial").exists()
    resumed = (folder / "out.fly").read_bytes()
    (folder / "out.fly").unlink()
    assert cli(*command).code == 0
    assert (folder / "out.fly").read_bytes() == resumed


def test_the_installed_command_line_speaks_one_sentence(folder):
    command = [sys.executable, "-m", "flyweight.cli", "inspect"]
    missing = subprocess.run([*command, "missing.fly"], capture_output=True, text=True)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("flyweight: missing.fly: ")
    assert missing.stderr.count("\n") == 1


def test_of_several_processes_the_first_one_speaks():
    said = [
        subprocess.run(
            [sys.executable, "-m", "flyweight.cli", "--help"],
            env={**os.environ, "RANK": rank},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for rank in ("0", "1")
    ]
    assert "Usage" in said[0]
    assert not said[1]
