"""compress() refuses bad input before any work, in one sentence that names the argument."""

import itertools

import pytest
import torch
from torch import nn

from flyweight.compression import compress
from flyweight.errors import DataError, FlyweightError, ModelError, RecipeError
from flyweight.pruning import PruningConfig
from flyweight.quantization import QuantizationConfig
from flyweight.recipes import Recipe
from flyweight.training import TrainingConfig

BATCH = (torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
TRAINED = Recipe(pruning=PruningConfig(sparsity=0.5), retraining=TrainingConfig(epochs=1))


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    monkeypatch.setattr("flyweight.compression.run.train_", lambda *_, **__: pytest.fail("trained"))


def model():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return itertools.repeat(BATCH[0][0])


BAD_DATA = {
    "empty list": ([], "data is empty"),
    "empty loader": (torch.utils.data.DataLoader([]), "data is empty"),
    "generator": ((BATCH for _ in range(3)), "data has no length"),
    "endless loader": (torch.utils.data.DataLoader(Endless(), 4), "data has no length"),
    "one tensor": (BATCH[0], "data is a Tensor; give a list of batches"),
    "a number": (7, "data is a int, which cannot be iterated"),
    "none": (None, "data is a NoneType"),
    "strings": (["a", "b"], "data gives batches of type str"),
    "three parts": ([(*BATCH, BATCH[0])], "data gives batches of type tuple of 3 parts"),
    "numbers": ([(1, 2)], "data gives batches whose inputs hold no tensor"),
    "no examples": ([(BATCH[0][:0], BATCH[1][:0])], "data gives a batch without examples"),
    "not finite": ([(BATCH[0] / 0, BATCH[1])], "data gives a batch that holds NaN or infinity"),
}


@pytest.mark.parametrize(("data", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_compress_refuses_data(data, message):
    with pytest.raises(DataError, match=message):
        compress(model(), TRAINED, data=data)


BAD_LOSS = {
    "no function": (0.5, "loss is a float; give a function"),
    "no scalar": (lambda m, b: m(b[0]).sum(1), r"loss gives a tensor of shape \(4,\); return a sc"),
    "nan": (lambda m, b: m(b[0]).sum() * float("nan"), "loss gives nan on the first batch"),
    "float": (lambda m, b: m(b[0]).sum().item(), "loss gives a float; return a scalar tensor"),
    "detached": (lambda m, b: m(b[0]).sum().detach(), "loss gives a tensor without a gradient"),
    "raises": (lambda m, b: 1 // 0, "loss fails on the first batch of data with ZeroDivisionErr"),
}


@pytest.mark.parametrize(("loss", "message"), BAD_LOSS.values(), ids=BAD_LOSS)
def test_compress_refuses_loss(loss, message):
    with pytest.raises(DataError, match=message):
        compress(model(), TRAINED, data=[BATCH], loss=loss)


BAD_EVALUATE = {
    "no function": (0.9, r"evaluate is a float; give a function evaluate\(model\) -> float"),
    "nan": (lambda m: float("nan"), "evaluate gives nan for the model as given"),
    "none": (lambda m: None, "evaluate gives a NoneType for the model as given; return one numb"),
    "a vector": (lambda m: torch.ones(3), "evaluate gives a Tensor for the model as given"),
}


@pytest.mark.parametrize(("evaluate", "message"), BAD_EVALUATE.values(), ids=BAD_EVALUATE)
def test_compress_refuses_evaluate(evaluate, message):
    with pytest.raises(DataError, match=message):
        compress(model(), TRAINED, data=[BATCH], evaluate=evaluate)


def test_compress_refuses_targets_that_need_a_loss():
    with pytest.raises(DataError, match=r"the targets are not integers.*give loss="):
        compress(model(), TRAINED, data=[(BATCH[0], BATCH[0][:, :3])])
    with pytest.raises(DataError, match="the batches hold no targets"):
        compress(model(), TRAINED, data=[BATCH[0]])
    with pytest.raises(ModelError, match=r"gives no loss for these batches.*give loss="):
        compress(model(), TRAINED, data=[{"input": BATCH[0]}])


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, inputs):
        return "words"


def test_compress_refuses_outputs_that_cannot_be_compared():
    with pytest.raises(ModelError, match="gives a str without a floating-point tensor"):
        compress(Words(), TRAINED, data=[BATCH])


def test_compress_refuses_batches_that_the_model_does_not_take():
    with pytest.raises(ModelError, match="fails on the first batch of data with RuntimeError"):
        compress(model(), TRAINED, data=[(torch.randn(4, 9), BATCH[1])])
    with pytest.raises(ModelError, match="fails on the first batch of data with TypeError"):
        compress(model(), TRAINED, data=[{"pixels": BATCH[0]}])


GLOBS = {
    "include": Recipe(pruning=PruningConfig(include=("conv*",))),
    "exclude": Recipe(quantization=QuantizationConfig(exclude=("conv*",))),
    "overrides": Recipe(pruning=PruningConfig(overrides={"conv*": 0.5})),
    "bits": Recipe(quantization=QuantizationConfig(bits_overrides={"conv*": 3})),
}


@pytest.mark.parametrize("recipe", GLOBS.values(), ids=GLOBS)
def test_compress_refuses_globs_without_a_match_before_evaluating(recipe):
    with pytest.raises(ModelError, match=r"conv\*"):
        compress(model(), recipe, data=[BATCH], evaluate=lambda m: pytest.fail("evaluated"))


def test_compress_refuses_label_smoothing_of_any_stage_with_a_loss():
    smooth = TrainingConfig(epochs=1, label_smoothing=0.1)
    recipe = Recipe(quantization=QuantizationConfig(), fine_tuning=smooth)
    with pytest.raises(RecipeError, match=r"fine_tuning\.label_smoothing has no effect"):
        compress(model(), recipe, data=[BATCH], loss=lambda m, b: m(b[0]).square().mean())


def test_compress_refuses_what_is_no_model():
    with pytest.raises(ModelError, match=r"model is a str; give a torch\.nn\.Module"):
        compress("resnet20", data=[BATCH])
    with pytest.raises(ModelError, match="no parameters"):
        compress(nn.Flatten(), data=[BATCH])
    broken = model()
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"'0.weight' holds 1 values that are NaN or infinite"):
        compress(broken, data=[BATCH])


def test_compress_refuses_recipe_and_device():
    with pytest.raises(RecipeError, match="there is no recipe 'tiny'"):
        compress(model(), "tiny", data=[BATCH])
    with pytest.raises(FlyweightError, match="'abacus'"):
        compress(model(), TRAINED, data=[BATCH], device="abacus")


def test_compress_refuses_a_model_that_is_frozen():
    frozen = model().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter of the model requires a gradient; unfreeze"):
        compress(frozen, TRAINED, data=[BATCH])
