"""Scales and offsets of channels: values by hand, the same bits by NumPy and torch, and files."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flyweight.coding import (
    decode_channels,
    decode_tensor,
    encode_shared,
    encode_tensors,
    prepare_shared,
)
from flyweight.coding.channels import all_finite, dequantized
from flyweight.compressed import CompressedModel, CompressedTensor, by_channel
from flyweight.errors import FormatError, ModelError
from flyweight.format import (
    Container,
    Reader,
    dumps,
    loads,
)
from flyweight.size_report import inspect

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
SYMBOLS = [[0, 1, 2], [0, 1, 2]]  # the example in docs/format.md
LEVELS, SCALES, OFFSETS = [-1.5, 0.5], [0.25, 2.0], [0.125, 0.0]
VALUES = [[0.0, -0.25, 0.25], [0.0, -3.0, 1.0]]


def tensor_of(dtype=torch.float32, offsets=True):
    tables = [torch.tensor(table, dtype=dtype) for table in (LEVELS, SCALES, OFFSETS)]
    return CompressedTensor(torch.tensor(SYMBOLS), *tables[: 2 + offsets])


def carried(tensor):
    """What NumPy has of a tensor: bfloat16 as its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()


def through_a_file(model):
    return CompressedModel.from_container(loads(dumps(model.to_container())))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_scaled_values_match_the_specification(dtype):
    assert tensor_of(dtype).dequantize().tolist() == VALUES
    assert tensor_of(dtype).dtype == dtype
    assert tensor_of(dtype).sparsity == pytest.approx(1 / 3)
    without = tensor_of(dtype, offsets=False).dequantize()
    assert without.tolist() == [[0.0, -0.375, 0.125], [0.0, -3.0, 1.0]]


def test_scaled_values_round_each_step_to_even():
    # 1 + 2^-12 squared is 1 + 2^-11 + 2^-24, a tie that goes to the even 1 + 2^-11 in float32; a
    # fused step would keep the 2^-24 that is left when 1 is taken away.
    one = 1 + 2**-12
    found = by_channel(torch.tensor([one]), torch.tensor([one]), torch.tensor([-1.0]))
    assert found.tolist() == [2**-11]
    # bfloat16 has 7 bits after the first: 1.5 times 1 + 2^-7 is 1.5 + 1.5 · 2^-7, a tie.
    level, scale = torch.tensor([1.5, 1 + 2**-7], dtype=torch.bfloat16)
    assert float(by_channel(level.view(1), scale.view(1), None)) == 1.5 + 2 * 2**-7
    # float16: the product is rounded at the end alone, so 2^-11 of it still counts in the sum.
    level, scale, offset = torch.tensor([1 + 2**-10, 1.5, 1 - 2**-11], dtype=torch.float16)
    exact = (1 + 2**-10) * 1.5 + 1 - 2**-11
    found = float(by_channel(level.view(1), scale.view(1), offset.view(1)))
    assert found == float(torch.tensor(exact).half())
    assert found != float((level * scale) + offset)


def test_scaled_values_overflow_and_underflow_gradually():
    tensor = CompressedTensor(
        torch.tensor([[1], [2]]), torch.tensor([1e30, 2.0]), torch.tensor([1e30, 1e-45])
    )
    values = tensor.dequantize()
    assert values[0].item() == math.inf
    assert values[1].item() > 0
    back = through_a_file(CompressedModel({"w": tensor}))["w"]
    assert torch.equal(back.dequantize(), values)


finite = st.floats(width=16, allow_nan=False, allow_infinity=False)


@given(
    data=st.data(),
    dtype=st.sampled_from(list(DTYPES)),
    rest=st.sampled_from([(), (3,), (2, 0), (2, 3)]),
    rows=st.integers(0, 4),
    offsets=st.booleans(),
)
def test_dequantize_decode_and_file_give_the_same_bits(data, dtype, rest, rows, offsets):
    def table(size):
        values = data.draw(st.lists(finite, min_size=size, max_size=size))
        return torch.tensor(values, dtype=torch.float64).to(DTYPES[dtype])

    levels = table(3)
    tables = [table(rows) for _ in range(1 + offsets)]
    symbols = torch.randint(0, 4, (rows, *rest), generator=torch.Generator().manual_seed(0))
    tensor = CompressedTensor(symbols.int(), levels, *tables)
    values = tensor.dequantize()
    assert not carried(values)[symbols.numpy() == 0].view(np.uint8).any()
    coded = encode_shared(
        "w",
        symbols.numpy(),
        levels=carried(levels),
        scales=carried(tables[0]),
        offsets=carried(tables[1]) if offsets else None,
        dtype=dtype,
    )
    assert decode_tensor(coded).tobytes() == carried(values).tobytes()
    back = through_a_file(CompressedModel({"w": tensor}))["w"]
    assert carried(back.dequantize()).tobytes() == carried(values).tobytes()
    assert (back.offsets is not None) == offsets
    for one, other in zip((back.levels, back.scales), (levels, tables[0]), strict=True):
        assert carried(one).tobytes() == carried(other).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [np.uint8, np.uint16])
