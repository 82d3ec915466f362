"""The rows of the quantization tables: all there, and measured by what a file holds."""

import dataclasses

import pytest
import torch

from benchmarks.report import read_rows
from flyweight.cifar import Cifar10, Split, create_model
from flyweight.compressed import CompressedModel
from flyweight.modules import select_weights
from flyweight.pruning import percentile_mask
from flyweight.quantization import quantize_kmeans
from labs import quantization
from labs.rows import wanted
from labs.stages import prune


@pytest.fixture
def scratch(borrowed, noise):
    return borrowed(quantization, noise(16))


def test_rows_have_names_of_their_own_and_are_found_by_them():
    every = quantization.exercises()
    names = [exercise.name for exercise in every]
    assert len(set(names)) == len(names)
    assert set(quantization.KEY) <= set(names)
    per_channel = {name for name in names if name.endswith("per channel")}
    assert len(per_channel) == 40
    assert "sparse symmetric 2 per channel" in per_channel
    assert {name.removesuffix(" per channel") for name in per_channel} < set(names)
    assert [e.name for e in wanted(["kmeans 5 linear"], every)] == ["kmeans 5 linear"]
    assert len(wanted(["kmeans"], every)) == 30
    (rare,) = wanted(["kmeans 3 optimal, joined every 20 steps"], every)
    assert rare.config.assignment_interval == 20
    assert all(e.config.assignment_interval == 1 for e in every if e is not rare)


def test_bytes_zeros_and_bits_are_those_of_the_file():
    model = create_model("resnet20")
    tensors = dict(model.state_dict())
    for name, weight in select_weights(model).items():
        kept = percentile_mask(weight, 80)
        tensors[name] = quantize_kmeans(weight, bits=2, init="optimal", mask=kept)
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    few = Split(images, torch.arange(20) % 10)
    data = Cifar10(few, few)
    row = quantization.measured(CompressedModel(tensors), model, data, torch.device("cpu"))
    assert row["sparsity"] == pytest.approx(0.8, abs=0.001)
    assert 1.5 < row["huffman_bits"] <= 2
    assert 20_000 < row["bytes"] < 80_000
    assert 0 <= row["accuracy"] <= 1


def test_a_row_tells_of_the_network_before_and_after_training(scratch, capsys):
    quantization.main(["fixed symmetric-no-zero 2", "--short", "1", "--device", "cpu"])
    (row,) = read_rows("quantization", scratch)
    assert (row["row"], row["epochs"]) == ("fixed symmetric-no-zero 2", "1")
    for half in ("quantized", "trained"):
        assert 20_000 < int(row[f"{half}_bytes"]) < 60_000
        assert float(row[f"{half}_sparsity"]) == 0
        assert 1 < float(row[f"{half}_huffman_bits"]) <= 2
        assert 0 <= float(row[f"{half}_accuracy"]) <= 1
    document = (scratch / "quantization.md").read_text()
    assert f"| symmetric-no-zero 2 | {int(row['quantized_bytes']):,} |" in document
    assert f"| {int(row['trained_bytes']):,} |" in document
    made = capsys.readouterr().out
    quantization.main(["fixed symmetric-no-zero 2", "--short", "1", "--device", "cpu"])
    assert made
    assert not capsys.readouterr().out  # it is there already


def test_a_sparse_row_starts_from_the_pruned_network_and_keeps_its_zeros(scratch, monkeypatch):
    def retrained(way, epochs, data, device, seed):
        assert way.name == quantization.SPARSE
        none = dataclasses.replace(way.training, epochs=0)
        pruned = prune(way.start(), way.config, none, data=data, device=device, seed=seed)
        return pruned, f"after {epochs}"

    monkeypatch.setattr(quantization.pruning, "retrained", retrained)
    arguments = ["sparse kmeans 2", "--short", "1", "--epochs", "3", "--device", "cpu"]
    monkeypatch.setattr(quantization, "KEY", ())
    quantization.main(arguments)
    (row,) = read_rows("quantization", scratch)
    assert row["start"] == "after 3"
    zeros = float(row["quantized_sparsity"])
    assert float(row["trained_sparsity"]) == zeros > 0.79

    def revived(model, exercise, epochs, *rest):
        return CompressedModel(dict(create_model("resnet20").state_dict()))

    monkeypatch.setattr(quantization, "quantized", revived)
    (scratch / "quantization.csv").unlink()
    with pytest.raises(AssertionError, match=r"conv1\.weight has values in the file where"):
        quantization.main(arguments)


def test_the_best_of_each_width_is_told():
    def row(name, before, after=""):
        told = {"row": name, "epochs": "1", "dense": "0.91", "quantized_bytes": "2000"}
        told |= {"quantized_accuracy": before, "trained_accuracy": after, "trained_bytes": "1000"}
        return told

    text = quantization.best(
        [
            row("kmeans 3 linear", "0.8", "0.85"),
            row("fixed symmetric 3", "0.7", "0.9"),
            row("fixed ternary", "0.1"),
            row("sparse kmeans 3", "0.6"),
        ]
    )
    assert text.splitlines()[4:] == [
        "| 3 | dense | untrained | kmeans 3 linear | 2,000 | 80.00 % | 11.00 points |",
        "| 3 | dense | 1 epoch | fixed symmetric 3 | 1,000 | 90.00 % | 1.00 points |",
        "| 3 | 80 % zeros | untrained | sparse kmeans 3 | 2,000 | 60.00 % | 31.00 points |",
        "| 2 | dense | untrained | fixed ternary | 2,000 | 10.00 % | 81.00 points |",
    ]
