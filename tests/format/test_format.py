from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from flyweight.coding import (
    CodedTensor,
    decode_dense,
    decode_shared,
    decode_tensor,
    encode_alias,
    encode_constant,
    encode_dense,
    encode_lossless,
    encode_shared,
)
from flyweight.coding.header import open_header, outline_of, pack_header
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.format import (
    Container,
    dumps,
    loads,
    overhead,
    read,
    write,
)


def shared(name="w", shape=(16, 3, 3, 3), density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    levels = np.float32([-0.5, -0.25, 0.25, 0.5])
    symbols = rng.integers(1, 5, shape) * (rng.random(shape) < density)
    return encode_shared(name, symbols, levels=levels)


def resnet_like(blocks=9):
    tensors = []
    for block in range(blocks):
        for number in (1, 2):
            prefix = f"layer{block // 3 + 1}.{block % 3}"
            tensors.append(shared(f"{prefix}.conv{number}.weight", (16, 16, 3, 3), seed=block))
            for part in ("weight", "bias", "running_mean", "running_var"):
                values = np.arange(16, dtype="f4") + block
                tensors.append(encode_dense(f"{prefix}.bn{number}.{part}", values, dtype="float32"))
            name = f"{prefix}.bn{number}.num_batches_tracked"
            tensors.append(encode_constant(name, (), value=np.int64(31_200), dtype="int64"))
    return Container(tensors=tuple(tensors), metadata={"architecture": "resnet20"})


def test_loads_restores_an_empty_container():
    data = dumps(Container(tensors=()))
    assert loads(data) == Container(tensors=(), metadata={})
    assert len(data) == 4 + 2 + 2 + 2 + 4 + 4


def test_decode_shared_gives_values_by_hand():
    levels = np.float32([-1.5, 2.0])
    tensor = encode_shared("w", [[0, 2, 0], [1, 0, 2]], levels=levels)
    symbols, got = decode_shared(tensor)
    assert symbols.dtype == np.uint8
    assert symbols.tolist() == [[0, 2, 0], [1, 0, 2]]
    assert got.tolist() == [-1.5, 2.0]
    assert tensor.storage == "float8_e5m2"
    assert decode_tensor(tensor).tolist() == [[0, 2, 0], [-1.5, 0, 2]]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1), (5, 7)])
@pytest.mark.parametrize("symbol", [0, 1, 2])
def test_encode_shared_takes_any_shape(shape, symbol):
    symbols = np.full(shape, symbol)
    tensor = encode_shared("w", symbols, levels=np.float32([1, 2]))
    got, _ = decode_shared(loads(dumps(Container(tensors=(tensor,)))).tensors[0])
    assert got.shape == shape
    assert np.array_equal(got, symbols)


def test_encode_shared_of_zeros_needs_no_levels():
    tensor = encode_shared("w", np.zeros((4, 4), dtype=int), levels=np.zeros(0, dtype="f4"))
    symbols, levels = decode_shared(tensor)
    assert not symbols.any()
    assert levels.size == 0
    assert tensor.stored_bytes <= 2


def test_encode_shared_keeps_a_level_of_zero():
    tensor = encode_shared("w", [0, 1, 2, 1], levels=np.float32([0.0, 3.0]))
    assert decode_shared(tensor)[0].tolist() == [0, 1, 2, 1]


def test_encode_shared_takes_the_widest_codebook():
    symbols = np.arange(65_536)
    levels = np.arange(65_535).astype("f4")
    got, got_levels = decode_shared(encode_shared("w", symbols, levels=levels))
    assert np.array_equal(got, symbols)
    assert np.array_equal(got_levels, levels)


def test_encode_takes_non_contiguous_arrays():
    symbols = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1) % 3
    assert np.array_equal(
        decode_shared(encode_shared("w", symbols, levels=[1.0, 2.0], dtype="float64"))[0], symbols
    )
    values = np.arange(24, dtype="f4").reshape(4, 6)[::2, ::-3]
    assert np.array_equal(decode_dense(encode_dense("w", values, dtype="float32")), values)


