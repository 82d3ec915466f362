"""Batches of all forms: their inputs, their parts, and the outputs of models that take them."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

from flyweight.batches import (
    check_batch,
    check_batches,
    default_loss,
    evaluating,
    examples_in,
    inputs_of,
    logits_of,
    output_tensors,
    run_model,
    same_outputs,
    slice_batch,
    split_batch,
    take_examples,
    targets_of,
    to_device,
)
from flyweight.errors import DataError, ModelError

X, Y = torch.arange(12.0).view(6, 2), torch.arange(6) % 2
Pair = collections.namedtuple("Pair", ["left", "right"])


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return left + 2 * right


FORMS = {
    "pair": (X, Y),
    "list": [X, Y],
    "mapping": {"left": X, "right": X, "labels": Y},
    "tensor": X,
    "one-tuple": (X,),
    "pair of tuple": ((X, X), Y),
    "pair of mapping": ({"left": X, "right": X}, Y),
}


@pytest.mark.parametrize("batch", FORMS.values(), ids=FORMS)
def test_batches_are_checked_counted_sliced_and_split(batch):
    check_batch(batch)
    assert examples_in(batch) == 6
    part = slice_batch(batch, slice(1, 3))
    assert type(part) is type(batch) or isinstance(batch, dict)
    assert examples_in(part) == 2
    parts = [*split_batch(batch, 4)]
    assert [examples_in(p) for p in parts] == [4, 2]
    assert same_outputs(inputs_of(to_device(batch, "cpu")), inputs_of(batch))


def test_slice_batch_takes_the_same_examples_of_inputs_and_targets():
    inputs, targets = slice_batch((X, Y), slice(2, 4))
    assert torch.equal(inputs, X[2:4])
    assert torch.equal(targets, Y[2:4])


def test_slice_batch_keeps_tensors_that_are_not_by_example():
    mask = torch.ones(4, 4)
    assert slice_batch({"left": X, "mask": mask}, slice(2))["mask"] is mask


def test_run_model_passes_positions_and_keywords():
    expected = X + 2 * X
    model = TwoInputs()
    assert torch.equal(run_model(model, ((X, X), Y)), expected)
    assert torch.equal(run_model(model, ({"left": X, "right": X}, Y)), expected)
    assert torch.equal(run_model(model, {"left": X, "right": X}), expected)
    assert torch.equal(run_model(nn.Identity(), (X, Y)), X)


def test_targets_of_each_form():
    assert targets_of((X, Y)) is Y
    assert targets_of({"left": X, "labels": Y}) is Y
    assert targets_of(X) is None
    assert targets_of((X,)) is None


def test_take_examples_cuts_the_last_batch():
    found = take_examples([(X, Y)] * 3, 8)
    assert [examples_in(batch) for batch in found] == [6, 2]
    assert torch.equal(found[1][1], Y[:2])
    assert take_examples([(X, Y)], 99) == [(X, Y)]


@pytest.mark.parametrize(("examples", "batches"), [(0, 0), (1, 1), (6, 1), (7, 2), (12, 2)])
def test_take_examples_takes_no_batch_more(examples, batches):
    left = iter([(X, Y)] * 4)
    found = take_examples(left, examples)
    assert sum(map(examples_in, found)) == examples
    assert len([*left]) == 4 - batches


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    loss: torch.Tensor | None = None


def test_output_tensors_names_tensors_in_nested_outputs():
    output = Output(X, (X, X))
    assert [*output_tensors(output)] == ["logits", "hidden.0", "hidden.1"]
    assert [*output_tensors(Pair(X, {"a": X}))] == ["left", "right.a"]
    assert [*output_tensors(X)] == [""]
    assert [*output_tensors((X, Y))] == ["0"]  # integers are no outputs to compare


@pytest.mark.parametrize("outputs", ["text", None, Y, (Y, "text"), []])
def test_output_tensors_refuses_outputs_without_floats(outputs):
    with pytest.raises(ModelError, match="outputs cannot be compared"):
        output_tensors(outputs)


def test_same_outputs_is_exact():
    assert same_outputs((X, X), (X.clone(), X))
    nan = torch.tensor([float("nan")])
    assert same_outputs(nan, nan)
    assert not same_outputs(X, X.nextafter(X + 1))
    assert not same_outputs((X,), (X, X))
    assert not same_outputs(X, X[:3])


def test_logits_of_each_form():
    assert logits_of(X) is X
    assert logits_of(Output(X, ())) is X
    assert logits_of({"logits": X, "other": Y}) is X
    assert logits_of((X, Y)) is X
    assert logits_of("text") is None


def test_default_loss_is_cross_entropy_or_the_loss_of_the_model():
    expected = nn.functional.cross_entropy(X, Y)
    assert torch.equal(default_loss(nn.Identity(), (X, Y)), expected)

    class WithLoss(nn.Module):
        def forward(self, left, labels):
            return Output(left, (), nn.functional.cross_entropy(left, labels))

    assert torch.equal(default_loss(WithLoss(), {"left": X, "labels": Y}), expected)
    pixels = torch.randn(2, 3, 4, 4)
    classes = torch.zeros(2, 4, 4, dtype=torch.long)
    expected = nn.functional.cross_entropy(pixels, classes)
    assert torch.equal(default_loss(nn.Identity(), (pixels, classes)), expected)


class Sized:
    """Has a length and can be gone through again."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([(X, Y)] * 2)


def test_check_batches_counts_them():
    assert check_batches([(X, Y)] * 3) == 3
    assert check_batches(Sized()) == 2
    loader = torch.utils.data.DataLoader([*zip(X, Y, strict=True)], batch_size=4)
    assert check_batches(loader) == 2


@pytest.mark.parametrize("bad", [X, {"a": X}, 3, None, iter([X]), []])
def test_check_batches_names_the_argument(bad):
    with pytest.raises(DataError, match=r"^calibration "):
        check_batches(bad, "calibration")


def test_evaluating_restores_the_mode_of_each_module():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model.training
    assert model[0].training
    assert not model[1].training
