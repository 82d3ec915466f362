"""evaluate(): modules and files of every kind, by a metric."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import flyweight
from flyweight.checkpoints import compress_checkpoint
from flyweight.compression import evaluate
from flyweight.errors import CheckpointError, DataError, FlyweightError, ModelError, RecipeError
from flyweight.quantization import Quantizer


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout())


@pytest.fixture
def trained():
    model = network()
    nn.init.constant_(model[0].weight, 0.25)
    return model


@pytest.fixture
def file(trained, tmp_path):
    """Write the trained model as a file of a kind."""

    def write(kind):
        path = tmp_path / f"model.{kind}"
        if kind == "fly":
            flyweight.save(trained, path)
        elif kind == "safetensors":
            save_file(trained.state_dict(), path)
        else:
            torch.save(trained.state_dict(), path)
        return path

    return write


def total(model):
    assert not model.training
    assert next(model.parameters()).device.type == "cpu"
    return float(model[0].weight.detach().sum())


def test_evaluate_leaves_a_module_in_its_mode(trained):
    found = evaluate(trained.train(), evaluate=total, device="cpu")
    assert found.to_dict() == {"score": 1.5, "file_bytes": None, "device": found.device}
    assert trained.training


def test_evaluate_leaves_a_module_on_its_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # which "auto" would take
    meta = nn.Linear(3, 2, device="meta")
    assert evaluate(meta, evaluate=lambda model: model.weight.numel()).device == "meta"
    assert meta.weight.is_meta


@pytest.mark.parametrize("kind", ["fly", "safetensors", "pt"])
@pytest.mark.parametrize("by", ["model", "architecture"])
def test_evaluate_fills_a_model_from_a_file(file, kind, by):
    path = file(kind)
    model = network()
    arguments = {"model": model} if by == "model" else {"architecture": network}
    for source in (path, str(path)):
        found = evaluate(source, evaluate=total, device="cpu", **arguments)
        assert (found.score, found.file_bytes) == (1.5, path.stat().st_size)
    assert float(model[0].weight.detach().sum() == 1.5) == (by == "model")


def test_evaluate_builds_what_a_fly_file_names(tmp_path):
    model = flyweight.cifar.load_pretrained("resnet20")
    named = flyweight.CompressedModel(model.state_dict(), metadata={"architecture": "resnet20"})
    flyweight.save(named, tmp_path / "a.fly")
    found = evaluate(
        tmp_path / "a.fly", evaluate=lambda m: sum(p.numel() for p in m.parameters()), device="cpu"
    )
    assert found.score == 269_722


@pytest.mark.parametrize("kind", ["fly", "safetensors", "pt"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give model= or architecture=, the network that"),
        ({"model": nn.Sequential}, "model is the class Sequential; pass an instance"),
        ({"model": network(), "architecture": network}, "both a model and an architecture"),
        ({"architecture": lambda: nn.Linear(9, 9)}, "does not fit the model"),
        ({"architecture": network, "evaluate": lambda m: "good"}, r"gives a str for .*model\."),
    ],
)
def test_evaluate_says_what_a_file_needs(file, kind, arguments, message):
    path = file(kind)
    with pytest.raises(FlyweightError, match=message) as caught:
        evaluate(path, **{"evaluate": total, "device": "cpu", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"evaluate": None}, DataError, "evaluate is None; give a function"),
        ({"evaluate": 0.9}, DataError, "evaluate is a float; give a function"),
        ({"evaluate": lambda m: None}, DataError, "a NoneType for Sequential; return one number"),
        ({"evaluate": lambda m: float("nan")}, DataError, "gives nan for Sequential; return a"),
        ({"model": network()}, ModelError, "no effect with a module as source; leave them out"),
        ({"architecture": network}, ModelError, "no effect with a module as source"),
        ({"source": 7}, ModelError, "source is a int; give a module, or save it first"),
        ({"source": "no/such.fly", "model": network()}, CheckpointError, "no file no/such.fly"),
        ({"device": "nosuch"}, RecipeError, "device 'nosuch' cannot be used here"),
    ],
)
def test_evaluate_refuses_in_one_sentence(trained, arguments, error, message):
    arguments = {"source": trained, "evaluate": total, "device": "cpu", **arguments}
    with pytest.raises(error, match=message) as caught:
        evaluate(arguments.pop("source"), **arguments)
    assert "\n" not in str(caught.value)


def test_evaluate_takes_a_compressed_checkpoint(file, tmp_path):
    compress_checkpoint(file("safetensors"), tmp_path / "b.fly")
    assert evaluate(tmp_path / "b.fly", evaluate=total, model=network(), device="cpu").score == 1.5


def test_evaluate_refuses_a_compressed_model_that_is_not_saved():
    compressed = Quantizer(nn.Linear(8, 4), steps=0).finalize()
    with pytest.raises(ModelError, match=r"source is a CompressedModel; .* save it first"):
        evaluate(compressed, evaluate=lambda model: 1.0, device="cpu")