def test_pack_scalars_takes_the_narrowest_exact_storage():
    def storage(values, dtype):
        return encode_dense("t", values, dtype=dtype).storage

    assert storage(np.float32([1.75, -0.0, 57344, 2**-16]), "float32") == "float8_e5m2"
    assert storage(np.float32([1.875, -448, 2**-9]), "float32") == "float8_e4m3fn"
    assert storage(np.float32([1.9375, -0.0]), "float32") == "float16"
    assert storage(np.float32([np.inf, 1]), "float32") == "float16"
    assert storage(np.float32([1e30]), "float32") == "float32"
    assert storage(np.float32([2.0**100]), "float32") == "bfloat16"
    assert storage(np.float32([0.1]), "float32") == "float32"
    assert storage(np.float64([0.1]), "float64") == "float64"
    assert storage(np.int64([-1, 127]), "int64") == "int8"
    assert storage(np.int64([0, 70_000]), "int64") == "uint32"
    assert storage(np.int64([-(2**40)]), "int64") == "int64"
    assert storage(np.array([True, False]), "bool") == "bool"


def test_encode_dense_stores_little_endian():
    values = np.array([1, 258], dtype=">i2")
    tensor = encode_dense("t", values, dtype="int16", storage="int16")
    assert tensor.parts["dense"] == b"\1\0\2\1"
    assert decode_dense(tensor).tolist() == [1, 258]


def test_encode_lossless_restores_nan_payloads_and_signs_of_zero():
    bits = np.uint32([0x7FA00001, 0xFFC00000, 0x80000000, 1])
    decoded = decode_dense(encode_dense("t", bits.view("f4"), dtype="float32"))
    assert decoded.view("u4").tolist() == bits.tolist()


def test_pack_scalars_refuses_storage_that_loses_bits():
    with pytest.raises(ModelError, match="not exact in float16"):
        encode_dense("t", np.float32([0.1]), dtype="float32", storage="float16")
    with pytest.raises(ModelError, match="cannot be stored as"):
        encode_dense("t", np.float32([1]), dtype="float32", storage="int8")
    with pytest.raises(ModelError, match="dtype 'float31'"):
        encode_dense("t", np.float32([1]), dtype="float31")
    with pytest.raises(ModelError, match="must come as uint16"):
        encode_dense("t", np.float32([1]), dtype="bfloat16")


def test_encode_constant_stores_one_value():
    zero = encode_constant("t", (3, 2), value=np.float32(0), dtype="float32")
    assert zero.stored_bytes == 0
    assert decode_dense(zero).tolist() == [[0, 0]] * 3
    minus = encode_constant("t", (2,), value=np.float32(-0.0), dtype="float32")
    assert np.signbit(decode_dense(minus)).all()
    scalar = decode_dense(encode_constant("t", (), value=np.int64(31_200), dtype="int64"))
    assert (scalar.shape, scalar.dtype, int(scalar)) == ((), np.dtype("int64"), 31_200)
    assert encode_lossless("t", np.ones(9, dtype="f4"), dtype="float32").encoding == "constant"
    assert encode_lossless("t", np.float32([0.0, -0.0]), dtype="float32").encoding == "dense"
    assert encode_lossless("t", np.zeros((0, 2), dtype="f4"), dtype="float32").encoding == "dense"
    with pytest.raises(ModelError, match="one value"):
        encode_constant("t", (2,), value=np.float32([1, 2]), dtype="float32")


def test_decode_tensor_returns_writable_arrays():
    for tensor in (
        encode_dense("t", np.float32([1, 2]), dtype="float32"),
        encode_constant("t", (2,), value=np.float32(1), dtype="float32"),
        shared(),
    ):
        assert decode_tensor(tensor).flags.writeable


def test_dumps_stores_aliases_in_the_header():
    weight = shared("embedding.weight")
    alias = encode_alias("head.weight", weight, target=0)
    alone = dumps(Container(tensors=(weight,)))
    both = dumps(Container(tensors=(weight, alias)))
    assert len(both) - len(alone) < 30
    assert loads(both).tensors == (weight, alias)


@pytest.mark.parametrize(
    ("symbols", "levels"),
    [([0.5], [1.0]), ([2], [1.0]), ([-1], [1.0]), ([0], [[1.0]]), ([0], np.zeros(65_536))],
)
def test_encode_shared_refuses_impossible_tensors(symbols, levels):
    with pytest.raises(ModelError, match="tensor 'w'"):
        encode_shared("w", symbols, levels=levels, dtype="float64")