@pytest.mark.parametrize("columns", [20, 3000])  # fewer than there are levels, and more
@pytest.mark.parametrize("tables", [0, 1, 2])
def test_dequantized_matches_torch_bit_for_bit(dtype, width, columns, tables):
    generator = torch.Generator().manual_seed(1)
    levels, scales, offsets = (
        torch.randn(size, generator=generator, dtype=torch.float64).to(DTYPES[dtype])
        for size in (200, 50, 50)
    )
    symbols = torch.randint(0, 201, (50, columns), generator=generator)
    used = [scales, offsets][:tables]
    wanted = CompressedTensor(symbols, levels, *used).dequantize()
    found = dequantized(symbols.numpy().astype(width), carried(levels), dtype, *map(carried, used))
    assert found.dtype == carried(wanted).dtype
    assert found.tobytes() == carried(wanted).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 3.0, 2.0**-9, 300.0])
def test_dequantized_rounds_all_values_of_16_bits(dtype, scale):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(DTYPES[dtype])
    for sign in (every.signbit(), ~every.signbit()):
        levels = every[every.isfinite() & sign]
        factor = torch.tensor([scale, 1 + 2**-7], dtype=levels.dtype)
        wanted = (levels.float() * factor.float()[:, None] + factor.float()[:, None]).to(levels)
        symbols = np.tile(np.arange(1, levels.numel() + 1, dtype=np.uint16), (2, 1))
        for columns in (symbols.shape[1], symbols.shape[1] - 1):
            part = symbols[:, :columns]
            found = dequantized(part, carried(levels), dtype, carried(factor), carried(factor))
            assert found.tobytes() == carried(wanted[:, :columns].contiguous()).tobytes()


@pytest.mark.parametrize("width", [np.uint8, np.uint16])
@pytest.mark.parametrize("scales", [None, np.float32([1, 2])])
@pytest.mark.parametrize("columns", [3, 5000])
def test_dequantized_refuses_symbols_without_a_level(width, scales, columns):
    symbols = np.ones((2, columns), width)
    symbols[1, -1] = 7
    with pytest.raises(ValueError, match="do not match"):
        dequantized(symbols, np.ones(6, np.float32), "float32", scales)
    assert dequantized(symbols, np.ones(7, np.float32), "float32", scales).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_finite_finds_nan_and_infinity(dtype):
    for value, finite in ((math.inf, False), (-math.inf, False), (math.nan, False), (-3e4, True)):
        values = carried(torch.tensor([1.0, value, -2.0], dtype=DTYPES[dtype]))
        assert all_finite(values, dtype) == finite


def test_encode_shared_stores_tables_in_the_narrowest_exact_dtype():
    tensor = tensor_of()
    (coded,) = CompressedModel({"w": tensor}).to_container().tensors
    assert coded.storage == "float8_e5m2"
    assert [len(coded.parts[part]) for part in ("codebook", "scales", "offsets")] == [2, 2, 2]
    exact = CompressedTensor(tensor.symbols, tensor.levels, torch.tensor([0.1, 0.2]))
    (coded,) = CompressedModel({"w": exact}).to_container().tensors
    assert coded.storage == "float32"
    assert [len(coded.parts[part]) for part in ("codebook", "scales")] == [8, 8]
    scales, offsets = decode_channels(coded)
    assert scales.tolist() == exact.scales.tolist()
    assert offsets is None


def test_with_tables_changes_all_tables():
    halves = tensor_of().with_tables(lambda table: table / 2)
    assert halves.dequantize().tolist() == [[0.0, -0.03125, 0.09375], [0.0, -0.75, 0.25]]
    plain = CompressedTensor(torch.tensor([1]), torch.tensor([2.0])).with_tables(torch.neg)
    assert (plain.dequantize().item(), plain.scales, plain.offsets) == (-2.0, None, None)


def weight(name, rows, *, offsets=False, seed=0):
    """A tensor of few levels to a channel."""
    random = np.random.default_rng(seed)
    tables = [random.normal(0, 1, rows).astype("f2").astype("f4") for _ in range(2)]
    return prepare_shared(
        name,
        np.clip(np.rint(random.normal(8, 2.5, (rows, 4, 3, 3))), 0, 15).astype(int),
        levels=np.float32(range(-7, 8)),
        scales=tables[0],
        offsets=tables[1] if offsets else None,
    )


