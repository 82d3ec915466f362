"""Compressed tensors and models: values, aliases, bytes and back, lossless collection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from flyweight import _architectures
from flyweight.compressed import (
    CompressedModel,
    CompressedTensor,
    compress_lossless,
    gradual_underflow,
)
from flyweight.errors import ModelError
from flyweight.modules import register_architecture
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
    return CompressedModel.from_bytes(model.to_bytes())


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


def test_dequantize_gives_zeros_and_levels():
    tensor = CompressedTensor(torch.tensor([[0, 2], [1, 2]]), torch.tensor([-1.5, 0.25]))
    assert tensor.dequantize().tolist() == [[0.0, 0.25], [-1.5, 0.25]]
    assert tensor.shape == (2, 2)
    assert tensor.dtype == torch.float32
    assert tensor.sparsity == 0.25
    assert CompressedTensor(torch.zeros(0, 3, dtype=torch.int32), torch.ones(1)).sparsity == 0.0


def test_sparsity_counts_zero_symbols_and_zero_values():
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
def test_sparsity_matches_the_values(channels, width, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(4, (channels, width, 2), generator=generator)
    levels = torch.randint(-1, 2, (3,), generator=generator).float()
    scales = torch.randint(0, 3, (channels,), generator=generator).float()
    offsets = torch.randint(-2, 3, (channels,), generator=generator).float()
    tensor = CompressedTensor(symbols, levels, *((scales, offsets) if kind else ()))
    values = tensor.dequantize()
    wanted = float((values == 0).double().mean()) if values.numel() else 0.0
    assert tensor.sparsity == pytest.approx(wanted)


def test_compressed_model_maps_tied_names_to_one_tensor():
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
def test_from_bytes_restores_quantized_tensors(shape, count, dtype, seed):
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
def test_from_bytes_restores_dense_tensors_of_every_dtype(dtype, shape):
    generator = torch.Generator().manual_seed(3)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).abs().to(dtype)
    found = through_a_file(CompressedModel({"w": values})).state_dict()["w"]
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert bits(found) == bits(values)


def test_from_bytes_restores_signs_of_zero_and_nan_payloads():
    patterns = torch.tensor([0, -(2**31), 0x7FC00001, -1, 0x7F800000, 1], dtype=torch.int32)
    values = patterns.view(torch.float32)
    assert bits(through_a_file(CompressedModel({"w": values}))["w"]) == bits(values)


def test_to_bytes_ignores_the_memory_format():
    plain = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    symbols = (plain * 2).round().clamp(0, 3).int()

    def model(form):
        shared = CompressedTensor(symbols.contiguous(memory_format=form), torch.arange(1.0, 4))
        return CompressedModel({"d": plain.contiguous(memory_format=form), "s": shared})

    forms = (torch.contiguous_format, torch.channels_last)
    files = [model(form).to_bytes() for form in forms]
    assert files[0] == files[1]
    transposed = CompressedModel({"w": plain.transpose(0, 1)})
    assert torch.equal(through_a_file(transposed)["w"], plain.transpose(0, 1))


def test_from_bytes_restores_aliases_and_metadata():
    shared = CompressedTensor(torch.tensor([[1, 0, 2]]), torch.tensor([0.5, -2.0]))
    tensors = {"w": shared, "b": torch.arange(3)}
    model = CompressedModel(tensors, {"tied": "w", "also": "b"}, {"recipe": "schnell, größer"})
    found = through_a_file(model)
    assert found.aliases == model.aliases
    assert found.metadata == model.metadata
    assert torch.equal(found["tied"].symbols, shared.symbols)
    assert found.state_dict()["also"] is found.state_dict()["b"]


def test_state_dict_of_a_read_model_can_be_trained():
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
def test_to_bytes_refuses_what_a_file_cannot_hold(tensor):
    with pytest.raises(ModelError, match="'w' is "):
        CompressedModel({"w": tensor}).to_bytes()


def test_to_bytes_refuses_an_alias_of_no_tensor():
    with pytest.raises(ModelError, match="alias 'v' stands for 'nosuch'"):
        CompressedModel({"w": torch.ones(1)}, aliases={"v": "nosuch"}).to_bytes()


def test_to_bytes_is_computed_once(monkeypatch):
    model = CompressedModel({"w": torch.ones(2)})
    data = model.to_bytes()
    monkeypatch.setattr(CompressedModel, "to_container", None)
    assert model.to_bytes() is data


def test_to_bytes_leaves_names_to_a_registered_architecture(monkeypatch):
    monkeypatch.setattr(_architectures, "_FACTORIES", {})
    monkeypatch.setattr(_architectures, "_SOURCES", [])
    layer = nn.Linear(3, 2)
    tensors = {"bias": layer.bias.detach(), "weight": layer.weight.detach()}

    def model():
        return CompressedModel(tensors, metadata={"architecture": "a layer"})

    named = model().to_bytes()
    register_architecture("a layer", lambda: nn.Linear(3, 2))
    bare = model().to_bytes()
    assert len(bare) < len(named)
    for data in (named, bare):
        assert torch.equal(CompressedModel.from_bytes(data)["weight"], layer.weight)
    monkeypatch.setattr(_architectures, "_FACTORIES", {})
    monkeypatch.setattr(_architectures, "_SOURCES", [])
    with pytest.raises(ModelError, match="'a layer', which is not registered; pass the model"):
        CompressedModel.from_bytes(bare)
    found = CompressedModel.from_bytes(bare, architecture=lambda: nn.Linear(3, 2))
    assert list(found) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_from_bytes_restores_scalars_of_every_coder(dtype):
    scalar = CompressedTensor(torch.tensor(2), torch.tensor([-1.0, 3.0], dtype=dtype))
    assert scalar.dequantize().item() == 3.0
    found = through_a_file(CompressedModel({"w": scalar}))["w"]
    assert (found.shape, found.dequantize().item()) == ((), 3.0)


def test_compress_lossless_stores_pruned_weights_in_few_bytes():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(300, 100, generator=generator)
    weight[torch.rand(300, 100, generator=generator) < 0.95] = 0
    compressed = compress_lossless({"weight": weight, "bias": torch.randn(100)})
    assert len(compressed.to_bytes()) < 0.06 * weight.nbytes
    assert bits(through_a_file(compressed).state_dict()["weight"]) == bits(weight)


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(40, 40).tril().log(),  # a causal mask of zeros and minus infinity
        torch.ones(40, 40, dtype=torch.bool).tril(),
        torch.eye(50),
        torch.tensor([0.0, -0.0, 1.0, -1.0] * 300),
        torch.tensor([-0.0, 2.5] * 600, dtype=torch.bfloat16),
        torch.tensor([1.5, -448.0, 0.0] * 400).to(torch.float8_e4m3fn),
        torch.tensor([5, -3, 0, 1 << 40] * 300),
        torch.tensor([3, 200] * 500, dtype=torch.uint8),
        torch.tensor([1e-45, 0.0, -1e-45, 1e-40] * 300),
        torch.tensor([5e-324, 0.0, 1e-40] * 300, dtype=torch.float64),
    ],
    ids=["mask", "bool", "eye", "zeros", "bfloat16", "float8", "int64", "uint8", "tiny", "double"],
)
def test_compress_lossless_keeps_bits_of_repeated_values(values):
    compressed = compress_lossless({"w": values})
    assert len(compressed.to_bytes()) < 0.25 * values.nbytes
    assert bits(through_a_file(compressed).state_dict()["w"]) == bits(values)


@pytest.mark.parametrize(
    "values",
    [
        torch.randn(50, 50),
        torch.zeros(50, 50),
        torch.tensor([torch.nan, 0.0] * 100),
        torch.tensor([1j, 0.0] * 100),
        torch.tensor(3.0),
        torch.zeros(0, 4),
    ],
    ids=["noise", "constant", "nan", "complex", "scalar", "empty"],
)
def test_compress_lossless_keeps_other_tensors_plain(values):
    compressed = compress_lossless({"w": values})
    assert isinstance(compressed["w"], torch.Tensor)
    assert bits(through_a_file(compressed)["w"]) == bits(values)


def test_compress_lossless_stores_shared_memory_once():
    base = torch.randn(6, 6)
    state = {"a": base, "b": base, "c": base.T, "d": base[:3], "e": base.clone()}
    compressed = compress_lossless(state)
    assert compressed.aliases == {"b": "a"}
    complex_values = torch.randn(3, dtype=torch.complex64)
    pair = {"a": complex_values, "b": complex_values.conj()}
    found = through_a_file(compress_lossless(pair)).state_dict()
    assert torch.equal(found["b"], pair["b"].resolve_conj())


def test_compress_lossless_does_not_alias_memory_that_was_freed():
    class Fresh(dict):
        def items(self):
            for name in "abcdefgh":
                yield name, torch.full((100, 3), float(ord(name))) + torch.eye(100, 3)

    compressed = compress_lossless(Fresh())
    assert compressed.aliases == {}
    assert compressed.state_dict()["h"][1, 0] == ord("h")


@pytest.fixture
def flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    yield
    torch.set_flush_denormal(False)


SUBNORMAL = {
    "float32": torch.tensor([1e-45, -1e-40, 1.0], dtype=torch.float32),
    "float64": torch.tensor([1e-45, -1e-40, 2.0**-149], dtype=torch.float64),
    "small": torch.tensor([5e-324, 1e-310, 1.0], dtype=torch.float64),
    "single": torch.tensor([2.0**-149, -(2.0**-130), 0.5], dtype=torch.float32).double(),
    "half": torch.tensor([6e-8, -6e-8, 1.0], dtype=torch.float16),
}


@pytest.mark.parametrize("name", SUBNORMAL)
def test_to_bytes_keeps_subnormal_numbers_where_they_are_flushed(name, request):
    values = SUBNORMAL[name]
    scales = torch.tensor([2.0**-100, 2.0**-40, 1.0], dtype=torch.float32)
    scaled = CompressedTensor(
        torch.tensor([[1], [1], [2]]), torch.tensor([2.0**-30, 2.0**-100]), scales
    )
    tensors = {"dense": values, "levels": CompressedTensor(torch.tensor([1, 2, 3]), values)}
    tensors["scaled"] = scaled
    want = {key: bits(v) for key, v in CompressedModel(tensors).state_dict().items()}
    data = CompressedModel(tensors).to_bytes()
    request.getfixturevalue("flushed")
    assert CompressedModel(tensors).to_bytes() == data
    state = CompressedModel.from_bytes(data).state_dict()
    assert {key: bits(v) for key, v in state.items()} == want
    assert (torch.tensor(2.0**-126) / 2).item() == 0, "the setting of the program is changed"


def test_from_values_keeps_subnormal_numbers_where_they_are_flushed(request):
    values = torch.tensor([1e-45, 0.0, -1e-40])
    request.getfixturevalue("flushed")
    tensor = CompressedTensor.from_values(values)
    assert tensor.symbols.tolist() == [2, 0, 1]
    assert bits(tensor.dequantize()) == bits(values)
    with gradual_underflow():
        assert float(torch.tensor(2.0**-126) / 2) == 2.0**-127
