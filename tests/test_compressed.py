"""Compressed tensors and models: values, aliases, and the way through a container."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.format import dumps, loads
from flyweight.errors import FlyweightError, ModelError
from flyweight.quantization import quantize_fixed_point

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
]


def through_a_file(model):
    return CompressedModel.from_container(loads(dumps(model.to_container())))


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


def test_dequantize_by_hand():
    tensor = CompressedTensor(torch.tensor([[0, 2], [1, 2]]), torch.tensor([-1.5, 0.25]))
    assert tensor.dequantize().tolist() == [[0.0, 0.25], [-1.5, 0.25]]
    assert tensor.shape == (2, 2)
    assert tensor.dtype == torch.float32
    assert tensor.sparsity == 0.25
    assert CompressedTensor(torch.zeros(0, 3, dtype=torch.int32), torch.ones(1)).sparsity == 0.0


def test_sparsity_counts_what_is_zero_however_it_is_stored():
    weight = torch.tensor([[-1.0, 0.2, 2.0, 1.0], [0.0, 1.0, 2.0, 4.0]])
    tensor = quantize_fixed_point(weight, bits=2, per_channel=True)
    assert tensor.dequantize()[0].tolist() == [-1.0, 0.0, 2.0, 1.0]
    assert tensor.sparsity == 0.25
    assert tensor.symbols[0].all()
    symbols = torch.tensor([[0, 1, 2], [0, 1, 2]])
    scales, offsets = torch.tensor([1.0, 0.5]), torch.tensor([0.0, -1.0])
    assert CompressedTensor(symbols, torch.tensor([0.0, 2.0])).sparsity == 4 / 6
    assert CompressedTensor(symbols, torch.tensor([1.0, 2.0]), scales, offsets).sparsity == 3 / 6
    assert CompressedTensor(symbols, torch.tensor([1.0, 2.0]), scales * 0).sparsity == 1
    tiny = torch.tensor([1e-30, 1.0])
    assert CompressedTensor(symbols, tiny, torch.tensor([1e-30, 1.0])).sparsity == 3 / 6


@given(
    channels=st.integers(0, 4), width=st.integers(0, 5), seed=st.integers(0, 99), kind=st.booleans()
)
def test_sparsity_is_that_of_the_values(channels, width, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(4, (channels, width, 2), generator=generator)
    levels = torch.randint(-1, 2, (3,), generator=generator).float()
    scales = torch.randint(0, 3, (channels,), generator=generator).float()
    offsets = torch.randint(-2, 3, (channels,), generator=generator).float()
    tensor = CompressedTensor(symbols, levels, *((scales, offsets) if kind else ()))
    values = tensor.dequantize()
    wanted = float((values == 0).double().mean()) if values.numel() else 0.0
    assert tensor.sparsity == pytest.approx(wanted)


def test_a_model_is_a_mapping_in_which_tied_names_share_one_tensor():
    weight = CompressedTensor(torch.tensor([1, 0]), torch.tensor([3.0]))
    model = CompressedModel({"a": weight, "b": torch.ones(1)}, aliases={"c": "a"})
    assert list(model) == ["a", "b", "c"]
    assert len(model) == 3
    assert model["c"] is weight
    state = model.state_dict()
    assert state["c"] is state["a"]
    assert state["a"].tolist() == [3.0, 0.0]


@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    count=st.integers(0, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_shared_tensors_come_back_bit_for_bit(shape, count, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(count + 1, shape, generator=generator, dtype=torch.int32)
    levels = torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)
    tensor = CompressedTensor(symbols, levels)
    found = through_a_file(CompressedModel({"w": tensor})).state_dict()["w"]
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert bits(found) == bits(tensor.dequantize())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 4), (1,), (3, 5, 2)])
def test_dense_tensors_of_every_dtype_come_back_bit_for_bit(dtype, shape):
    generator = torch.Generator().manual_seed(3)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).abs().to(dtype)
    found = through_a_file(CompressedModel({"w": values})).state_dict()["w"]
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert bits(found) == bits(values)


def test_signs_of_zero_and_payloads_of_nan_survive():
    patterns = torch.tensor([0, -(2**31), 0x7FC00001, -1, 0x7F800000, 1], dtype=torch.int32)
    values = patterns.view(torch.float32)
    assert bits(through_a_file(CompressedModel({"w": values}))["w"]) == bits(values)


def test_the_order_of_memory_is_no_part_of_a_tensor():
    plain = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    symbols = (plain * 2).round().clamp(0, 3).int()

    def model(form):
        shared = CompressedTensor(symbols.contiguous(memory_format=form), torch.arange(1.0, 4))
        return CompressedModel({"d": plain.contiguous(memory_format=form), "s": shared})

    files = [
        dumps(model(form).to_container()) for form in (torch.contiguous_format, torch.channels_last)
    ]
    assert files[0] == files[1]
    transposed = CompressedModel({"w": plain.transpose(0, 1)})
    assert torch.equal(through_a_file(transposed)["w"], plain.transpose(0, 1))


def test_aliases_and_metadata_come_back():
    shared = CompressedTensor(torch.tensor([[1, 0, 2]]), torch.tensor([0.5, -2.0]))
    tensors = {"w": shared, "b": torch.arange(3)}
    model = CompressedModel(tensors, {"tied": "w", "also": "b"}, {"recipe": "schnell, größer"})
    found = through_a_file(model)
    assert found.aliases == model.aliases
    assert found.metadata == model.metadata
    assert torch.equal(found["tied"].symbols, shared.symbols)
    assert found.state_dict()["also"] is found.state_dict()["b"]


def test_what_comes_back_can_be_trained():
    found = through_a_file(CompressedModel({"weight": torch.randn(2, 3), "bias": torch.zeros(2)}))
    layer = nn.Linear(3, 2)
    layer.load_state_dict(found.state_dict())
    layer(torch.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    found.state_dict()["weight"].add_(1)  # writable, though decoded from bytes


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.float32).to_sparse(),
        torch.zeros(2, dtype=torch.uint8).view(torch.float8_e4m3fnuz),
        torch.zeros(2, dtype=torch.uint8).view(torch.uint4),
        torch.zeros(2, device="meta"),
        {"scale": 1.0},
    ],
    ids=["sparse", "an 8-bit float", "4 bits", "no values", "no tensor"],
)
def test_what_a_file_cannot_hold_is_refused(tensor):
    with pytest.raises(ModelError, match="tensor 'w' "):
        dumps(CompressedModel({"w": tensor}).to_container())


def test_an_alias_of_nothing_is_refused():
    with pytest.raises((FlyweightError, KeyError)):
        CompressedModel({"w": torch.ones(1)}, aliases={"v": "nosuch"}).to_container()
