"""Tests of the rounding of levels, scales and offsets."""

import pytest
import torch

from flyweight.compressed import CompressedTensor
from flyweight.quantization.level_storage import round_tables


def test_round_tables_rounds_levels():
    tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor([0.1, 0.3]))
    found = round_tables(tensor, torch.float16)
    assert torch.equal(found.levels, tensor.levels.half().float())


@pytest.mark.parametrize("levels", [[0.1, 1e-9], [1.0, 1.0001], [1.0, 70_000.0]])
def test_round_tables_keeps_levels_that_would_vanish_merge_or_overflow(levels):
    tensor = CompressedTensor(torch.tensor([1, 2]), torch.tensor(levels))
    assert torch.equal(round_tables(tensor, torch.float16).levels, tensor.levels)


def test_round_tables_zeroes_scales_and_offsets_of_unused_channels():
    tensor = CompressedTensor(
        torch.tensor([[1, 1], [0, 0]]),
        torch.tensor([1.0]),
        torch.tensor([0.3, 0.7]),
        torch.tensor([1.0, 2.0]),
    )
    found = round_tables(tensor, torch.float16)
    assert found.scales.tolist() == [torch.tensor(0.3).half().item(), 0.0]
    assert found.offsets.tolist() == [1.0, 0.0]


def test_round_tables_keeps_offsets_that_would_move_by_half_a_step():
    tensor = CompressedTensor(
        torch.tensor([[1, 2]]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([1e-4]),
        torch.tensor([1.00037]),
    )
    found = round_tables(tensor, torch.float16)
    assert torch.equal(found.offsets, tensor.offsets)


def test_round_tables_keeps_scales_below_the_range_of_float16():
    tensor = CompressedTensor(
        torch.tensor([[1], [1]]), torch.tensor([1.0]), torch.tensor([0.3, 1.3e-6])
    )
    assert torch.equal(round_tables(tensor, torch.float16).scales, tensor.scales)
