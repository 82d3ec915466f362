"""Groups: small tensors that are encoded as one."""

from dataclasses import replace

import numpy as np
import pytest

from flyweight.coding import (
    decode_tensor,
    encode_alias,
    encode_constant,
    encode_tensors,
    forms,
    prepare_lossless,
    prepare_shared,
)
from flyweight.coding import tensors as tensors_module
from flyweight.coding.header import outline_of
from flyweight.errors import FormatError, ModelError
from flyweight.format import Container, Reader, Writer, dumps, loads
from flyweight.format.layout import crc, pack_head

CODERS = ("huffman", "rans", "context")


def weight(name, rows=16, rest=(4, 3, 3), levels=7, seed=0):
    """Few values, about half of them below zero."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=levels)).astype("f4")
    symbols = rng.integers(0, levels + 1, (rows, *rest)) * (rng.random((rows, *rest)) < 0.5)
    return prepare_shared(name, symbols, levels=values)


def bias(name, rows=40, seed=0):
    values = np.random.default_rng(seed).normal(size=rows).astype("f2")
    return prepare_lossless(name, values.astype("f4"), dtype="float32")


def ones(name, shape=(8,), value=1):
    return prepare_lossless(name, np.full(shape, value, "f4"), dtype="float32")


def alone(tensor):
    """Encode a tensor by itself."""
    return tensor.encode() if hasattr(tensor, "encode") else tensor


def through_a_file(tensors):
    """Return what is read of encoded tensors; their values must be those of single ones."""
    coded = encode_tensors(tensors)
    got = loads(dumps(Container(tuple(coded)))).tensors
    assert got == tuple(coded)
    for before, after in zip(map(alone, tensors), got, strict=True):
        if before.target is None:
            assert decode_tensor(after).tobytes() == decode_tensor(before).tobytes()
            assert decode_tensor(after).shape == before.shape
    return got


@pytest.mark.parametrize("coder", CODERS)
def test_encode_tensors_groups_with_every_coder(coder):
    tensors = [weight("a", levels=3), weight("b", 5, levels=9, seed=1), weight("c", 1, seed=2)]
    coded = encode_tensors(tensors, coder=coder)
    assert [tensor.member for tensor in coded] == [0, 1, 2]
    assert {tensor.coder for tensor in coded} == {coder}
    assert [set(tensor.parts) for tensor in coded[1:]] == [{"codebook"}] * 2
    for before, tensor in zip(tensors, loads(dumps(Container(tuple(coded)))).tensors, strict=True):
        assert np.array_equal(decode_tensor(tensor), decode_tensor(before.encode()))


def test_encode_tensors_is_smaller_with_groups_and_keeps_values():
    tensors = []
    for layer in range(8):
        tensors += [weight(f"{layer}.weight", seed=layer), bias(f"{layer}.bias", seed=layer)]
        tensors += [ones(f"{layer}.scale"), ones(f"{layer}.mean", value=0)]
    got = through_a_file(tensors)
    single = tuple(tensor.encode() for tensor in tensors)
    assert len(dumps(Container(got))) < 0.95 * len(dumps(Container(single)))
    kinds = ("weight", "bias", "scale", "mean")
    members = {kind: [t.member for t in got if t.name.endswith(kind)] for kind in kinds}
    assert members == {kind: [*range(8)] for kind in kinds[:3]} | {"mean": [0] * 8}


def test_encode_tensors_keeps_tensors_apart_where_a_group_is_larger():
    rng = np.random.default_rng(0)
    few = prepare_shared("few", np.tile([1, 2], (200, 5)), levels=np.float32([-1, 1]))
    many = prepare_shared(
        "many", rng.integers(0, 900, (200, 10)), levels=np.arange(1, 900, dtype="f4")
    )
    coded = encode_tensors([few, many])
    assert coded == [few.encode(), many.encode()]


def test_encode_tensors_decodes_nothing(monkeypatch):
    def fail(*_args, **_kwargs):
        raise AssertionError("a tensor that was just encoded is decoded")

    for module in (forms, tensors_module):
        for name in ("unpack_symbols", "decode_planes"):
            monkeypatch.setattr(module, name, fail)
    tensors = [weight(str(n), seed=n) for n in range(4)] + [bias("a"), bias("b", seed=1)]
    assert [tensor.member for tensor in encode_tensors(tensors)] == [0, 1, 2, 3, 0, 1]


def test_group_ends_at_large_empty_and_scalar_tensors_and_other_constants():
    large = weight("large", 2000)
    assert large.size > 1 << 16
    empty = prepare_shared("empty", np.zeros((0, 4, 3, 3), dtype=int), levels=np.float32([]))
    got = through_a_file(
        [
            weight("a"),
            weight("b", seed=1),
            large,
            weight("c", seed=2),
            weight("d", seed=3),
            empty,
            ones("e"),
            ones("f", (3,)),
            ones("g", value=2),
            ones("h", value=2),
            ones("i", ()),
            encode_alias("j", weight("b", seed=1), target=1),
        ]
    )
    places = {tensor.name: tensor.member for tensor in got}
    assert places == dict.fromkeys("aceg", 0) | dict.fromkeys("bdfh", 1) | {
        "large": 0,
        "empty": 0,
        "i": 0,
        "j": 0,
    }
    assert got[2].group is None


def test_group_holds_at_most_a_million_elements():
    tensors = [weight(str(n), 1800, seed=n % 3) for n in range(18)]
    members = [tensor.member for tensor in encode_tensors(tensors, coder="rans")]
    assert members == [*range(16), 0, 1]
    assert sum(tensor.size for tensor in tensors[:17]) > 1 << 20


def test_reader_reads_one_tensor_of_a_group(tmp_path):
    tensors = [weight(str(n), seed=n) for n in range(4)]
    path = tmp_path / "a.fly"
    path.write_bytes(dumps(Container(tuple(encode_tensors(tensors, coder="context")))))
    with Reader(path) as reader:
        assert np.array_equal(decode_tensor(reader.tensor("2")), decode_tensor(tensors[2].encode()))


def test_loads_reads_bare_files_and_aliases_of_groups():
    tensors = encode_tensors([weight("a"), weight("b", seed=1)], coder="rans")
    tensors.append(encode_alias("c", tensors[1], target=1))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    data = dumps(Container(tuple(tensors)), bare=True)
    assert loads(data, shapes).tensors == tuple(tensors)


def interleaved_groups(count, members, rows=2, columns=16):
    """Return the tensors of several groups, which take turns in the file."""
    groups = []
    for number in range(count):
        names = [f"{number}.{member}" for member in range(members)]
        tensors = [weight(name, rows, (columns + number,), seed=number) for name in names]
        groups.append(encode_tensors(tensors, coder="rans"))
    return [group[member] for member in range(members) for group in groups]


def test_reader_decodes_each_interleaved_group_once(monkeypatch):
    tensors = interleaved_groups(20, 6)
    data = dumps(Container(tuple(tensors)))
    decoded = []
    unpack = forms.unpack_symbols
    monkeypatch.setattr(
        forms, "unpack_symbols", lambda *args: decoded.append(args[2]) or unpack(*args)
    )
    got = loads(data).tensors
    assert len({id(tensor.group) for tensor in got}) == 20
    for tensor, before in zip(got, tensors, strict=True):
        assert decode_tensor(tensor).tobytes() == decode_tensor(before).tobytes()
    assert len(decoded) == 2 * 20  # of those read, and of those written
    decoded.clear()
    with Reader(data) as reader:
        for tensor in reader.tensors():
            decode_tensor(tensor)
        assert not reader._groups
    assert len(decoded) == 20


def test_group_members_are_views_of_the_decoded_group():
    tensors = encode_tensors([weight("a"), weight("b", seed=1)], coder="rans")
    first, second = (tensor.group.symbols(tensor.member) for tensor in tensors)
    assert first.base is not None
    assert first.base is second.base


def test_writer_refuses_incomplete_groups():
    a, b, c = encode_tensors([weight(name, seed=n) for n, name in enumerate("abc")], coder="rans")
    other = encode_tensors([weight("x", seed=7), weight("y", seed=8)], coder="rans")
    single = weight("z", seed=9).encode()
    for wrong in [(b, a, c), (a, c, b), (a, b), (a, other[1]), (a, other[0]), (a, b, a)]:
        with pytest.raises(ModelError):
            dumps(Container(wrong))
    with pytest.raises(ModelError, match="stands between"):
        dumps(Container((a, replace(single, coder="rans"), b, c)))
    with pytest.raises(ModelError, match="unlike"):
        Writer(None).add(replace(a, shape=(15, 4, 3, 3)))
    with pytest.raises(ModelError, match="belongs to no group"):
        Writer(None).add(replace(b, group=None))


def sealed(outlines):
    """Return a file of tensors without a byte, of which the header states what it likes."""
    head = pack_head(outlines, {}, [])
    return head + crc(head)


def test_loads_refuses_unsound_groups():
    zeros = outline_of(encode_constant("a", (8,), value=np.float32(0), dtype="float32"))
    one = replace(zeros, lengths={}, first=0)
    with pytest.raises(FormatError, match="'a' belongs to no group"):
        loads(sealed([one]))
    with pytest.raises(FormatError, match="'b' belongs to no group"):
        loads(sealed([zeros, replace(one, name="b")]))
    with pytest.raises(FormatError, match="encoding 17, which is unknown"):
        loads(sealed([replace(one, encoding="dense")]))
    planes = replace(zeros, encoding="dense", coder="planes", lengths={"dense": 0})
    follower = replace(planes, name="b", lengths={}, first=0)
    for shape in [(0,), (8, 1), ()]:
        with pytest.raises(FormatError, match="'b' belongs to no group"):
            loads(sealed([planes, replace(follower, shape=shape)]))
    with pytest.raises(FormatError, match="'b' makes its group too large"):
        loads(sealed([planes, replace(follower, shape=(1 << 20,))]))


def test_decode_tensor_names_a_damaged_tensor_of_a_group():
    tensors = encode_tensors([weight("a"), weight("b", seed=1)], coder="context")
    group = replace(tensors[1].group, parts={**tensors[1].group.parts, "tables": b"\x01"})
    with pytest.raises(FormatError, match="'b' is damaged"):
        decode_tensor(replace(tensors[1], group=group))
    group = replace(tensors[1].group, parts={**tensors[1].group.parts, "tables": b"\x01\x70"})
    with pytest.raises(FormatError, match="'b' is damaged: a group has wrong numbers"):
        decode_tensor(replace(tensors[1], group=group))
    few = replace(tensors[0].group, levels=(7, 7), parts={**group.parts, "tables": b"\0\0"})
    with pytest.raises(FormatError, match="'a' is damaged"):
        decode_tensor(replace(tensors[0], group=few))


def test_encode_tensors_encodes_alike_tensors_of_repeated_values_as_symbols():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=8).astype("f4")[rng.integers(0, 8, (64, 64))] for _ in range(2)]
    tensors = [prepare_lossless(str(n), v, dtype="float32") for n, v in enumerate(values)]
    coded = encode_tensors(tensors)
    assert [tensor.encoding for tensor in coded] == ["shared", "shared"]
    for tensor, value in zip(through_a_file(coded), values, strict=True):
        assert np.array_equal(decode_tensor(tensor), value)
