"""Checks of a module before any work."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from flyweight.compression import compress
from flyweight.errors import ModelError, RecipeError
from flyweight.io import load_state_dict, save
from flyweight.modules import IntegerLayer, check_copyable, check_float, check_model
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import QuantizationConfig, Quantizer
from flyweight.training import TrainingConfig, train


class WithState(nn.Linear):
    """A layer with a state that is not a tensor, as quantizing libraries have it."""

    def get_extra_state(self):
        return {"scale": 1.0}

    def set_extra_state(self, state):
        pass


def beside(tensor):
    layer = nn.Linear(4, 4)
    layer.other = nn.Parameter(tensor, requires_grad=False)
    return nn.Sequential(layer)


def hooked(hook, runs=0):
    model = nn.Sequential(nn.Linear(4, 4))
    hook(model[0], "weight")
    for _ in range(runs):
        model(torch.randn(2, 4))
    return model


def remembering():
    model = nn.Sequential(nn.Linear(4, 4))
    model.seen = model(torch.randn(2, 4))
    return model


HOOKED = r"'0\.weight' is computed from others by a hook.*weight_norm.*make it a parameter"


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("stage", [Pruner, Quantizer])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: beside(torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)), "holds 1 values"),
        (lambda: nn.Linear(4, 4, device="meta"), "'weight' is on the meta device.*; load them"),
        (lambda: beside(torch.zeros(3, device="meta")), r"'0\.other' is on the meta device"),
        (lambda: beside(torch.eye(4).to_sparse()), r"'0\.other' is sparse .*; make it dense"),
        (
            lambda: WithState(4, 4),
            "holds '_extra_state', a dict, .* only; return",
        ),
        (lambda: hooked(nn.utils.weight_norm), HOOKED),
        (lambda: hooked(nn.utils.spectral_norm), HOOKED),
        (lambda: hooked(nn.utils.spectral_norm, runs=1), HOOKED),
        (lambda: hooked(nn.utils.prune.identity), HOOKED),
        (remembering, "'seen' is computed from others"),
        (lambda: torch.jit.script(nn.Linear(4, 4)), "the model is compiled by torch.jit, .*; give"),
        (
            lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 4)), nn.Linear(4, 4)),
            "layer '0' is compiled by torch.jit",
        ),
    ],
)
def test_stages_refuse_models_that_cannot_be_compressed(build, message, stage):
    with pytest.raises(ModelError, match=message):
        stage(build(), steps=1)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_quantizer_stores_8_bit_floats_unchanged(tmp_path, dtype):
    model = beside(torch.linspace(-2, 2, 16).view(4, 4).to(dtype))
    compressed = Quantizer(model, QuantizationConfig(bits=2), steps=0).finalize()
    save(compressed, tmp_path / "a.fly")
    back = load_state_dict(tmp_path / "a.fly")["0.other"]
    assert back.dtype == dtype
    assert torch.equal(back.float(), model[0].other.float())


def test_check_model_takes_values_beyond_float32():
    check_model(nn.Sequential(beside(torch.tensor([1e300], dtype=torch.float64))))


def test_check_float_refuses_integer_layers():
    class Integers(IntegerLayer):
        pass

    with pytest.raises(
        ModelError, match="layer '0' computes in 8-bit integers; compress the float"
    ):
        check_float(nn.Sequential(Integers()))


def test_model_with_a_function_as_forward_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    original = model[0].forward
    model[0].forward = lambda inputs: original(inputs) * 2
    message = "layer '0' has a forward that was set on the instance.*; define it in the class"
    data = [(torch.ones(2, 4), torch.tensor([0, 1]))]
    for call in (
        lambda: Pruner(model, steps=1),
        lambda: Quantizer(model, steps=1),
        lambda: train(model, data, device="cpu"),
        lambda: compress(model, data=data),
    ):
        with pytest.raises(ModelError, match=message):
            call()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_models_whose_forward_is_copied_are_accepted():
    method, partial = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    method[0].forward = method[0].forward
    partial[0].forward = functools.partial(partial[0].forward)
    compiled = nn.Sequential(torch.compile(nn.Linear(4, 4)))
    for model in (method, partial, compiled):
        check_copyable(model)
    for model in (method, partial):
        pruned = Pruner(model, PruningConfig(sparsity=0.5), steps=0).finalize()
        expected = functional.linear(torch.eye(4), pruned[0].weight, pruned[0].bias)
        assert torch.equal(pruned(torch.eye(4)), expected)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"a": 1}, "model is a dict; give a torch.nn.Module"),
        (None, "model is a NoneType; give a torch.nn.Module"),
        (nn.Linear, "model is the class Linear; give an instance of it"),
    ],
)
def test_objects_that_are_no_module_are_refused(model, message):
    for call in (
        lambda: Pruner(model, steps=3),
        lambda: Quantizer(model, steps=3),
        lambda: train(model, [(torch.ones(2, 4), torch.tensor([0, 1]))]),
    ):
        with pytest.raises(ModelError, match=message):
            call()


@pytest.mark.parametrize("stage", [Pruner, Quantizer])
@pytest.mark.parametrize(
    ("config", "found"), [({"bits": 4}, "dict"), (TrainingConfig(), "TrainingConfig"), ({}, "dict")]
)
def test_config_of_another_type_is_refused(stage, config, found):
    with pytest.raises(RecipeError, match=f"config is a {found}; give a (Prun|Quantizat)"):
        stage(nn.Linear(4, 4), config, steps=3)


@pytest.mark.parametrize("stage", [Pruner, Quantizer])
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("10", "steps is a str; give an integer, 0 or more"),
        (2.5, "steps is a float; give an integer"),
        (None, "steps is a NoneType; give an integer"),
        (-1, "the number of steps is -1; give 0 or more"),
    ],
)
def test_steps_that_are_no_count_are_refused(stage, steps, message):
    with pytest.raises(ModelError, match=message):
        stage(nn.Linear(4, 4), steps=steps)
