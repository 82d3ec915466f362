"""Files tensor by tensor, names left to the architecture, and the coders a tensor can have."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from flyweight.coding import (
    decode_shared,
    decode_tensor,
    encode_alias,
    encode_constant,
    encode_lossless,
    encode_shared,
)
from flyweight.coding.header import outline_of
from flyweight.errors import FormatError, ModelError
from flyweight.format import (
    Container,
    Reader,
    Writer,
    dumps,
    loads,
    open_writer,
    overhead,
)
from flyweight.format.layout import crc, pack_head

CODERS = ("huffman", "rans", "context")


def shared(name="w", shape=(16, 3, 3, 3), density=0.3, seed=0, **settings):
    rng = np.random.default_rng(seed)
    levels = np.float32([-0.5, -0.25, 0.25, 0.5])
    symbols = rng.integers(1, 5, shape) * (rng.random(shape) < density)
    return encode_shared(name, symbols, levels=levels, **settings)


def tensors():
    large = np.random.default_rng(1).normal(size=(40, 50)).astype("f4")
    first = shared("a.weight", (64, 32, 3, 3))
    return (
        first,
        encode_lossless("a.bias", np.float32([1, 2, 3]), dtype="float32"),
        encode_lossless("large", large, dtype="float32"),
        encode_lossless("none", np.zeros((0, 2), "f4"), dtype="float32"),
        encode_alias("b.weight", first, target=0),
        shared("c.weight", seed=2),
    )


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 5), (16, 3, 3, 3), (9000,)])
def test_encode_shared_restores_symbols_by_every_coder(coder, shape):
    for density in (0.0, 0.1, 1.0):
        tensor = shared(shape=shape, density=density, coder=coder)
        assert tensor.coder == coder
        (got,) = loads(dumps(Container((tensor,)))).tensors
        assert got == tensor
        symbols, levels = decode_shared(got)
        assert symbols.shape == shape
        assert np.array_equal(symbols, decode_shared(shared(shape=shape, density=density))[0])
        assert levels.tolist() == [-0.5, -0.25, 0.25, 0.5]


@pytest.mark.parametrize("effort", ["fast", "balanced", "smallest"])
def test_encode_shared_takes_the_smallest_coder_of_an_effort(effort):
    chosen = shared(shape=(64, 32, 3, 3), effort=effort)
    sizes = {c: shared(shape=(64, 32, 3, 3), coder=c).stored_bytes for c in CODERS}
    tried = {"fast": ("rans",), "balanced": ("rans",)}.get(effort, CODERS)
    assert chosen.stored_bytes == min(sizes[coder] for coder in tried)


def test_context_coder_uses_structure():
    symbols = np.zeros((64, 512), dtype=int)
    symbols[:] = np.random.default_rng(0).integers(1, 5, 512) * (np.arange(512) % 5 < 2)
    levels = np.float32([-0.5, -0.25, 0.25, 0.5])
    sizes = {c: encode_shared("w", symbols, levels=levels, coder=c).stored_bytes for c in CODERS}
    assert sizes["context"] < 0.7 * min(sizes[c] for c in CODERS if c != "context")
    assert encode_shared("w", symbols, levels=levels).coder == "context"


def test_dumps_refuses_a_coder_of_another_encoding():
    tensor = shared()
    for other in ("planes", "raw", ""):
        object.__setattr__(tensor, "coder", other)
        with pytest.raises(ModelError, match="coder"):
            dumps(Container((tensor,)))


def test_open_writer_gives_the_bytes_of_dumps(tmp_path):
    path = tmp_path / "a.fly"
    with open_writer(path, {"k": "v"}) as writer:
        for tensor in tensors():
            writer.add(tensor)
    assert path.read_bytes() == dumps(Container(tensors(), {"k": "v"}))
    assert [p.name for p in tmp_path.iterdir()] == ["a.fly"]


def test_open_writer_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.fly"
    path.write_bytes(b"old")

    def write_twice(times):
        with open_writer(path) as writer:
            for _ in range(times):
                writer.add(tensors()[0])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_twice(1)
    assert path.read_bytes() == b"old"
    with pytest.raises(ModelError, match="two tensors"):
        write_twice(2)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.fly"]


def test_writer_refuses_unfit_aliases():
    writer = Writer(io.BytesIO())
    first = tensors()[0]
    with pytest.raises(ModelError, match="no earlier"):
        writer.add(encode_alias("x", first, target=0))
    writer.add(first)
    writer.add(encode_alias("x", first, target=0))
    for target in (1, 2, -1):
        with pytest.raises(ModelError, match="no earlier"):
            writer.add(encode_alias("y", first, target=target))
    with pytest.raises(ModelError, match="differs"):
        writer.add(encode_alias("y", tensors()[1], target=0))


def test_reader_reads_tensors_in_any_order(tmp_path):
    path = tmp_path / "a.fly"
    path.write_bytes(dumps(Container(tensors(), {"k": "v"})))
    with Reader(path) as reader:
        assert reader.metadata == {"k": "v"}
        assert [o.name for o in reader.outlines] == [t.name for t in tensors()]
        for tensor in reversed(tensors()):
            assert reader.tensor(tensor.name) == tensor
        assert tuple(reader.tensors()) == tensors()
        assert [t.name for t in reader.tensors(["large", "a.bias"])] == ["a.bias", "large"]
        with pytest.raises(FormatError, match="no tensor 'x'"):
            reader.tensor("x")
        reader.verify()
        assert sum(reader.overhead.values()) + sum(t.stored_bytes for t in tensors()) == (
            path.stat().st_size
        )


def test_reader_reads_tensors_beside_damage(tmp_path):
    large = np.random.default_rng(1).normal(size=(400, 50)).astype("f4")
    container = Container((tensors()[0], encode_lossless("large", large, dtype="float32")))
    data = bytearray(dumps(container))
    data[-20] ^= 1
    path = tmp_path / "a.fly"
    path.write_bytes(data)
    with Reader(path) as reader:
        assert reader.tensor("a.weight") == tensors()[0]
        with pytest.raises(FormatError, match=r"a\.fly: tensor 'large' is damaged"):
            reader.tensor("large")
        with pytest.raises(FormatError, match="checksum at its end"):
            reader.verify()


def shapes():
    return {tensor.name: tensor.shape for tensor in tensors()}


def test_dumps_bare_leaves_out_names_and_shapes():
    container = Container(tensors(), {"architecture": "mine"})
    data, told = dumps(container, bare=True), dumps(container)
    assert loads(data, shapes=shapes()) == container
    assert len(data) < len(told)
    assert b"weight" not in data
    assert sum(overhead(data).values()) < sum(overhead(told).values())
    with pytest.raises(FormatError, match="leaves names and shapes"):
        loads(data)


@pytest.mark.parametrize(
    "other",
    [
        {},
        {**shapes(), "more": (1,)},
        {**shapes(), "a.bias": (4,)},
        {("x" if n == "large" else n): s for n, s in shapes().items()},
        dict(reversed(shapes().items())),
    ],
)
def test_loads_refuses_another_architecture(other):
    data = dumps(Container(tensors(), {"architecture": "mine"}), bare=True)
    with pytest.raises(FormatError, match="another architecture"):
        loads(data, shapes=other)


def test_encode_lossless_takes_planes_where_smaller():
    weights = (np.random.default_rng(0).normal(size=4000) * 0.02).astype("f4")
    tensor = encode_lossless("w", weights, dtype="float32")
    assert tensor.coder == "planes"
    assert tensor.stored_bytes < 0.88 * weights.nbytes
    (got,) = loads(dumps(Container((tensor,)))).tensors
    assert np.array_equal(decode_tensor(got), weights)
    noise = np.random.default_rng(0).integers(0, 256, 4000).astype("u1")
    assert encode_lossless("n", noise, dtype="uint8").coder == "raw"


def test_loads_refuses_an_alias_of_another_shape():
    zeros = outline_of(encode_constant("a", (2,), value=np.float32(0), dtype="float32"))
    alias = replace(zeros, name="b", shape=(3,), encoding="alias", lengths={}, target=0)
    head = pack_head([zeros, alias], {}, [], bare=True)
    with pytest.raises(FormatError, match="differs in shape from what it aliases"):
        loads(head + crc(head), shapes={"a": (2,), "b": (3,)})
