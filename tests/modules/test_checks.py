"""Checks of a module before any work."""

import math

import pytest
import torch
from torch import nn

from flyweight.errors import ModelError
from flyweight.io import load_state_dict, save
from flyweight.modules import IntegerLayer, check_float, check_model
from flyweight.pruning import Pruner
from flyweight.quantization import QuantizationConfig, Quantizer


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
