"""The quickstart of the README runs as written, here without retraining and on few images."""

import dataclasses
import re
from pathlib import Path

import pytest

import flyweight
from flyweight.cifar import Cifar10, Split

README = Path(__file__).parents[2] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_quickstart_runs_as_written(tmp_path, monkeypatch, capsys, cifar10):
    if not (Path(flyweight.__file__).parent / "models/pretrained/resnet20.safetensors").exists():
        pytest.skip("no pretrained network here")
    few = Cifar10(cifar10.train, Split(cifar10.test.images[:500], cifar10.test.labels[:500]))
    plan = flyweight.load_recipe("quick")
    still = dataclasses.replace(plan.pruning.training, epochs=0)
    plan = dataclasses.replace(
        plan,
        pruning=dataclasses.replace(plan.pruning, sparsity=0.5, training=still),
        sharing=dataclasses.replace(plan.sharing, bits=5, training=still),
    )
    for module in ("pipeline", "proof"):
        monkeypatch.setattr(f"flyweight.{module}.load_cifar10", lambda *args, **kwargs: few)
    monkeypatch.setattr("flyweight.compression.load_recipe", lambda name: plan)
    monkeypatch.chdir(tmp_path)
    exec(blocks("python")[0], {})
    size = (tmp_path / "resnet20.fly").stat().st_size
    printed = capsys.readouterr().out.split()
    assert int(printed[0]) == size
    assert float(printed[-1]) > 0.5


def test_the_loop_of_your_own_runs_as_written(capsys):
    exec(blocks("python")[1], {})
    assert float(capsys.readouterr().out) == pytest.approx(0.8, abs=0.005)
    assert len(blocks("python")) == 2


def test_the_recipe_shown_is_a_recipe():
    (text,) = blocks("toml")
    recipe = flyweight.Recipe.from_toml(text)
    assert recipe.name == "mine"
    assert recipe.pruning.keep == ("conv1.weight",)
    assert recipe.sharing.bits == 4


def test_public_names_are_pinned():
    assert sorted(flyweight.__all__) == [
        "CheckpointError",
        "CompressedModel",
        "CompressedTensor",
        "DataError",
        "FlyweightError",
        "FormatError",
        "ModelError",
        "PruningConfig",
        "Recipe",
        "RecipeError",
        "QuantizationConfig",
        "compress",
        "compress_post_training",
        "compress_to_file",
        "create_model",
        "decompress",
        "evaluate",
        "inspect",
        "load",
        "load_cifar10",
        "load_pretrained",
        "load_recipe",
        "prepare",
        "prepare_quantizer_old",
        "prune",
        "quantize",
        "save",
        "compress_checkpoint",
        "summarize_sparsity",
        "train",
    ]
    assert all(hasattr(flyweight, name) for name in flyweight.__all__)
