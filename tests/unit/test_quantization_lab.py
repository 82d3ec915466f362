"""The rows of the quantisation tables: all there, and measured by what a file holds."""

import pytest
import torch

from flyweight import CompressedModel, create_model
from flyweight.data import Cifar10, Split
from flyweight.pruning import percentile_mask, select_weights
from flyweight.quantization import share
from labs import quantization
from labs.rows import wanted


def test_rows_have_names_of_their_own_and_are_found_by_them():
    every = quantization.exercises()
    names = [exercise.name for exercise in every]
    assert len(set(names)) == len(names)
    assert set(quantization.KEY) <= set(names)
    assert [e.name for e in wanted(["kmeans 5 linear"], every)] == ["kmeans 5 linear"]
    assert len(wanted(["kmeans"], every)) == 25


def test_bytes_zeros_and_bits_are_those_of_the_file():
    model = create_model("resnet20")
    tensors = dict(model.state_dict())
    for name, weight in select_weights(model).items():
        kept = percentile_mask(weight, 80)
        tensors[name] = share(weight, bits=2, init="optimal", mask=kept)
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    few = Split(images, torch.arange(20) % 10)
    data = Cifar10(few, few)
    row = quantization.measured(CompressedModel(tensors), data, torch.device("cpu"))
    assert row["sparsity"] == pytest.approx(0.8, abs=0.001)
    assert 1.5 < row["huffman_bits"] <= 2
    assert 20_000 < row["bytes"] < 80_000
    assert 0 <= row["accuracy"] <= 1
