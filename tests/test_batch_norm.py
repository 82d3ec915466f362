"""Tests of folding, unfolding and re-estimating batch normalization."""

import copy

import pytest
import torch
from torch import nn

from flyweight.batch_norm import (
    batch_norm_drift,
    check_not_training_folded,
    check_unfolded,
    fold_batch_norms_,
    folded_batch_norms,
    reestimate_batch_norms_,
    unfold_batch_norms_,
)
from flyweight.compressed import CompressedModel, compress_module
from flyweight.errors import DataError, ModelError


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def stored(model, float_dtype):
    """The state of a model that a file with folded batch normalization holds."""
    copied = copy.deepcopy(model)
    fold_batch_norms_(copied)
    compressed = compress_module(copied, float_dtype=float_dtype)
    return CompressedModel.from_bytes(compressed.to_bytes()).state_dict()


@pytest.mark.parametrize("float_dtype", ["bfloat16", "float16", "float32"])
def test_folded_batch_norms_are_found_after_a_file(float_dtype):
    model = network()
    assert not folded_batch_norms(model)
    model.load_state_dict(stored(model, float_dtype))
    assert [*folded_batch_norms(model)] == ["1", "4"]
    with pytest.raises(ModelError, match=r"'1' is folded .*unfold_batch_norms_"):
        check_unfolded(model)


def test_fold_batch_norms_keeps_the_function():
    model, inputs = network(), images_of_a_kind(20)
    twin = folded()
    torch.testing.assert_close(twin(inputs), model(inputs), rtol=1e-4, atol=1e-4)


def test_fold_batch_norms_refuses_scales_that_are_not_finite():
    norm = nn.BatchNorm1d(2, eps=0.0).eval()
    norm.running_var[1] = 0
    model = nn.Sequential(nn.BatchNorm1d(2), norm)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"'1' has a channel of variance 0 with eps 0.*larger eps"):
        fold_batch_norms_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unfold_batch_norms_restores_statistics_and_function():
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


def test_unfold_batch_norms_by_hand():
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


def test_unfold_batch_norms_needs_batches():
    model = folded()
    before = copy.deepcopy(model.state_dict())
    for batches in ([], [torch.randn(0, 3, 8, 8)]):
        with pytest.raises(DataError, match="'1' is folded, and no batches of two values"):
            unfold_batch_norms_(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    unfold_batch_norms_(network(), [])  # nothing is folded


def test_unfold_batch_norms_leaves_layers_that_no_batch_reaches():
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


def test_batch_norms_take_mappings_and_pairs():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, values, scale=1.0):
            return self.norm(values * scale)

    values = 1 + random(20, 3)
    expected = Named()
    reestimate_batch_norms_(expected, [2 * values])
    batches = [{"values": values, "scale": torch.full((20, 1), 2.0)}], [(2 * values, None)]
    for data in batches:
        model = Named()
        assert batch_norm_drift(model, data).keys() == {"norm"}
        reestimate_batch_norms_(model, data)
        assert torch.equal(model.norm.running_mean, expected.norm.running_mean)
        fold_batch_norms_(model)
        unfold_batch_norms_(model, data)
        torch.testing.assert_close(model.norm.running_mean, expected.norm.running_mean)


def test_reestimate_batch_norms_gives_the_statistics_of_the_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    inputs = 2 + 3 * random(64, 3, 8, 8)
    reestimate_batch_norms_(model.eval(), inputs.split(16))
    seen = model[0](inputs).detach()
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, seen.var((0, 2, 3)), rtol=0.02, atol=0)
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1
    before = model[1].running_mean.clone()
    with pytest.raises(DataError, match="no calibration batches to take"):
        reestimate_batch_norms_(model, [])
    assert torch.equal(model[1].running_mean, before)


