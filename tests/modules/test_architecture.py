"""Architectures: names, import paths and functions; filling a module from a state dict."""

import sys

import pytest
import torch
from torch import nn

from flyweight import _architectures
from flyweight.errors import CheckpointError, ModelError
from flyweight.modules import (
    architectures,
    build,
    fill_,
    names_and_shapes,
    register_architecture,
    without_wrappers,
)


class Tied(nn.Module):
    """An output layer that shares the weight of the embedding, as in language models."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture
def kws(tmp_path, monkeypatch):
    (tmp_path / "kws.py").write_text(
        "import sys\nfrom torch import nn\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(3, 2)\n"
        "def fails(): raise RuntimeError('no weights')\ndef leaves(): sys.exit(0)\n"
        "def returns(): return 5\nready = Net()\nnumber = 3\nclass Outer:\n    Inner = Net\n"
    )
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("kws", "leaves"):
        sys.modules.pop(name, None)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(_architectures, "_FACTORIES", {})
    monkeypatch.setattr(_architectures, "_SOURCES", [])


def test_register_architecture_gives_a_factory_a_name(registry):
    def factory():
        return nn.Linear(3, 2)

    register_architecture("small", factory)
    register_architecture("small", factory)
    assert architectures() == ("small",)
    assert names_and_shapes(build("small")) == {"weight": (2, 3), "bias": (2,)}
    with pytest.raises(ModelError, match="'small' is registered already; choose another name"):
        register_architecture("small", nn.Identity)
    for name in ("", "a:b"):
        with pytest.raises(ModelError, match="cannot name an architecture"):
            register_architecture(name, factory)


def test_build_takes_names_import_paths_and_functions(kws):
    for asked in ("kws:Net", "kws:Outer.Inner", lambda: nn.Linear(3, 2)):
        assert isinstance(build(asked), nn.Linear)


def test_build_keeps_the_random_state_and_gives_the_same_weights():
    before = torch.get_rng_state()
    first, second = build(lambda: nn.Linear(9, 9)), build(lambda: nn.Linear(9, 9))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("kws.Net", r"'kws.Net' is unknown; write 'kws:Net' to import it from a module"),
        ("resnet21", "did you mean 'resnet20'"),
        ("something", "give a registered name, or 'package.module:factory'"),
        ("kws:fails", "'kws:fails' failed to build a module: RuntimeError"),
        ("kws:leaves", r"'kws:leaves' failed to build a module: SystemExit\(0\)"),
        ("kws:returns", "returned a int, not a torch.nn.Module"),
        ("kws:ready", "'kws:ready' is a module; name a function"),
        ("kws:number", "'kws:number' is a int; name a function"),
        ("kws:missing", "cannot be imported"),
        ("leaves:Net", r"'leaves:Net' cannot be imported \(the module calls sys.exit"),
        ("nowhere:Net", "cannot be imported"),
        (nn.Linear(3, 2), "is a Linear module; pass it as `model`"),
        (5, "a name or a function, not a int"),
    ],
)
def test_build_says_what_to_do(kws, registry, asked, message):
    register_architecture("resnet20", nn.Identity)
    with pytest.raises(ModelError, match=message) as caught:
        build(asked)
    assert len(str(caught.value)) < 200
    assert "--" not in str(caught.value)


def test_names_and_shapes_lists_shared_tensors_last():
    assert list(names_and_shapes(Tied())) == ["embedding.weight", "head.weight"]

    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = nn.Linear(2, 2, bias=False)
            self.c = nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

    assert list(names_and_shapes(Second())) == ["a.weight", "c.weight", "b.weight"]


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["a.weight", "b"], ["a.weight", "b"]),
        (["_orig_mod.a.weight"], ["a.weight"]),
        (["a._orig_mod.weight", "b"], ["a.weight", "b"]),
        (["module.a", "module.b"], ["a", "b"]),
        (["module.module._orig_mod.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["_orig_mod.a", "a"], ["_orig_mod.a", "a"]),
        (["_orig_mod"], ["_orig_mod"]),
        ([], []),
    ],
)
def test_without_wrappers(names, plain):
    assert list(without_wrappers(names).values()) == plain


def test_fill_copies_values():
    model = nn.Linear(3, 2)
    state = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
    fill_(model, state, where="a.fly")
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("left_out", ["head.weight", "embedding.weight"])
def test_fill_takes_shared_names_as_present(left_out):
    model, state = Tied(), {k: v.clone() for k, v in Tied().state_dict().items()}
    state["embedding.weight"] = state["head.weight"]
    del state[left_out]
    fill_(model, state, where="a.fly")
    (value,) = state.values()
    assert torch.equal(model.head.weight, value)
    assert model.head.weight is model.embedding.weight


def test_fill_refuses_different_values_for_one_tensor():
    state = {"embedding.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
    with pytest.raises(CheckpointError, match="are one tensor in the model and differ"):
        fill_(Tied(), state, where="a.fly")
    nan = torch.full((5, 3), torch.nan)
    fill_(Tied(), {"embedding.weight": nan, "head.weight": nan.clone()}, where="a.fly")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_fill_ignores_wrappers_on_either_side(prefix):
    plain = nn.Linear(3, 2).state_dict()
    wrapped = {prefix + name: value for name, value in plain.items()}
    model = nn.Linear(3, 2)
    fill_(model, wrapped, where="a.fly")
    assert torch.equal(model.weight, plain["weight"])

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 2)

    wrapper = Wrapper()
    for state in (plain, wrapped, {f"module.{name}": value for name, value in plain.items()}):
        fill_(wrapper, state, where="a.fly")
        assert torch.equal(wrapper.module.weight, plain["weight"])


def test_fill_says_what_differs_and_what_helps():
    model = nn.Linear(3, 2)
    weight, bias = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(CheckpointError, match=r"a.fly does not fit the model: it lacks 'bias'; "):
        fill_(model, {"weight": weight}, where="a.fly")
    extra = {"weight": weight, "bias": bias, "ids": bias}
    with pytest.raises(CheckpointError, match=r"model has no 'ids'; .*strict=False to ignore"):
        fill_(model, extra, where="a.fly")
    fill_(model, extra, where="a.fly", strict=False)
    fill_(model, {"weight": weight}, where="a.fly", strict=False)
    many = extra | {f"layer.{number}.weight": bias for number in range(500)}
    with pytest.raises(CheckpointError, match="and 498 more") as caught:
        fill_(model, many, where="a.fly")
    assert len(str(caught.value)) < 250
    for strict in (True, False):
        state = {"weight": torch.zeros(3, 3), "bias": bias}
        with pytest.raises(CheckpointError, match=r"'weight' has shape \(3, 3\) and needs \(2"):
            fill_(model, state, where="a.fly", strict=strict)


def test_fill_leaves_the_model_unchanged_where_it_raises():
    model = nn.Linear(3, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError):
        fill_(model, {"weight": torch.zeros(2, 3)}, where="a.fly")
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.uint8])
def test_fill_refuses_other_kinds_of_numbers_for_floats(dtype):
    state = {"weight": torch.zeros(2, 3, dtype=dtype), "bias": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"'weight' is of torch.* which torch.float32"):
        fill_(nn.Linear(3, 2), state, where="a.fly")


def test_fill_converts_floats_and_exact_integers():
    model = nn.BatchNorm1d(2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["weight"] = torch.tensor([0.5, 2], dtype=torch.bfloat16)
    state["num_batches_tracked"] = torch.tensor(7, dtype=torch.int32)
    fill_(model, state, where="a.fly")
    assert (model.weight.tolist(), model.num_batches_tracked.item()) == ([0.5, 2.0], 7)
    state["num_batches_tracked"] = torch.tensor(7.0)
    with pytest.raises(CheckpointError, match="num_batches_tracked"):
        fill_(model, state, where="a.fly")


def test_fill_refuses_modules_without_memory():
    with pytest.raises(CheckpointError, match="meta device"):
        fill_(nn.Linear(3, 2, device="meta"), nn.Linear(3, 2).state_dict(), where="a.fly")
