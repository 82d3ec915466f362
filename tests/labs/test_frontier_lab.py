"""The lab of the frontier: files of a size that is asked for, and what is shipped, on noise."""

import json

import pytest

from benchmarks.report import read_rows
from flyweight.cifar import compressed_file, compressed_files, pretrained_card
from flyweight.recipes import load_recipe
from labs import frontier as lab


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    folder = borrowed(lab, noise(256))
    (folder / "shipped").mkdir()
    monkeypatch.setattr(lab, "STATES", folder / "states")
    monkeypatch.setattr(lab, "SHIPPED", folder / "shipped")
    (folder / "README.md").write_text(lab.README.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(lab, "README", folder / "README.md")
    return folder


def test_a_row_is_a_file_of_its_size_that_is_shipped_with_a_card(scratch):
    lab.main(["30kB", "--epochs", "1", "--device", "cpu"])
    (row,) = read_rows("frontier", scratch)
    size = (scratch / "shipped" / "resnet20-30kb.fly").stat().st_size
    assert int(row["file_bytes"]) == size
    assert abs(size - 30_000) <= 300
    assert (row["epochs"], row["images"], row["recipe"]) == ("1", "45k", "smallest")
    card = json.loads((scratch / "shipped" / "resnet20-30kb.json").read_text())
    assert card["command"].startswith("python -m labs.frontier 30kB --recipe smallest --epochs 1 ")
    assert card["file_bytes"] == size
    assert f"| {size:,} |" in (scratch / "frontier.md").read_text()
    assert f"| **flyweight** | {size:,} |" in (scratch / "README.md").read_text()
    assert not list((scratch / "states").glob("**/*.pt"))
    lab.main(["30kB", "--epochs", "1", "--device", "cpu"])  # is there
    assert len(read_rows("frontier", scratch)) == 1


def test_only_the_best_of_a_size_by_validation_images_is_shipped(scratch):
    row = {"size": "30kB", "validation_accuracy": "0.5"}
    better = [{"size": "30kB", "validation_accuracy": "0.6"}]
    lab.ship(row, better, None, "command")
    assert not list((scratch / "shipped").iterdir())


def test_rows_that_are_not_known_are_refused():
    with pytest.raises(SystemExit, match="31kB is no row; known are 12kB"):
        lab.main(["31kB"])


def test_recipes_get_the_size_and_the_epochs():
    recipe = lab.recipe_of(20, "smallest", 7)
    assert (recipe.epochs, recipe.quantization.target_bytes) == (7, 20_000)
    assert lab.recipe_of(20, "quick", None).epochs == load_recipe("quick").epochs


@pytest.mark.parametrize("name", compressed_files())
def test_shipped_files_are_what_their_cards_say(name):
    card = pretrained_card(name)
    assert compressed_file(name).stat().st_size == card["file_bytes"]
    assert card["command"].startswith("python -m labs.frontier ")
