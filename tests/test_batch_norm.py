"""Folded batch normalisation, which files hold: it does not train, and gets statistics again."""

import copy

import pytest
import torch
from torch import nn

import flyweight
from flyweight.batch_norm import (
    batch_norm_drift,
    check_unfolded,
    fold_batch_norms_,
    folded_batch_norms,
    unfold_batch_norms_,
)
from flyweight.cifar import Cifar10, Split
from flyweight.errors import DataError, ModelError
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.pruning import prune_
from flyweight.quantization import quantize_
from flyweight.training import TrainingConfig, train_


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(64, 10),
        nn.BatchNorm1d(10, affine=False),
    )
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight, 1.0)
        nn.init.normal_(norm.bias)
    for _ in range(60):
        model(images_of_a_kind(100))
    return model.eval()


def images_of_a_kind(number):
    return 2 + 3 * torch.randn(number, 3, 8, 8)


def folded():
    model = network()
    fold_batch_norms_(model)
    return model


def test_a_network_from_a_file_is_refused_where_it_would_train(tmp_path):
    empty = Recipe(pruning=PruningConfig(sparsity=0.0))
    flyweight.save(flyweight.stages.finish(network(), {}, empty, metadata={}), tmp_path / "a.fly")
    model = flyweight.load(tmp_path / "a.fly", architecture=network)
    assert [*folded_batch_norms(model)] == ["1", "4"]
    assert not folded_batch_norms(network())
    data = Split(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8))
    one = TrainingConfig(epochs=1, batch_size=4, ema_decay=0.0)
    for entry in (
        lambda: flyweight.prepare(model, PruningConfig(), steps=1),
        lambda: flyweight.prepare_quantizer_old(model, QuantizationConfig(), steps=1),
        lambda: train_(model, data, one),
        lambda: check_unfolded(model),
    ):
        with pytest.raises(ModelError, match=r"'1' was folded .*unfold_batch_norms_"):
            entry()


def test_statistics_come_back_and_the_function_stays():
    model, twin = network(), folded()
    modes = [module.training for module in twin.modules()]
    batches = [images_of_a_kind(100) for _ in range(20)]
    unfold_batch_norms_(twin, batches)
    assert not folded_batch_norms(twin)
    assert [module.training for module in twin.modules()] == modes
    inputs = images_of_a_kind(50)
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=1e-4, atol=1e-4)
    for index in (1, 4):
        for name in ("running_mean", "running_var", "weight", "bias"):
            before, after = getattr(model[index], name), getattr(twin[index], name)
            torch.testing.assert_close(after, before, rtol=0.1, atol=0.1)
    # And so it does in training mode about what the network before the file did.
    trained = [net.train()(inputs).detach() for net in (model, twin, folded())]
    torch.testing.assert_close(trained[0], trained[1], rtol=0.05, atol=0.05)
    assert float((trained[2] - trained[0]).abs().max()) > 0.5


def test_statistics_by_hand():
    norm = nn.BatchNorm1d(2, eps=0.0).eval()
    norm.load_state_dict(
        {
            "weight": torch.tensor([2.0, 1.0]),
            "bias": torch.tensor([1.0, 3.0]),
            "running_mean": torch.zeros(2),
            "running_var": torch.ones(2),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    unfold_batch_norms_(norm, [torch.tensor([[1.0, 7.0]]), torch.tensor([[3.0, 7.0]])])
    assert norm.running_mean.tolist() == [2.0, 7.0]
    assert norm.running_var.tolist() == [2.0, 0.0]
    assert norm.weight.tolist() == pytest.approx([2 * 2**0.5, 0.0])
    assert norm.bias.tolist() == [5.0, 10.0]
    assert int(norm.num_batches_tracked) == 2


def test_without_batches_nothing_changes():
    model = folded()
    before = copy.deepcopy(model.state_dict())
    for batches in ([], [torch.randn(0, 3, 8, 8)]):
        with pytest.raises(DataError, match="'1' was folded, and no batches of two values"):
            unfold_batch_norms_(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    unfold_batch_norms_(network(), [])  # nothing is folded


def test_only_what_is_reached_is_unfolded_however_it_is_called():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, inputs):
            outputs = self.used(input=inputs)
            return self.other(outputs) if self.training else outputs

    model = Two()
    for _ in range(9):
        model(1 + 2 * torch.randn(20, 3))
    fold_batch_norms_(model.eval())
    inputs = torch.randn(30, 3)
    before = model(inputs)
    unfold_batch_norms_(model, [inputs])
    assert [*folded_batch_norms(model)] == ["other"]
    torch.testing.assert_close(model(inputs), before)
    batch_norm_drift(model, [inputs])  # of what is reached


def test_folded_statistics_that_stay_as_they_are_may_train():
    data = Split(torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 10)
    frozen = TrainingConfig(
        epochs=1, batch_size=10, learning_rate=1e-3, ema_decay=0.0, freeze_batch_norm=True
    )
    for config in (frozen, TrainingConfig(epochs=0, ema_decay=0.0)):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 10)
        )
        model(torch.randn(8, 3, 32, 32))
        fold_batch_norms_(model)
        prune_(model, PruningConfig(sparsity=0.5, training=config), data, seed=0)
        sharing = QuantizationConfig(bits=3, training=config)
        quantize_(model, ("0.weight", "3.weight"), sharing, data, seed=0)
        assert [*folded_batch_norms(model)] == ["1"]


def test_own_loops_train_a_network_from_a_file_in_one_call():
    pixels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    data = Cifar10(Split(pixels.repeat(90, 1, 1, 1), torch.arange(5400) % 10), Split(pixels, None))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 10)
    )
    for _ in range(9):
        model(torch.randn(8, 3, 32, 32))
    fold_batch_norms_(model)
    training = TrainingConfig(epochs=1, batch_size=200, learning_rate=1e-3, ema_decay=0.0)
    sharing = QuantizationConfig(bits=8, training=training)
    inputs = torch.randn(20, 3, 32, 32)
    wanted = model.eval()(inputs)
    found = flyweight.quantize(model, sharing, data=data)
    model.load_state_dict(found.state_dict())
    torch.testing.assert_close(model(inputs), wanted, rtol=0.2, atol=0.2)
    pruning = PruningConfig(sparsity=0.2, training=training)
    pruned = flyweight.prune(model, pruning, data=data)
    assert not folded_batch_norms(pruned)
    compressed = flyweight.compress(model, Recipe(pruning=pruning, sharing=sharing), data=data)
    assert int((compressed["0.weight"].symbols == 0).sum()) > 0


def test_fold_batch_norms_preserves_the_function():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5, affine=False))
    for _ in range(5):
        model(3 + 2 * torch.randn(8, 3, 9, 9))
    nn.init.normal_(model[1].weight)
    nn.init.normal_(model[1].bias)
    model.eval()
    x = torch.randn(4, 3, 9, 9)
    before = model(x)
    variance = model[2].running_var.clone()
    fold_batch_norms_(model)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert not model[1].running_mean.any()
    assert len(model[1].running_var.unique()) == 1
    assert torch.equal(model[2].running_var, variance)


def test_fold_batch_norms_leaves_shared_weights():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model(3 + torch.randn(50, 4))
    model.eval()
    x = torch.randn(6, 4)
    before = model(x)
    fold_batch_norms_(model)
    assert torch.equal(model(x), before)
    assert model[0].running_mean.any()
