"""The rows of the pruning tables: named, retrained as asked, and a retrained network is kept."""

import dataclasses
import shutil

import pytest
import torch

from benchmarks.report import read_rows
from flyweight.cifar import Cifar10, Split
from flyweight.errors import FormatError
from flyweight.pruning import summarize_sparsity
from labs import pruning, quantization
from labs import rows as lab


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "STATES", tmp_path)
    monkeypatch.setattr(pruning, "NETWORKS", tmp_path / "networks")
    monkeypatch.setattr(lab, "STATES", tmp_path)
    monkeypatch.setattr("labs.teacher.STATES", tmp_path)
    monkeypatch.setattr(pruning, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(pruning, "DOCUMENT", tmp_path / "pruning.md")
    text = "<!-- results: python -m labs.pruning -->\n<!-- end of results -->\n"
    (tmp_path / "pruning.md").write_text(text)
    return tmp_path


def few() -> Cifar10:
    split = Split(torch.zeros(20, 3, 32, 32, dtype=torch.uint8), torch.arange(20) % 10)
    return Cifar10(split, split)


def test_rows_have_names_of_their_own_and_key_rows_are_among_them():
    names = [exercise.name for exercise in pruning.exercises()]
    assert len(set(names)) == len(names) == 18
    assert {name for name in names if name in pruning.KEY} == set(pruning.KEY)
    epochs = {exercise.name: exercise.epochs(20, 2) for exercise in pruning.exercises()}
    assert epochs["ways one-shot"] == epochs["percentage 75"] == 20
    assert epochs[pruning.HALF] == 10
    assert epochs["percentage 25"] == 2


def test_compiling_changes_nothing_else_of_a_row():
    for plain, fused in zip(pruning.exercises(), pruning.exercises(compiled=True), strict=True):
        assert fused.training.compile
        assert not plain.training.compile
        training = dataclasses.replace(fused.training, compile=False)
        assert dataclasses.replace(fused, training=training) == plain


def test_a_retrained_network_is_found_again_however_it_was_compiled(scratch, monkeypatch):
    trained = []
    genuine = pruning.prune

    def prune(model, config, training, **rest):
        trained.append(training.compile)
        none = dataclasses.replace(training, epochs=0, compile=False)
        return genuine(model, config, none, data=rest["data"])

    monkeypatch.setattr(pruning, "prune", prune)
    row = pruning.exercises()[-1]
    fused = pruning.exercises(compiled=True)[-1]
    data = few()
    first, _ = pruning.retrained(fused, 3, data, "cpu", 0)
    again, _ = pruning.retrained(row, 3, data, "cpu", 0)
    assert trained == [True]
    assert summarize_sparsity(again).sparsity == pytest.approx(0.8, abs=1e-3)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    pruning.retrained(row, 4, data, "cpu", 0)
    pruning.retrained(row, 3, data, "cpu", 1)
    assert trained == [True, False, False]
    shutil.rmtree(scratch / "pruned")
    pruning.retrained(row, 3, data, "cpu", 0)
    assert len(trained) == 4


def test_minutes_of_a_row_that_another_run_began_are_blank(scratch, monkeypatch):
    genuine = pruning.prune
    stop = [True]

    def prune(model, config, training, *, states=None, **rest):
        if states is not None:
            states.mkdir(parents=True, exist_ok=True)
            (states / "prune.pt").touch()
            if stop.pop() if stop else False:
                raise KeyboardInterrupt
        none = dataclasses.replace(training, epochs=0)
        return genuine(model, config, none, data=rest["data"])

    monkeypatch.setattr(pruning, "prune", prune)
    row, other = pruning.exercises()[4:6]
    with pytest.raises(KeyboardInterrupt):
        pruning.run(row, 1, few(), "cpu", 0)
    went_on = pruning.run(row, 1, few(), "cpu", 0)
    again = pruning.run(row, 1, few(), "cpu", 0)  # the network is kept, and not trained again
    anew = pruning.run(other, 1, few(), "cpu", 0)
    assert [made["minutes"] == "" for made in (went_on, again, anew)] == [True, True, False]
    text = pruning.tables([{key: str(value) for key, value in went_on.items()}])
    assert f"| {row.name.split()[1]} |" in text


def test_a_kept_network_that_is_damaged_is_refused(scratch):
    row = pruning.exercises()[-1]
    row = dataclasses.replace(row, training=dataclasses.replace(row.training, epochs=0))
    first, _ = pruning.retrained(row, 0, few(), "cpu", 0)
    path = pruning.kept_at(row, 0, "cpu", 0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError):
        pruning.retrained(row, 0, few(), "cpu", 0)
    path.unlink()
    again, _ = pruning.retrained(row, 0, few(), "cpu", 0)
    assert torch.equal(first.conv1.weight, again.conv1.weight)


def test_the_network_that_sparse_rows_start_from_is_that_of_the_shipped_one():
    (row,) = (row for row in pruning.exercises() if row.name == quantization.SPARSE)
    path = pruning.kept_at(row, 20, "cpu", 0)
    assert path.parent == pruning.NETWORKS
    assert [*pruning.NETWORKS.glob(f"{16 * '?'}.fly")] == [path]
    network, commit = pruning.retrained(row, 20, None, "cpu", 0)
    assert len(commit) == 12
    assert summarize_sparsity(network).sparsity == pytest.approx(0.8, abs=1e-5)


def test_zeros_of_each_layer_are_counted_and_told_once_for_a_kept_network(scratch, monkeypatch):
    genuine = pruning.prune

    def prune(model, config, training, **rest):
        none = dataclasses.replace(training, epochs=0)
        return genuine(model, config, none, data=rest["data"])

    monkeypatch.setattr(pruning, "prune", prune)
    row = next(row for row in pruning.exercises() if row.name == "ways global with recovery")
    pruning.kept_layers(row, 1, few(), "cpu", 0)  # nothing is kept yet
    assert read_rows(pruning.LAYERS, scratch / "results") == []
    network, _ = pruning.retrained(row, 1, few(), "cpu", 0)
    pruning.kept_layers(row, 1, few(), "cpu", 0)
    written = read_rows(pruning.LAYERS, scratch / "results")
    zeros = {one["layer"]: int(one["zeros"]) for one in written}
    assert zeros["linear.weight"] == int((network.linear.weight == 0).sum())
    assert sum(zeros.values()) == round(0.8 * sum(int(one["weights"]) for one in written))
    pruning.kept_layers(row, 2, few(), "cpu", 0)
    assert read_rows(pruning.LAYERS, scratch / "results") == written
    text = (scratch / "pruning.md").read_text()
    share = 100 * zeros["conv1.weight"] / int(written[0]["weights"])
    assert f"| `conv1.weight` | 432 | {share:.1f} % |" in text