def test_encode_tensors_groups_like_tables_and_keeps_each():
    tensors = [weight("a", 16), weight("b", 16, offsets=True, seed=1), weight("c", 5, seed=2)]
    tensors += [weight("d", 3, offsets=True, seed=3)]
    tensors += [prepare_shared("e", tensors[0].symbols, levels=np.float32(range(-7, 8)))]
    coded = encode_tensors(tensors, coder="rans")
    assert [tensor.member for tensor in coded] == [0, 0, 1, 1, 0]
    assert set(coded[2].parts) == {"codebook", "scales"}
    assert set(coded[3].parts) == {"codebook", "scales", "offsets"}
    data = dumps(Container(tuple(coded)))
    for place, tensor in enumerate(loads(data).tensors):
        assert tensor == coded[place]
        assert decode_tensor(tensor).tobytes() == decode_tensor(tensors[place].encode()).tobytes()
    with Reader(data) as reader:
        alone = reader.tensor("d")
    assert decode_tensor(alone).tobytes() == decode_tensor(tensors[3].encode()).tobytes()
    report = inspect(data)
    assert report.total_bytes == len(data)
    assert {row.name: row.part_bytes["scales"] for row in report.rows[:4]} == {
        "a": 32,
        "b": 32,
        "c": 10,
        "d": 6,
    }
    assert [row.group for row in report.rows] == ["a", "b", "a", "b", None]


def test_inspect_counts_nonzeros_after_scaling():
    symbols = np.array([[0, 1, 2], [0, 1, 2], [1, 1, 2]])
    levels, scales = np.float32([-1, 1]), np.float32([1, 0, 0.5])
    tensor = encode_shared("w", symbols, levels=levels, scales=scales)
    report = inspect(dumps(Container((tensor,))), peers=True)
    assert report.nonzeros == 5
    assert report.part_bytes["scales"] == 3
    offsets = np.float32([1, 2, 0])
    tensor = encode_shared("w", symbols, levels=levels, scales=scales, offsets=offsets)
    report = inspect(dumps(Container((tensor,))))
    assert report.nonzeros == 6  # in the first channel -1 + 1 is one more zero
    assert report.part_bytes["offsets"] == 3


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"offsets": torch.ones(2)}, "no scales"),
        ({"scales": torch.ones(3)}, r"shape \(2, 3\) has one of the scales .* found shape \(3,\)"),
        ({"scales": torch.ones(2), "offsets": torch.ones(2, 1)}, "one of the offsets"),
        ({"scales": torch.ones(2).half()}, "cannot have scales of torch.float16"),
    ],
)
def test_compressed_tensor_refuses_unfit_tables(tables, message):
    with pytest.raises(ModelError, match=message):
        CompressedTensor(torch.tensor(SYMBOLS), torch.ones(2), **tables)


def test_compressed_tensor_refuses_scales_without_channels_or_floats():
    with pytest.raises(ModelError, match="shape"):
        CompressedTensor(torch.tensor(1), torch.ones(1), torch.ones(()))
    with pytest.raises(ModelError, match="int32"):
        CompressedTensor(torch.tensor([1]), torch.ones(1).int(), torch.ones(1).int())


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"offsets": np.float32([1, 1])}, "offsets need scales"),
        ({"scales": np.float32([1])}, "channels"),
        ({"scales": np.float32([1, math.inf])}, "not finite"),
        ({"scales": np.float32([1, 1]), "offsets": np.float32([math.nan, 1])}, "not finite"),
        ({"scales": np.float32([1, 1]), "levels": np.float32([math.nan, 1])}, "not finite"),
        ({"scales": np.ones(2, "i4"), "levels": np.ones(2, "i4"), "dtype": "int32"}, "int32"),
    ],
)
def test_encode_shared_refuses_unfit_tables(tables, message):
    with pytest.raises(ModelError, match=message):
        encode_shared("w", SYMBOLS, **{"levels": np.float32(LEVELS), **tables})


@pytest.mark.parametrize("part", ["codebook", "scales", "offsets"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_decode_refuses_tables_that_are_not_finite(part, bad):
    (coded,) = CompressedModel({"w": tensor_of(torch.float16)}).to_container().tensors
    parts = {**coded.parts, part: np.float16([bad, 1]).tobytes()}
    container = loads(dumps(Container((dataclasses.replace(coded, parts=parts),))))
    with pytest.raises(FormatError, match=f"tensor 'w' has {part} that are NaN or infinite"):
        decode_tensor(container.tensors[0])
    with pytest.raises(FormatError, match="NaN or infinite"):
        CompressedModel.from_container(container)
    with pytest.raises(FormatError, match="NaN or infinite"):
        inspect(dumps(container))
