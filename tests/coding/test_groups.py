"""Small tensors that are coded as one."""

from dataclasses import replace

import numpy as np
import pytest

from flyweight.coding import (
    encode_alias,
    encode_constant,
    encode_lossless,
    encode_shared,
    decode_tensor,
    join,
)
from flyweight.coding.header.outline import outline_of
from flyweight.format import (
    Container,
    Reader,
    Writer,
    dumps,
    loads,
)
from flyweight.format.layout import crc, pack_head
from flyweight.errors import FormatError, ModelError
from flyweight.size_report import inspect

CODERS = ("plain", "interleaved", "rans", "context")


def weight(name, rows=16, rest=(4, 3, 3), levels=7, seed=0):
    """Few values, about half of them below zero."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(size=levels)).astype("f4")
    symbols = rng.integers(0, levels + 1, (rows, *rest)) * (rng.random((rows, *rest)) < 0.5)
    return encode_shared(name, symbols, levels=values)


def bias(name, rows=40, seed=0):
    values = np.random.default_rng(seed).normal(size=rows).astype("f2")
    return encode_lossless(name, values.astype("f4"), dtype="float32")


def ones(name, shape=(8,), value=1):
    return encode_constant(name, shape, value=np.float32(value), dtype="float32")


def through_a_file(tensors):
    """Return what comes back of joined tensors; their values must be those of the others."""
    joined = join(tensors)
    got = loads(dumps(Container(tuple(joined)))).tensors
    assert got == tuple(joined)
    for before, after in zip(tensors, got, strict=True):
        if before.target is None:
            assert decode_tensor(after).tobytes() == decode_tensor(before).tobytes()
            assert decode_tensor(after).shape == before.shape
    return got


@pytest.mark.parametrize("coder", CODERS)
def test_every_coder_takes_tensors_together(coder):
    tensors = [weight("a", levels=3), weight("b", 5, levels=9, seed=1), weight("c", 1, seed=2)]
    joined = join(tensors, coder=coder)
    assert [tensor.member for tensor in joined] == [0, 1, 2]
    assert {tensor.coder for tensor in joined} == {coder}
    assert [set(tensor.parts) for tensor in joined[1:]] == [{"codebook"}] * 2
    for tensor in loads(dumps(Container(tuple(joined)))).tensors:
        before = next(other for other in tensors if other.name == tensor.name)
        assert np.array_equal(decode_tensor(tensor), decode_tensor(before))


def test_the_file_is_smaller_and_every_value_the_same():
    tensors = []
    for layer in range(8):
        tensors += [weight(f"{layer}.weight", seed=layer), bias(f"{layer}.bias", seed=layer)]
        tensors += [ones(f"{layer}.scale"), ones(f"{layer}.mean", value=0)]
    got = through_a_file(tensors)
    assert len(dumps(Container(got))) < 0.95 * len(dumps(Container(tuple(tensors))))
    kinds = ("weight", "bias", "scale", "mean")
    members = {kind: [t.member for t in got if t.name.endswith(kind)] for kind in kinds}
    assert members == {kind: [*range(8)] for kind in kinds[:3]} | {"mean": [0] * 8}


def test_what_is_not_smaller_stays_apart():
    rng = np.random.default_rng(0)
    few = encode_shared("few", np.tile([1, 2], (200, 5)), levels=np.float32([-1, 1]))
    many = encode_shared(
        "many", rng.integers(0, 900, (200, 10)), levels=np.arange(1, 900, dtype="f4")
    )
    assert all(tensor.joint is None for tensor in join([few, many]))


def test_large_empty_and_scalar_tensors_and_other_constants_end_a_set():
    large = weight("large", 2000)
    assert large.size > 1 << 16
    empty = encode_shared("empty", np.zeros((0, 4, 3, 3), dtype=int), levels=np.float32([]))
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
    assert got[2].joint is None


def test_no_more_than_a_million_elements_are_joined():
    tensors = [weight(str(n), 1800, seed=n % 3) for n in range(18)]
    members = [tensor.member for tensor in join(tensors, coder="rans")]
    assert members == [*range(16), 0, 1]
    assert sum(tensor.size for tensor in tensors[:17]) > 1 << 20


def test_one_of_them_is_read_without_the_others(tmp_path):
    tensors = [weight(str(n), seed=n) for n in range(4)]
    path = tmp_path / "a.fly"
    path.write_bytes(dumps(Container(tuple(join(tensors, coder="context")))))
    with Reader(path) as reader:
        assert np.array_equal(decode_tensor(reader.tensor("2")), decode_tensor(tensors[2]))


def test_bare_files_and_aliases_of_joined_tensors():
    tensors = join([weight("a"), weight("b", seed=1)], coder="rans")
    tensors.append(encode_alias("c", tensors[1], target=1))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    data = dumps(Container(tuple(tensors)), bare=True)
    assert loads(data, skeleton=lambda metadata: shapes).tensors == tuple(tensors)


def test_a_writer_refuses_sets_that_are_torn():
    a, b, c = join([weight(name, seed=n) for n, name in enumerate("abc")], coder="rans")
    other = join([weight("x", seed=7), weight("y", seed=8)], coder="rans")
    single = weight("z", seed=9)
    for wrong in [(b, a, c), (a, c, b), (a, b), (a, other[1]), (a, other[0]), (a, b, a)]:
        with pytest.raises(ModelError):
            dumps(Container(wrong))
    with pytest.raises(ModelError, match="stands between"):
        dumps(Container((a, replace(single, coder="rans"), b, c)))
    with pytest.raises(ModelError, match="unlike"):
        Writer(None).add(replace(a, shape=(15, 4, 3, 3)))
    with pytest.raises(ModelError, match="joined to nothing"):
        Writer(None).add(replace(b, joint=None))


def sealed(outlines):
    """Return a file of tensors without a byte, of which the header says what it likes."""
    head = pack_head(outlines, {}, [])
    return head + crc(head)


def test_a_header_that_joins_wrongly_is_refused():
    zeros = outline_of(ones("a", value=0))
    one = replace(zeros, lengths={}, head=0)
    with pytest.raises(FormatError, match="'a' joins no earlier tensor"):
        loads(sealed([one]))
    with pytest.raises(FormatError, match="'b' joins no earlier tensor"):
        loads(sealed([zeros, replace(one, name="b")]))
    with pytest.raises(FormatError, match="encoding 17, which is unknown"):
        loads(sealed([replace(one, encoding="dense")]))
    planes = replace(zeros, encoding="dense", coder="planes", lengths={"dense": 0})
    follower = replace(planes, name="b", lengths={}, head=0)
    for shape in [(0,), (8, 1), ()]:
        with pytest.raises(FormatError, match="'b' joins no earlier tensor"):
            loads(sealed([planes, replace(follower, shape=shape)]))
    with pytest.raises(FormatError, match="'b' joins too many others"):
        loads(sealed([planes, replace(follower, shape=(1 << 20,))]))


def test_damage_in_a_joint_names_the_tensor():
    tensors = join([weight("a"), weight("b", seed=1)], coder="context")
    joint = replace(tensors[1].joint, parts={**tensors[1].joint.parts, "tables": b"\x01"})
    with pytest.raises(FormatError, match="'b' is damaged"):
        decode_tensor(replace(tensors[1], joint=joint))
    joint = replace(tensors[1].joint, parts={**tensors[1].joint.parts, "tables": b"\x01\x70"})
    with pytest.raises(FormatError, match="'b' is damaged: joined tensors have wrong numbers"):
        decode_tensor(replace(tensors[1], joint=joint))
    few = replace(tensors[0].joint, levels=(7, 7), parts={**joint.parts, "tables": b"\0\0"})
    with pytest.raises(FormatError, match="'a' is damaged"):
        decode_tensor(replace(tensors[0], joint=few))


def test_the_ledger_puts_bytes_and_bounds_into_one_row():
    tensors = [weight(name, seed=n) for n, name in enumerate("ab")]
    container = Container(tuple(join(tensors, coder="rans")))
    first, second = inspect(container).rows
    assert (first.joined_to, second.joined_to) == (None, "a")
    assert first.joined == second.parameters == tensors[1].size
    assert second.total_bytes == second.total_bound_bytes == len(tensors[1].parts["codebook"])
    alone = inspect(Container(tuple(tensors))).rows
    both = sum(row.bound_bytes["symbols"] for row in alone)
    assert first.bound_bytes["symbols"] == pytest.approx(both)
    assert first.bits_per_weight == 8 * first.total_bytes / (2 * first.parameters)
    assert inspect(container).total_bytes == len(dumps(container))