def replaced(**changes):
    return dataclasses.replace(shared("w"), **changes)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (replaced(name="x" * 1025), "1025 bytes"),
        (replaced(name="\ud800"), "Unicode"),
        (replaced(shape=(1,) * 33), "33 dimensions"),
        (replaced(shape=(-1,)), "negative"),
        (replaced(shape=(1 << 21, 1 << 21)), r"2\*\*40"),
        (replaced(encoding="zip"), "unknown encoding"),
        (replaced(storage="int8"), "cannot be stored"),
        (replaced(dtype="float31"), "cannot be stored"),
        (replaced(parts={}), "parts"),
        (replaced(levels=3), "codebook"),
        (replaced(levels=1 << 16), "65536 levels"),
        (replaced(target=0), "target"),
        (replaced(coder="planes"), "coder"),
        (replaced(encoding="dense", parts={"dense": b""}, levels=0, coder="raw"), "432 values"),
        (
            replaced(encoding="constant", parts={"dense": b"xy"}, levels=0, coder="raw"),
            "one value",
        ),
    ],
)
def test_dumps_refuses_malformed_tensors(tensor, message):
    with pytest.raises(ModelError, match=message):
        dumps(Container(tensors=(tensor,)))
    if tensor.encoding == "shared":
        with pytest.raises(FormatError, match=message):
            decode_shared(tensor)


def test_dumps_refuses_malformed_containers():
    weight = shared("w")
    for tensors, message in [
        ((weight, weight), "two tensors"),
        ((encode_alias("a", weight, target=0),), "no earlier"),
        ((weight, encode_alias("a", weight, target=1)), "no earlier"),
        (
            (weight, encode_alias("a", weight, target=0), encode_alias("b", weight, target=1)),
            "earlier",
        ),
        ((weight, encode_alias("a", shared("w", (3,)), target=0)), "differs"),
        ((encode_constant("c", (1 << 25,), value=np.float32(0), dtype="float32"),), "bytes in all"),
    ]:
        with pytest.raises(ModelError, match=message):
            dumps(Container(tensors=tensors))
    with pytest.raises(ModelError, match="Unicode"):
        dumps(Container(tensors=(), metadata={"a": "\udfff"}))
    with pytest.raises(ModelError, match="not dense or constant"):
        decode_dense(weight)


def test_dumps_gives_a_resnet_a_small_header():
    container = resnet_like()
    data = dumps(container)
    assert len(container.tensors) == 108
    assert overhead(data)["header"] < 700
    assert len(data) == sum(t.stored_bytes for t in container.tensors) + sum(
        overhead(data).values()
    )
    assert loads(data) == container


@pytest.mark.parametrize("name", ["", ".", "..", "a.", ".a", "a..b", "é.ß", "a.b.c.d.e"])
def test_loads_restores_names_of_any_form(name):
    tensors = tuple(shared(text) for text in (name, name + ".x", "y." + name, name + "z"))
    assert loads(dumps(Container(tensors=tensors))).tensors == tensors


def test_dumps_ignores_the_order_of_metadata():
    one = Container(tensors=(shared(),), metadata={"a": "1", "b": "2"})
    two = Container(tensors=(shared(),), metadata={"b": "2", "a": "1"})
    assert dumps(one) == dumps(two)
    assert list(loads(dumps(two)).metadata) == ["a", "b"]


def test_dumps_gives_the_smallest_file_by_hand():
    tensor = encode_constant("b", (3,), value=np.float32(0.5), dtype="float32")
    header = b"\0\1" + b"\0\1\0\1b" + b"\0\2\x0b\x0e" + b"\0\1\3"
    payload = b"\x38"
    head = (
        b"FLYW\1\0" + bytes([len(header), 1]) + header + zlib.crc32(payload).to_bytes(4, "little")
    )
    body = head + zlib.crc32(head).to_bytes(4, "little") + payload
    expected = body + zlib.crc32(body).to_bytes(4, "little")
    assert dumps(Container(tensors=(tensor,))) == expected


