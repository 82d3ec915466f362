"""The lab of removed filters: four networks, counted, loaded from files and timed, on noise."""

import pytest
import torch

from benchmarks.report import read_rows
from labs import structured as lab
from labs.dense import load_pretrained

pytest.importorskip("torch_pruning")


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    monkeypatch.setattr(lab, "BATCHES", (1, 2))
    return borrowed(lab, noise(16))


def test_four_networks_of_which_two_lost_half_of_their_inner_filters(scratch, capsys):
    lab.main(["--epochs", "2", "--device", "cpu"])
    rows = {row["network"]: row for row in read_rows("structured", scratch)}
    assert list(rows) == ["dense", lab.SINGLE, lab.BY_NORM, lab.BY_LASSO]
    assert [row["epochs"] for row in rows.values()] == ["0", "2", "2", "2"]
    dense, single = (int(rows[name]["weights"]) for name in ("dense", lab.SINGLE))
    assert single == dense
    for name in (lab.BY_NORM, lab.BY_LASSO):
        assert int(rows[name]["weights"]) == pytest.approx(dense / 2, rel=0.02)
        assert int(rows[name]["file_bytes"]) < 0.6 * int(rows["dense"]["file_bytes"])
    assert rows["dense"]["zero_filters_before"] == "0"
    assert rows[lab.SINGLE]["zero_filters_before"] == ""
    assert rows[lab.BY_NORM]["zero_filters_before"] == "168"  # half of 3·16 + 3·32 + 3·64
    nonzeros = int(rows[lab.SINGLE]["nonzeros"])
    assert nonzeros == pytest.approx(int(rows[lab.BY_NORM]["weights"]), rel=0.001)
    for row in rows.values():
        assert 0 <= float(row["accuracy"]) <= 1
        assert float(row["ms_batch_1"]) > 0
        assert row["commit"]
    text = (scratch / "pruning.md").read_text()
    assert f"| {lab.SINGLE} | {dense:,} | {nonzeros:,} | |" in text
    assert "ms, 2 at once" in text
    assert not list((scratch / "states").glob("**/*.pt"))


def test_what_a_file_holds_has_few_values_and_the_same_zeros():
    model = load_pretrained("resnet20")
    with torch.no_grad():
        model.stages[0][0].conv1.weight[:3] = 0
    size, loaded = lab.through_a_file(model)
    assert lab.zeros_of(model) == lab.zeros_of(loaded) == 3
    assert 100_000 < size < 300_000
    weight = loaded.stages[0][0].conv1.weight
    assert weight.unique().numel() <= 33
    assert torch.allclose(weight, model.stages[0][0].conv1.weight, atol=0.1)


def test_times_are_told_of_each_network():
    models = {"one": torch.nn.Linear(3, 2), "other": torch.nn.Linear(3, 2)}
    found = lab.milliseconds(models, torch.zeros(1, 3), 2)
    assert list(found) == ["one", "other"]
    assert min(found.values()) > 0
