"""The curve without training: rows of this network only, a hull, a ratio, a figure."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks import nncodec_network_peer, peers
from benchmarks.report import read_rows
from flyweight.cifar import create_model
from labs import post_training as lab


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    """The folder of the lab, and how often its data were loaded; no NNCodec."""
    folder, data, loads = borrowed(lab, noise(120)), noise(120), []
    monkeypatch.setattr(lab, "load_cifar10", lambda path: loads.append(path) or data)
    monkeypatch.setattr(lab, "CALIBRATION", 8)
    monkeypatch.setattr(lab, "STATISTICS", 1)
    monkeypatch.setattr(peers, "NNCODEC_PYTHON", folder / "none")
    return folder, loads


def test_rows_have_names_of_their_own():
    names = [exercise.name for exercise in lab.exercises()]
    assert len(set(names)) == len(names)
    assert {name.partition(" ")[0] for name in names} == {"flyweight", "NNCodec"}


def test_rows_are_of_the_network_that_is_shipped(scratch, monkeypatch, capsys):
    folder, loads = scratch
    names = [f"flyweight {price:g}" for price in lab.PRICES[-2:]]
    lab.main([names[0], "--device", "cpu"])
    lab.main([names[0], "--device", "cpu"])
    assert len(loads) == 1  # nothing is measured twice
    (row,) = read_rows("post_training", folder)
    assert row["row"] == names[0]
    assert 20_000 < int(row["bytes"]) < 300_000  # noise has other prices
    assert f"| {names[0]} | {int(row['bytes']):,} |" in (folder / "quantization.md").read_text()
    assert (folder / "post_training" / "curve.svg").stat().st_size > 1000
    assert (folder / "post_training" / "curve.png").stat().st_size > 1000
    before = row["network"]
    lab.main(["NNCodec"])
    assert "nncodec is left out" in capsys.readouterr().out
    assert [row["row"] for row in read_rows("post_training", folder)] == [names[0]]
    monkeypatch.setattr(lab, "load_pretrained", lambda name: create_model(name).eval())
    lab.main([names[1], "--device", "cpu"])
    (row,) = read_rows("post_training", folder)  # what was of another network is gone
    assert row["row"] == names[1]
    assert row["network"] != before


def test_a_hull_is_below_all_points_and_linear_between_them():
    points = [(0.90, 100.0), (0.88, 60.0), (0.89, 85.0), (0.85, 50.0), (0.86, 58.0), (0.84, 70.0)]
    hull = lab.lower_hull(points)
    assert hull == [(0.85, 50.0), (0.88, 60.0), (0.90, 100.0)]
    assert lab.bytes_at(hull, 0.89) == pytest.approx(80.0)
    assert lab.bytes_at(hull, 0.88) == pytest.approx(60.0)
    assert lab.bytes_at(hull, 0.91) is None
    assert lab.bytes_at(hull, 0.8) is None
    assert lab.bytes_at([], 0.9) is None


def test_the_table_compares_at_equal_accuracy_only_where_both_have_points():
    def row(name, size, right):
        told = {"dense": "0.91", "bytes": str(size), "accuracy": str(right), "seed": "0"}
        return {"row": name, "device": "cpu", "commit": "c", **told}

    rows = [row("flyweight 1e-08", 60_000, 0.908), row("flyweight 2e-08", 30_000, 0.895)]
    rows += [row("NNCodec uniform -26", 100_000, 0.910), row("NNCodec uniform -20", 60_000, 0.900)]
    text = lab.tables(rows)
    assert "| 0.5 points | 53,077 | 80,000 | **0.66** |" in text
    assert "| 1.5 points | 30,000 | | |" in text
    assert "| flyweight 2e-08 | 30,000 | 89.50 % | 1.50 points | seed 0, cpu, c |" in text


@pytest.mark.skipif(importlib.util.find_spec("nncodec") is not None, reason="nncodec is there")
def test_the_script_says_what_is_missing():
    done = subprocess.run(
        [sys.executable, nncodec_network_peer.__file__, "network.npz", "settings.json", "folder"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "nncodec is not installed in this environment"


def test_what_nncodec_imports_without_need_is_stood_in_for():
    finder = nncodec_network_peer.StandIns()
    module = finder.create_module(finder.find_spec("torchvision.transforms"))
    assert module.anything is not None
    assert finder.find_spec("numpy") is None
    assert finder.find_spec("nncodec.nnc") is None