def test_loads_names_damage():
    large = np.arange(1 << 15, dtype=np.float32) / 3
    one = encode_dense("large.one", large, dtype="float32")
    tensors = (shared("small", (4, 4)), shared("other", (4, 4)), one)
    data = dumps(Container(tensors=tensors))
    start = len(data) - 4 - one.stored_bytes

    def flipped(place):
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    for wrong, message in [
        (b"", "FLYW"),
        (b"PK\3\4" + data, "FLYW"),
        (data[:4] + b"\2" + data[5:], "version 2"),
        (data[:5] + b"\x80" + data[6:], "flags"),
        (data[:9], "cut short"),
        (data[:-1], "cut short"),
        (data + b"\0", "followed by other bytes"),
        (flipped(20), "header"),
        (flipped(start - 1), "a block of tensors"),
        (flipped(start + 9), "'large.one' is damaged"),
        (flipped(len(data) - 1), "checksum at its end"),
    ]:
        with pytest.raises(FormatError, match=message):
            loads(wrong)


def test_decode_names_the_damaged_tensor():
    tensor = shared("conv.weight")
    parts = dict(tensor.parts) | {"symbols": b""}
    with pytest.raises(FormatError, match=r"'conv.weight' is damaged"):
        decode_shared(dataclasses.replace(tensor, parts=parts))
    bad = CodedTensor(
        name="m", shape=(1,), dtype="bool", encoding="dense", storage="bool", parts={"dense": b"\2"}
    )
    with pytest.raises(FormatError, match="'m' is damaged"):
        decode_dense(bad)


def zeros(names):
    return tuple(encode_constant(n, (), value=np.uint8(0), dtype="uint8") for n in names)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (Container(zeros(map(str, range(5000)))), "there are 5000 tensors, and a file of"),
        (Container((), {str(n): "" for n in range(5000)}), "there are 5000 strings of metadata"),
        (Container(zeros(f"{'n' * 1000}.{n}" for n in range(200))), "names of the tensors have"),
    ],
    ids=["tensors", "strings", "names"],
)
def test_dumps_refuses_what_so_short_a_file_may_not_state(container, message):
    with pytest.raises(ModelError, match=message):
        dumps(container)


def test_dumps_holds_thousands_of_small_tensors():
    values = np.random.default_rng(0).standard_normal((5000, 64), dtype=np.float32)
    names = [f"blocks.{n}.bias" for n in range(5000)]
    tensors = [encode_lossless(n, v, dtype="float32") for n, v in zip(names, values, strict=True)]
    assert len(loads(dumps(Container(tuple(tensors)))).tensors) == 5000


def test_open_header_restores_lengths_of_parts():
    tensor = shared()
    header = open_header(pack_header([outline_of(tensor)], {"k": "v"}))
    assert header.metadata == {"k": "v"}
    (outline,) = header.outlines()
    assert outline.lengths == {kind: len(part) for kind, part in tensor.parts.items()}
    assert outline.stored_bytes == tensor.stored_bytes


def test_write_and_read(tmp_path):
    container = Container(tensors=(shared(),), metadata={"k": "v"})
    path = tmp_path / "model.fly"
    assert write(container, path) == path.stat().st_size == len(dumps(container))
    assert read(str(path)) == container
    write(Container(tensors=()), path)
    assert read(path).tensors == ()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.fly"]


def test_write_follows_a_link(tmp_path):
    (tmp_path / "link.fly").symlink_to(tmp_path / "model.fly")
    write(Container(tensors=()), tmp_path / "link.fly")
    assert (tmp_path / "link.fly").is_symlink()
    assert read(tmp_path / "model.fly").tensors == ()


def test_write_of_a_refused_container_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.fly"
    path.write_bytes(b"precious")
    with pytest.raises(ModelError, match="two tensors"):
        write(Container(tensors=(shared(), shared())), path)
    assert path.read_bytes() == b"precious"


def test_write_refuses_folders_and_missing_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "missing" / "model.fly"):
        with pytest.raises(CheckpointError, match=r"is a folder|does not exist"):
            write(Container(tensors=()), target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_read_names_the_file(tmp_path):
    (tmp_path / "bad.fly").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"bad\.fly: this is not a \.fly file"):
        read(tmp_path / "bad.fly")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing.fly")