def test_reestimate_batch_norms_restores_statistics_on_errors():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(2 + random(20, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="shapes"):
        reestimate_batch_norms_(model, [random(20, 3), random(20, 2)])

    def stopped():
        yield random(20, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reestimate_batch_norms_(model, stopped())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert model.training


@pytest.mark.parametrize("float_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_reestimate_batch_norms_refuses_folded_layers(float_dtype, eps):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=eps), nn.BatchNorm1d(4))
    for _ in range(5):
        model(2 + random(20, 3))
    model.load_state_dict(stored(model, float_dtype))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"'1' is folded .* re-estimate them before folding"):
        reestimate_batch_norms_(model, [random(20, 3)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reestimate_batch_norms_takes_new_layers():
    for norm in (nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, eps=1e-9)):
        model = nn.Sequential(nn.Linear(3, 4), norm)
        reestimate_batch_norms_(model, [2 + random(20, 3)])
        assert norm.running_mean.all()


def test_folded_batch_norms_leaves_out_initial_weights():
    norm = nn.BatchNorm1d(4)
    nn.init.zeros_(norm.weight)
    reestimate_batch_norms_(nn.Sequential(nn.Linear(3, 4), norm), [2 + random(20, 3)])
    assert norm.running_mean.all()
    with torch.no_grad():
        norm.reset_running_stats()
        norm.weight.uniform_(0.5, 1.5)  # as some networks begin
    reestimate_batch_norms_(norm, [2 + random(20, 4)])
    assert norm.running_mean.all()
    with torch.no_grad():
        norm.reset_running_stats()
        norm.bias.uniform_(0.5, 1.5)  # and weights other than 1
    with pytest.raises(ModelError, match=r"or saw no batch yet, .* run a batch in training mode"):
        reestimate_batch_norms_(norm, [random(20, 4)])


class Auxiliary(nn.Module):
    """A second head that takes part in training only."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, inputs):
        found = self.norm(inputs)
        return found + self.other(inputs) if self.training else found


def test_reestimate_batch_norms_leaves_layers_that_no_batch_reaches():
    model = Auxiliary()
    for _ in range(20):
        model(3 + random(20, 4))
    before = copy.deepcopy(model.state_dict())
    batches = [1 + 2 * random(30, 4, seed=1)]
    drift = batch_norm_drift(model, batches)
    assert [*drift] == ["norm"]
    reestimate_batch_norms_(model, batches)
    torch.testing.assert_close(model.norm.running_mean, batches[0].mean(0))
    for name, value in model.other.state_dict().items():
        assert torch.equal(value, before[f"other.{name}"])
    model.load_state_dict(before)
    reestimate_batch_norms_(model, batches, drift=drift)
    torch.testing.assert_close(model.state_dict(), before)


def test_reestimate_batch_norms_with_drift_ignores_the_choice_of_batches():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    reestimate_batch_norms_(dense.eval(), [3 + random(4000, 6)])
    some = [3 + 1.2 * random(64, 6, seed=1)]
    drift = batch_norm_drift(dense, some)
    before = copy.deepcopy(dense.state_dict())
    same = copy.deepcopy(dense)
    reestimate_batch_norms_(same, some, drift=drift)
    for name, value in same.state_dict().items():
        torch.testing.assert_close(value, before[name])
    changed = copy.deepcopy(dense)
    changed[0].weight.data.mul_(2)
    changed[0].bias.data.mul_(2)
    reestimate_batch_norms_(changed, some, drift=drift)
    torch.testing.assert_close(
        changed[1].running_mean, 2 * before["1.running_mean"], rtol=0.2, atol=0.5
    )
    torch.testing.assert_close(
        changed[1].running_var, 4 * before["1.running_var"], rtol=1e-3, atol=0
    )
    with pytest.raises(ModelError, match="the drift is of a model with other batch norm"):
        reestimate_batch_norms_(nn.Sequential(nn.BatchNorm1d(6)), some, drift=drift)
    constant = nn.Sequential(nn.Linear(6, 2), nn.BatchNorm1d(2))
    constant[0].weight.data.zero_()
    drift = batch_norm_drift(constant, some)
    assert bool(torch.isfinite(drift["1"][1]).all())


def test_folded_batch_norms_leaves_out_new_layers_with_a_bias():
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.bias[1] = 0.5
    assert not folded_batch_norms(norm)
    reestimate_batch_norms_(norm, [2 + random(20, 4)])
    assert norm.running_mean.all()
    check_unfolded(norm)


def test_check_not_training_folded_looks_at_the_mode_of_each_layer():
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(3)
    fold_batch_norms_(norm)
    folded = folded_batch_norms(norm)
    norm.eval()
    check_not_training_folded(folded)
    norm.train()
    norm(torch.randn(4, 2))  # it is no longer recognized as folded by its statistics
    with pytest.raises(ModelError, match=r"'' is folded .*unfold_batch_norms_"):
        check_not_training_folded(folded)
