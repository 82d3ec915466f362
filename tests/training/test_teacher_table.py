# ruff: noqa: NPY002 -- data sets draw from the generator of the module
"""A table of a teacher's outputs, and data whose examples come again."""

import copy
import random
import sqlite3

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from flyweight.cifar import AugmentedImages, Split
from flyweight.errors import CheckpointError, DataError, ModelError
from flyweight.training import FixedViews, TeacherTable, TrainingConfig, train_


class Counted(nn.Module):
    def __init__(self, seed=1, classes=3):
        super().__init__()
        self.linear = nn.Linear(12, classes)
        nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.linear.bias)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.linear(images.flatten(1))


class Noisy:
    """Examples with all kinds of random augmentation."""

    def __init__(self, number=8):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        noise = torch.rand(12) + random.random() + float(np.random.rand())
        return index + noise, index % 3


def examples(number=6, seed=0):
    return torch.randn(number, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_each_example_is_computed_once_in_whatever_batches_it_comes(tmp_path):
    network, images = Counted(), examples()
    table = TeacherTable(tmp_path / "some" / "table.sqlite", network)
    first = table(images)
    assert torch.allclose(first, Counted()(images), rtol=1e-3)
    assert torch.equal(first, first.half().float())
    assert torch.equal(table(images.flip(0)), first.flip(0))
    assert torch.equal(table(images[2:4].contiguous(memory_format=torch.channels_last)), first[2:4])
    assert network.calls == 1
    table(torch.cat([images[:1], examples(1, seed=9)]))
    assert network.calls == 2
    again = TeacherTable(tmp_path / "some" / "table.sqlite", Counted())
    assert torch.equal(again(images), first)
    alone = TeacherTable(tmp_path / "some" / "table.sqlite")
    assert torch.equal(alone(images), first)
    assert torch.equal(alone.identity, table.identity)
    assert torch.equal(copy.deepcopy(table)(images), first)


@torch.no_grad()
def test_what_a_table_cannot_tell_is_said(tmp_path):
    path = tmp_path / "table.sqlite"
    with pytest.raises(CheckpointError, match=r"table\.sqlite does not exist"):
        TeacherTable(path)
    TeacherTable(path, Counted())(examples())
    with pytest.raises(DataError, match="no outputs for 1 of 7 examples"):
        TeacherTable(path)(torch.cat([examples(), examples(1, seed=5)]))
    with pytest.raises(CheckpointError, match="of another network"):
        TeacherTable(path, Counted(seed=2))
    path.write_bytes(b"no data base" * 99)
    with pytest.raises(CheckpointError, match="is no table of a teacher"):
        TeacherTable(path, Counted())
    with pytest.raises(ModelError, match="no logits"):
        TeacherTable(tmp_path / "flat.sqlite", nn.Flatten(0))(examples())


@torch.no_grad()
def test_all_inputs_tell_examples_apart(tmp_path):
    class Two(nn.Module):
        def forward(self, first, scale=None):
            return first * scale

    table = TeacherTable(tmp_path / "two.sqlite", Two())
    first, scale = torch.ones(2, 3), torch.tensor([[1.0], [2.0]])
    assert table(first, scale=scale).tolist() == [[1.0] * 3, [2.0] * 3]
    assert table(first, scale=2 * scale).tolist() == [[2.0] * 3, [4.0] * 3]
    with pytest.raises(ModelError, match="pad inputs to one length"):
        table(torch.ones(2, 4), scale=scale)


def test_a_run_learns_the_same_from_the_table_as_it_was_filled_with(tmp_path):
    data = DataLoader(FixedViews(Noisy(), views=2), batch_size=4, shuffle=True)
    config = TrainingConfig(epochs=6, learning_rate=0.05, distillation=0.9)
    network, results = Counted(seed=3).eval(), []
    for teacher in (network, TeacherTable(tmp_path / "t.sqlite", network)):
        student = Counted(seed=4)
        train_(student, data, config, teacher=teacher, device="cpu")
        results.append(student.linear.weight.detach())
    assert torch.allclose(*results, atol=1e-3)
    with sqlite3.connect(tmp_path / "t.sqlite") as file:
        assert file.execute("SELECT COUNT(*) FROM logits").fetchone() == (16,)
    student = Counted(seed=4)
    train_(student, data, config, teacher=TeacherTable(tmp_path / "t.sqlite"), device="cpu")
    assert torch.equal(student.linear.weight, results[1])


def test_views_come_again_and_leave_the_generators_alone():
    data = FixedViews(Noisy(), views=3)
    seen = []
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for epoch in range(6):
        data.set_epoch(epoch)
        seen.append(torch.stack([data[index][0] for index in range(len(data))]))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    for view in range(3):
        assert torch.equal(seen[view], seen[view + 3])
        assert not torch.equal(seen[view], seen[(view + 1) % 3])
    assert torch.equal(data[-1][0], data[7][0])
    other = FixedViews(Noisy(), views=3, seed=1)
    assert not torch.equal(other[0][0], seen[0][0])


@pytest.mark.parametrize(("dataset", "views"), [(iter([1]), 2), (Noisy(), 0)])
def test_data_without_items_or_views_are_refused(dataset, views):
    with pytest.raises(DataError):
        FixedViews(dataset, views=views)


@pytest.mark.parametrize("augmentation", ["standard", "alternating"])
def test_images_come_again_after_so_many_epochs_in_another_order(augmentation):
    pixels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    split = Split(pixels, torch.arange(20))
    data = AugmentedImages(split, batch_size=10, augmentation=augmentation, views=3)
    seen = []
    for epoch in range(6):
        data.set_epoch(epoch)
        batches = [*data]
        labels = torch.cat([labels for _, labels in batches])
        images = torch.cat([images for images, _ in batches])
        seen.append((labels, images[labels.argsort()]))
    for view in range(3):
        assert torch.equal(seen[view][1], seen[view + 3][1])
        assert not torch.equal(seen[view][0], seen[view + 3][0])
        assert not torch.equal(seen[view][1], seen[(view + 1) % 3][1])
    with pytest.raises(DataError, match="views is -1"):
        AugmentedImages(split, views=-1)
