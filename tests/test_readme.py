"""The examples of the README run as written, and the public names are pinned."""

import re
from pathlib import Path

import pytest
import torch

import flyweight

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_readme_examples_run_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    torch.manual_seed(0)
    quickstart, trained, own_loop = blocks("python")
    exec(quickstart, names)
    size = (tmp_path / "model.fly").stat().st_size
    assert f"{size:,}" in capsys.readouterr().out
    assert names["model"] is names["fresh"]
    exec(trained, names)
    before, after = map(float, capsys.readouterr().out.split())
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    assert names["compressed"].report.compression_ratio == pytest.approx(25.1, rel=0.02)
    exec(own_loop, names)
    state = flyweight.load_state_dict(tmp_path / "pruned-and-quantized.fly")
    weights = torch.cat([state["0.weight"].flatten(), state["2.weight"].flatten()])
    assert float((weights == 0).float().mean()) >= 0.79
    assert state["0.weight"].unique().numel() <= 16


def test_readme_recipe_is_a_recipe():
    (text,) = blocks("toml")
    recipe = flyweight.Recipe.from_toml(text)
    assert recipe.name == "mine"
    assert recipe.pruning.exclude == ("conv1.weight",)
    assert recipe.retraining.epochs == 10
    assert recipe.quantization.bits == 4


def test_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_public_names_are_pinned():
    assert sorted(flyweight.__all__) == [
        "CheckpointError",
        "CompressedModel",
        "CompressedTensor",
        "CompressionReport",
        "DataError",
        "FlyweightError",
        "FormatError",
        "ModelError",
        "PostTrainingConfig",
        "Pruner",
        "PruningConfig",
        "QuantizationConfig",
        "Quantizer",
        "Recipe",
        "RecipeError",
        "SizeReport",
        "TrainingConfig",
        "__version__",
        "cifar",
        "compress",
        "compress_checkpoint",
        "decompress",
        "evaluate",
        "inspect",
        "load",
        "load_recipe",
        "load_state_dict",
        "save",
        "train",
    ]
    assert all(hasattr(flyweight, name) for name in flyweight.__all__)
