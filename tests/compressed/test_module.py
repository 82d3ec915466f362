"""Collection of a module's state, and the rounding of its floats."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flyweight import io
from flyweight.compressed import compress_lossless, compress_module, rounded, to_mantissa_bits
from flyweight.errors import ModelError
from flyweight.quantization import quantize_kmeans


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
def test_to_mantissa_bits_by_hand(bits, values, expected):
    found = to_mantissa_bits(torch.tensor(values), bits)
    wanted = torch.tensor(expected)
    assert torch.equal(found, wanted)
    assert torch.equal(found.signbit(), wanted.signbit())


@given(st.lists(st.floats(2**-14, 60_000, width=32), min_size=1), st.sampled_from([1, -1]))
def test_to_mantissa_bits_of_a_type_is_its_rounding(values, sign):
    tensor = sign * torch.tensor(values)
    for dtype, bits in ((torch.bfloat16, 7), (torch.float16, 10)):
        assert torch.equal(to_mantissa_bits(tensor, bits), tensor.to(dtype).float())


@given(st.lists(st.floats(2**-90, 2**90, width=32), min_size=1), st.integers(1, 22))
def test_to_mantissa_bits_gives_the_nearest_number(values, bits):
    tensor = torch.tensor(values)
    mantissa, exponent = np.frexp(tensor.double().numpy())
    wanted = np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)
    assert to_mantissa_bits(tensor, bits).double().numpy().tolist() == wanted.tolist()


def test_rounded_returns_what_cannot_be_rounded():
    whole, double = torch.arange(3), torch.tensor([0.1], dtype=torch.float64)
    assert torch.equal(rounded(whole, torch.float16, mantissa_bits=2), whole)
    assert torch.equal(rounded(double, torch.float16, mantissa_bits=2), double)
    large = torch.tensor([1.3, 1e30])
    assert torch.equal(rounded(large, torch.float16, mantissa_bits=2), large)
    largest = torch.tensor([1.3, 3.4028234e38])
    assert torch.equal(rounded(largest, torch.bfloat16, mantissa_bits=2), largest)


@pytest.mark.parametrize(
    ("values", "dtype", "bits", "expected"),
    [
        # float16 makes 0 of the first, and has 3 bits left for the second, 2**-22 * 1.3.
        ([1e-8, -2e-8, 0.0], torch.float16, 0, [1e-8, -2e-8, 0.0]),
        ([1.3 * 2**-22], torch.float16, 5, [1.3 * 2**-22]),
        ([1.3 * 2**-22], torch.float16, 4, [1.25 * 2**-22]),
        # Beside values that float16 has, the loss of a small one is below its precision.
        ([1e-9, 0.1], torch.float16, 0, [0.0, 0.0999755859375]),
        ([1e-8, 0.0], torch.bfloat16, 1, [1.5 * 2**-27, 0.0]),
        ([0.0, -0.0], torch.float16, 0, [0.0, 0.0]),
        ([], torch.float16, 0, []),
    ],
)
def test_rounded_keeps_tensors_whose_largest_values_would_lose_precision(
    values, dtype, bits, expected
):
    found = rounded(torch.tensor(values), dtype, mantissa_bits=bits)
    assert torch.equal(found, torch.tensor(expected))


def test_compress_module_copies_the_memory_of_the_model():
    model = nn.Linear(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = [
        compress_module(model, float_dtype="float32"),
        compress_lossless(model.state_dict()),
    ]
    for parameter in model.parameters():
        parameter.data.zero_()
    for compressed in found:
        state = compressed.state_dict()
        assert all(torch.equal(state[name], value) for name, value in before.items())


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


@pytest.mark.parametrize("float_dtype", ["bfloat16", "float16", "float32"])
def test_compress_module_saves_a_bit_per_value_and_mantissa_bit(tmp_path, float_dtype):
    sizes = {}
    most = {"bfloat16": 7, "float16": 10, "float32": 23}[float_dtype]
    values = 0
    for bits in (0, most, 6, 5, 4, 3):
        compressed = compress_module(network(), float_dtype=float_dtype, float_mantissa_bits=bits)
        sizes[bits] = io.save(compressed, tmp_path / "a.fly")
        back = io.load_state_dict(tmp_path / "a.fly")
        values = 0
        for name, value in compressed.state_dict().items():
            assert torch.equal(back[name], value)
            if bits and value.is_floating_point():
                assert torch.equal(to_mantissa_bits(value, bits), value)
            if name.endswith(("weight", "bias")):
                values += value.numel()
    assert sizes[0] == sizes[most]
    for more, fewer in ((6, 5), (5, 4)):
        assert sizes[more] - sizes[fewer] == pytest.approx(values / 8, rel=0.15)
    assert sizes[4] - sizes[3] > 0.5 * values / 8  # then a value may take 8 bits, or be rounded
    assert sizes[most] - sizes[5] > 0.85 * (most - 5) * values / 8


def quantized(bits=3):
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    tensor = quantize_kmeans(model.weight, bits=bits)
    model.weight.data.copy_(tensor.dequantize())
    return model, tensor


def test_compress_module_does_not_round_levels():
    model, tensor = quantized()
    compressed = compress_module(model, {"weight": tensor}, float_mantissa_bits=1)
    assert compressed["weight"] is tensor
    assert torch.equal(compressed["bias"], to_mantissa_bits(model.bias.detach(), 1))


def test_compress_module_finds_a_tied_weight_by_any_name():
    model, tensor = quantized()
    tied = nn.Sequential(model, nn.Linear(8, 8))
    tied[1].weight = model.weight
    compressed = compress_module(tied, {"1.weight": tensor})
    assert compressed["0.weight"] is tensor
    assert compressed.aliases == {"1.weight": "0.weight"}


def test_compress_module_refuses_levels_of_another_model():
    for change in (
        lambda weight: weight.mul_(1.01),
        lambda weight: weight[0].zero_(),
        lambda weight: weight.copy_(weight.roll(1, 0)),
    ):
        model, tensor = quantized()
        change(model.weight.data)
        with pytest.raises(ModelError, match="'weight' is not what its symbols and levels say"):
            compress_module(model, {"weight": tensor})
    model, tensor = quantized()
    with pytest.raises(ModelError, match=r"shape \(8, 8\) in the model, and \(2, 8\) as symbols"):
        compress_module(model, {"weight": dataclasses.replace(tensor, symbols=tensor.symbols[:2])})
    with pytest.raises(ModelError, match=r"no tensor named '3\.weight'"):
        compress_module(model, {"3.weight": tensor})
