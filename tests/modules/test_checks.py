"""How floats outside the coded weights are rounded, and what that saves in a file."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import flyweight
from flyweight.errors import ModelError
from flyweight.own_loop_old import prepare, prepare_quantizer_old
from flyweight.recipes import PruningConfig, Recipe, QuantizationConfig
from flyweight.modules.checks import check_model
from flyweight.compressed import finish, rounded, to_mantissa_bits


@pytest.mark.parametrize(
    ("bits", "values", "expected"),
    [
        # Of two bits after the first: 1, 1.25, 1.5, 1.75, 2. Ties go to the even last bit.
        (2, [1.1, 1.125, 1.2, 1.375, 1.625, 1.9, -1.375], [1.0, 1.0, 1.25, 1.5, 1.5, 2.0, -1.5]),
        (1, [1.25, 1.75, 3.0, 5.0, 7.0, 0.1], [1.0, 2.0, 3.0, 4.0, 8.0, 0.09375]),
        (23, [0.1, -0.3, 7.0], [0.1, -0.3, 7.0]),
        (5, [0.0, -0.0, math.inf, -math.inf], [0.0, -0.0, math.inf, -math.inf]),
        # The largest float32 rounds up and has nowhere to go; a subnormal number has fewer bits.
        (7, [3.4028234e38, 2.0**-140, 2.0**-133], [math.inf, 0.0, 2.0**-133]),
    ],
)
def test_rounding_by_hand(bits, values, expected):
    found = to_mantissa_bits(torch.tensor(values), bits)
    wanted = torch.tensor(expected)
    assert torch.equal(found, wanted)
    assert torch.equal(found.signbit(), wanted.signbit())


@given(st.lists(st.floats(2**-14, 60_000, width=32), min_size=1), st.sampled_from([1, -1]))
def test_the_bits_of_a_type_give_its_own_rounding(values, sign):
    tensor = sign * torch.tensor(values)
    for dtype, bits in ((torch.bfloat16, 7), (torch.float16, 10)):
        assert torch.equal(to_mantissa_bits(tensor, bits), tensor.to(dtype).float())


@given(st.lists(st.floats(2**-90, 2**90, width=32), min_size=1), st.integers(1, 22))
def test_the_nearest_of_the_numbers_with_so_many_bits(values, bits):
    tensor = torch.tensor(values)
    mantissa, exponent = np.frexp(tensor.double().numpy())
    wanted = np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)
    assert to_mantissa_bits(tensor, bits).double().numpy().tolist() == wanted.tolist()


def test_what_cannot_be_rounded_stays_as_it_is():
    whole, double = torch.arange(3), torch.tensor([0.1], dtype=torch.float64)
    assert torch.equal(rounded(whole, torch.float16, mantissa_bits=2), whole)
    assert torch.equal(rounded(double, torch.float16, mantissa_bits=2), double)
    large = torch.tensor([1.3, 1e30])
    assert torch.equal(rounded(large, torch.float16, mantissa_bits=2), large)
    largest = torch.tensor([1.3, 3.4028234e38])
    assert torch.equal(rounded(largest, torch.bfloat16, mantissa_bits=2), largest)
    # Of float16 two bits are left where it is subnormal.
    assert rounded(torch.tensor([1.3 * 2**-22]), torch.float16, mantissa_bits=5) == 2**-22 * 1.25


def network():
    torch.manual_seed(0)
    layers = []
    for width in (64, 128, 32, 128, 128, 64):
        layers += [nn.Conv2d(1, width, 1, bias=True), nn.BatchNorm2d(width)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize("dense", ["bfloat16", "float16", "float32"])
def test_each_bit_saves_an_eighth_of_a_byte_a_value(tmp_path, dense):
    sizes = {}
    most = {"bfloat16": 7, "float16": 10, "float32": 23}[dense]
    values = 0
    for bits in (0, most, 6, 5, 4, 3):
        recipe = Recipe(dense=dense, dense_mantissa_bits=bits)
        compressed = finish(network(), {}, recipe, metadata={})
        sizes[bits] = flyweight.save(compressed, tmp_path / "a.fly")
        back = flyweight.decompress(tmp_path / "a.fly")
        values = 0
        for name, value in compressed.state_dict().items():
            assert torch.equal(back[name], value)
            if bits and value.is_floating_point():
                assert torch.equal(to_mantissa_bits(value, bits), value)
            if name.endswith(("weight", "bias")):
                values += value.numel()
    assert sizes[0] == sizes[most]
    for more, fewer in ((6, 5), (5, 4), (4, 3)):
        assert sizes[more] - sizes[fewer] == pytest.approx(values / 8, rel=0.15)
    assert sizes[most] - sizes[5] > 0.85 * (most - 5) * values / 8


def quantised(bits=3):
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    tensor = flyweight.quantization.share(model.weight, bits=bits)
    model.weight.data.copy_(tensor.dequantize())
    return model, tensor


def test_weights_with_few_values_keep_their_levels():
    model, tensor = quantised()
    recipe = Recipe(dense_mantissa_bits=1)
    compressed = finish(model, {"weight": tensor}, recipe, metadata={})
    assert compressed["weight"] is tensor
    assert torch.equal(compressed["bias"], to_mantissa_bits(model.bias.detach(), 1))


def test_a_tied_weight_is_found_by_any_of_its_names():
    model, tensor = quantised()
    tied = nn.Sequential(model, nn.Linear(8, 8))
    tied[1].weight = model.weight
    compressed = finish(tied, {"1.weight": tensor}, Recipe(), metadata={})
    assert compressed["0.weight"] is tensor
    assert compressed.aliases == {"1.weight": "0.weight"}


def test_levels_that_are_not_those_of_the_model_are_refused():
    for change in (
        lambda weight: weight.mul_(1.01),
        lambda weight: weight[0].zero_(),
        lambda weight: weight.copy_(weight.roll(1, 0)),
    ):
        model, tensor = quantised()
        change(model.weight.data)
        with pytest.raises(ModelError, match="'weight' is not what its symbols and levels say"):
            finish(model, {"weight": tensor}, Recipe(), metadata={})
    model, tensor = quantised()
    with pytest.raises(ModelError, match=r"shape \(8, 8\) in the model, and \(2, 8\) as symbols"):
        finish(
            model,
            {"weight": dataclasses.replace(tensor, symbols=tensor.symbols[:2])},
            Recipe(),
            metadata={},
        )
    with pytest.raises(ModelError, match=r"no tensor named '3\.weight'"):
        finish(model, {"3.weight": tensor}, Recipe(), metadata={})


class WithState(nn.Linear):
    """A layer with a state that is no tensor, as quantising libraries have it."""

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


HOOKED = r"'0\.weight' is computed from others.*weight_norm.*make it a parameter"


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("begin", [prepare, prepare_quantizer_old])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: beside(torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn)), "holds 1 values"),
        (lambda: nn.Linear(4, 4, device="meta"), "'weight' is on the meta device.*; load them"),
        (lambda: beside(torch.zeros(3, device="meta")), r"'0\.other' is on the meta device"),
        (lambda: beside(torch.eye(4).to_sparse()), r"'0\.other' is sparse .*; make it dense"),
        (lambda: WithState(4, 4), "has '_extra_state', a dict, and a file holds tensors only; let"),
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
def test_what_no_stage_can_begin_with_is_refused_in_words(build, message, begin):
    recipe = PruningConfig() if begin is prepare else QuantizationConfig()
    with pytest.raises(ModelError, match=message):
        begin(build(), recipe, steps=1)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_floats_of_eight_bits_are_stored_as_they_are(tmp_path, dtype):
    model = beside(torch.linspace(-2, 2, 16).view(4, 4).to(dtype))
    compressed = prepare_quantizer_old(model, QuantizationConfig(bits=2), steps=1).finalize()
    flyweight.save(compressed, tmp_path / "a.fly")
    back = flyweight.decompress(tmp_path / "a.fly")["0.other"]
    assert back.dtype == dtype
    assert torch.equal(back.float(), model[0].other.float())


def test_values_beyond_the_largest_of_float32_are_finite():
    check_model(nn.Sequential(beside(torch.tensor([1e300], dtype=torch.float64))))
