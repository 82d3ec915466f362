"""Saving, loading, reading and decompressing ``.fly`` files."""

import os
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flyweight import _architectures
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import CheckpointError, FormatError, ModelError
from flyweight.io import decompress, load, load_state_dict, save
from flyweight.modules import register_architecture


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.fly"


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(_architectures, "_FACTORIES", {})
    monkeypatch.setattr(_architectures, "_SOURCES", [])
    register_architecture("small", lambda: nn.Linear(3, 2))
    return "small"


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


def pruned(rows=200, columns=100, density=0.1):
    torch.manual_seed(0)
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight *= torch.rand(rows, columns) < density
    return layer


def test_save_writes_what_a_compressed_model_gives(path):
    model = CompressedModel({"bias": torch.ones(2)})
    assert save(model, path) == path.stat().st_size
    assert path.read_bytes() == model.to_bytes()


def test_save_stores_a_module_bit_for_bit(path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert save(model, path) == path.stat().st_size
    same(load_state_dict(path), before)
    same(model.state_dict(), before)


def test_save_of_a_pruned_module_is_small(path):
    layer = pruned()
    size = save(layer, path)
    assert size < 0.2 * layer.weight.nbytes
    assert torch.equal(load(path, nn.Linear(100, 200)).weight, layer.weight)
    assert save(layer.state_dict(), path) == size


def test_save_stores_tied_weights_once(path):
    model = Tied()
    size = save(model, path)
    assert size < 1.2 * model.head.weight.nbytes
    loaded = load(path, Tied())
    assert loaded.head.weight is loaded.embedding.weight
    assert torch.equal(loaded.head.weight, model.head.weight)
    state = load_state_dict(path)
    assert state["head.weight"] is state["embedding.weight"]


class Compiled(nn.Module):
    """Names tensors as torch.compile does."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize(
    "wrap", [Compiled, nn.DataParallel, lambda m: nn.DataParallel(Compiled(m))]
)
def test_save_leaves_out_prefixes_of_wrappers(path, wrap):
    model = nn.Linear(3, 2)
    save(wrap(model), path)
    assert list(load_state_dict(path)) == ["weight", "bias"]
    loaded = load(path, wrap(nn.Linear(3, 2)))
    assert torch.equal(next(iter(loaded.parameters())), model.weight)


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (5, "a int cannot be saved; pass a compressed model, a module or a state dict"),
        ({"w": 3}, "'w' is a int, and a file holds tensors only"),
        ({3: torch.ones(1)}, "has the key 3; names of tensors are strings"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.LazyLinear(2), "lazy layer"),
    ],
)
def test_save_names_what_it_cannot_store(path, obj, message):
    with pytest.raises(ModelError, match=message):
        save(obj, path)
    assert not path.exists()


def test_save_without_force_refuses_a_file_that_exists(path):
    path.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="exists already"):
        save(nn.Linear(2, 2), path, force=False)
    assert path.read_bytes() == b"precious"
    save(nn.Linear(2, 2), path)


def test_save_follows_umask_and_writes_through_devices(path):
    before = os.umask(0o027)
    try:
        save(nn.Linear(2, 2), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert save(nn.Linear(2, 2), "/dev/null") > 0


def test_load_fills_an_instance_in_evaluation_mode(path):
    save(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), path)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
    assert load(path, model) is model
    assert not any(module.training for module in model.modules())


def test_load_builds_registered_names_functions_and_import_paths(path, registered):
    layer = nn.Linear(3, 2)
    for metadata in ({}, {"architecture": registered}):
        save(CompressedModel(layer.state_dict(), metadata=metadata), path)
        for architecture in ("small", lambda: nn.Linear(3, 2)):
            loaded = load(path, architecture=architecture)
            assert torch.equal(loaded.weight, layer.weight)
        assert torch.equal(load(path, nn.Linear(3, 2)).bias, layer.bias)
    assert torch.equal(load(path).weight, layer.weight)


def test_load_fills_a_wrapped_model_from_a_file_without_names(path, registered, monkeypatch):
    layer = nn.Linear(3, 2)
    save(CompressedModel(layer.state_dict(), metadata={"architecture": registered}), path)
    for known in (True, False):
        if not known:
            monkeypatch.setattr(_architectures, "_FACTORIES", {})
            monkeypatch.setattr(_architectures, "_SOURCES", [])
        for wrap in (lambda m: m, nn.DataParallel):
            loaded = load(path, wrap(nn.Linear(3, 2)))
            assert torch.equal(next(iter(loaded.parameters())), layer.weight)


@pytest.mark.parametrize("name", ["os:system", "kws:Net", "small"])
def test_load_never_imports_what_a_file_names(path, name):
    save(CompressedModel(nn.Linear(3, 2).state_dict(), metadata={"architecture": name}), path)
    with pytest.raises(ModelError, match=f"names the network '{name}', not registered; give"):
        load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "names no network; give model= or architecture=, the network that it was"),
        ({"model": nn.Linear}, "model is the class Linear; pass an instance of it"),
        ({"model": "resnet20"}, "model is a str; pass a module to fill, or a name or function"),
        ({"architecture": nn.Linear(3, 2)}, "is a Linear module; pass it as `model`"),
        ({"architecture": "kws.Net"}, "write 'kws:Net'"),
        ({"model": nn.Linear(3, 2), "architecture": "a:b"}, "both a model and an architecture"),
    ],
)
def test_load_says_what_to_pass(path, arguments, message):
    save(nn.Linear(3, 2), path)
    with pytest.raises(ModelError, match=message) as caught:
        load(path, **arguments)
    assert "--" not in str(caught.value)


def test_load_with_strict_false_ignores_buffers_of_one_side(path):
    layer = nn.Linear(3, 2)
    save({**layer.state_dict(), "position_ids": torch.arange(9)}, path)
    with pytest.raises(CheckpointError, match=r"has no 'position_ids'; .*strict=False"):
        load(path, nn.Linear(3, 2))
    assert torch.equal(load(path, nn.Linear(3, 2), strict=False).weight, layer.weight)


def test_load_takes_tied_heads_that_the_file_lacks(path):
    model = Tied()
    state = model.state_dict()
    del state["head.weight"]
    save(state, path)
    loaded = load(path, Tied())
    assert torch.equal(loaded.head.weight, model.head.weight)


def test_load_refuses_complex_numbers_for_floats(path):
    save({"weight": torch.zeros(2, 3, dtype=torch.complex64), "bias": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"'weight' is of torch\.complex64"):
        load(path, nn.Linear(3, 2))


def test_load_gives_the_values_of_the_compressed_model(path):
    scales = torch.tensor([0.3, 1.7])
    quantized = {
        "weight": CompressedTensor(
            torch.randint(0, 5, (2, 3)), torch.randn(4), scales, torch.randn(2)
        )
    }
    model = CompressedModel({**quantized, "bias": torch.randn(2)})
    save(model, path)
    loaded = load(path, nn.Linear(3, 2))
    assert torch.equal(loaded.weight, model.state_dict()["weight"])
    same(load_state_dict(path), model.state_dict())


def test_load_keeps_subnormal_numbers_where_they_are_flushed(path, tmp_path):
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-45, -1e-40, 1.0], [2e-39, 0.0, -1e-45]]))
    bits = layer.weight.detach().view(torch.int32).clone()
    size = save(layer, path)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        assert save(layer, tmp_path / "b.fly") == size
        loaded = load(path, nn.Linear(3, 2)).weight.detach().view(torch.int32)
        decompress(path, tmp_path / "b.safetensors")
    finally:
        torch.set_flush_denormal(False)
    assert (tmp_path / "b.fly").read_bytes() == path.read_bytes()
    assert torch.equal(loaded, bits)
    assert torch.equal(load_file(tmp_path / "b.safetensors")["weight"].view(torch.int32), bits)


def test_load_state_dict_reads_only_the_tensors_that_are_named(path):
    state = {name: torch.randn(300, 300) for name in ("a", "b", "c")}
    save(state, path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # in the last tensor
    path.write_bytes(data)
    found = load_state_dict(path, names=["b", "a"])
    assert list(found) == ["b", "a"]
    assert torch.equal(found["a"], state["a"])
    with pytest.raises(FormatError, match="damaged"):
        load_state_dict(path, names=["c"])
    with pytest.raises(FormatError, match="damaged"):
        load_state_dict(path)
    with pytest.raises(FormatError, match="holds no tensor 'd'"):
        load_state_dict(path, names=["d"])


def test_load_state_dict_reads_aliases_by_name(path):
    weight = torch.randn(3, 2)
    save(CompressedModel({"a": weight}, {"tied": "a"}), path)
    assert torch.equal(load_state_dict(path, names=["tied"])["tied"], weight)


def test_decompress_writes_safetensors(path, tmp_path):
    model = Tied()
    save(model, path)
    calls = []
    output = tmp_path / "a.safetensors"
    result = decompress(path, output, progress=lambda *call: calls.append(call))
    assert result == {"tensors": 2, "bytes": output.stat().st_size}
    assert calls[-1] == ("decompress", 2, 2)
    state = load_file(output)
    assert set(state) == {"embedding.weight", "head.weight"}
    assert torch.equal(state["head.weight"], model.head.weight)


def test_decompress_refuses_outputs_that_would_do_harm(path, tmp_path):
    save(nn.Linear(2, 2), path)
    data = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"would hold safetensors; name .*x\.safetensors"):
        decompress(path, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="would hold safetensors"):
        decompress(path, path)
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    with pytest.raises(CheckpointError, match="is an input"):
        decompress(path, link)
    link.unlink()
    link.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="exists already"):
        decompress(path, link, force=False)
    assert (path.read_bytes(), link.read_bytes()) == (data, b"precious")
    decompress(path, link)


def test_decompress_leaves_nothing_of_a_damaged_file(path, tmp_path):
    save(nn.Linear(40, 40), path)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError):
        decompress(path, tmp_path / "b.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.fly"]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("read", ["decompress", "load_state_dict"])
def test_reading_takes_little_memory_beside_the_values(path, tmp_path, read, scaled):
    size = 1 << 21
    symbols = torch.randint(0, 15, (size >> 10, 1 << 10), dtype=torch.int32)
    levels = torch.arange(1.0, 16).to(torch.bfloat16)
    scales = torch.ones(size >> 10, dtype=torch.bfloat16) if scaled else None
    save(CompressedModel({"w": CompressedTensor(symbols, levels, scales)}), path)
    load_state_dict(path)  # compiles what is compiled at the first call
    work = {
        "decompress": lambda: decompress(path, tmp_path / "a.safetensors"),
        "load_state_dict": lambda: load_state_dict(path),
    }[read]
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * (2 * size + path.stat().st_size)


def test_load_state_dict_takes_a_string_as_one_name(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    save(model, tmp_path / "a.fly")
    state = load_state_dict(tmp_path / "a.fly", names="0.weight")
    assert list(state) == ["0.weight"]
    assert torch.equal(state["0.weight"], model[0].weight)


def test_load_and_decompress_refuse_what_is_not_saved(tmp_path):
    save(nn.Linear(3, 2), tmp_path / "a.fly")
    compressed = CompressedModel.from_bytes((tmp_path / "a.fly").read_bytes())
    for call in (
        lambda: load(compressed, nn.Linear(3, 2)),
        lambda: load_state_dict(compressed),
        lambda: decompress(compressed, tmp_path / "a.safetensors"),
    ):
        with pytest.raises(ModelError, match="path is a CompressedModel; save it first, and give"):
            call()
