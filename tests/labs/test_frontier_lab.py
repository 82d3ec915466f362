"""The lab of the frontier: files of a size that is asked for, and what is shipped, on noise."""

import json

import pytest

from benchmarks.report import read_rows
from flyweight import CompressedModel
from flyweight.cifar import compressed_file, compressed_files, pretrained_card
from flyweight.recipes import load_recipe
from labs import frontier as lab
from labs import trunk


def compressed_network(path):
    return CompressedModel.from_bytes(path.read_bytes())


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


def row_of(epochs, validation="", trunk=0):
    return {
        "size": "30kB",
        "trunk_epochs": trunk,
        "epochs": epochs,
        "validation_accuracy": validation,
    }


@pytest.mark.parametrize(
    ("row", "other"),
    [
        (row_of("9", "0.5"), row_of("9", "0.6")),
        (row_of("10", "0.6"), row_of("9", "0.7")),
        (row_of("10"), row_of("9", "0.7")),
        (row_of("9"), row_of("2", trunk="8")),
    ],
    ids=["validation", "more epochs", "no validation", "trunk"],
)
def test_of_a_size_the_validation_images_and_then_the_epochs_tell_what_is_shipped(
    scratch, row, other
):
    lab.ship(row, [other], None, "command")
    assert not list((scratch / "shipped").iterdir())
    assert lab.best([row, other], "30kB") is other
    assert lab.best([other, row], "30kB") is other


def test_a_branch_starts_from_the_weights_and_the_grid_of_the_trunk(scratch, monkeypatch, noise):
    monkeypatch.setattr(trunk, "FILE", scratch / "resnet20-trunk.fly")
    monkeypatch.setattr(trunk, "STATES", scratch / "states")
    monkeypatch.setattr(trunk, "load_cifar10", lambda path: noise(256))
    for number in (1, 2):
        trunk.main(["--epochs", "1", "--kilobytes", "60", "--image-size", "24", "--device", "cpu"])
        card = trunk.trunk_card()
        assert (card["epochs"], len(card["parts"])) == (number, number)
        assert [part["seed"] for part in card["parts"]] == [*range(number)]
    model, steps = trunk.load_trunk()
    weight = dict(model.named_parameters())["stages.0.0.conv1.weight"]
    step = steps["stages.0.0.conv1.weight"]
    off_grid = (weight.detach() / step - (weight.detach() / step).round()).abs()
    assert float(off_grid.max()) > 0.2  # not the codes, the weights behind them
    lab.main(["30kB", "--epochs", "1", "--trunk", "--views", "2", "--device", "cpu"])
    assert (scratch / "states" / "teacher-frontier.sqlite").exists()
    (row,) = read_rows("frontier", scratch)
    assert (row["trunk_epochs"], row["epochs"]) == ("2", "1")
    network = compressed_network(scratch / "shipped" / "resnet20-30kb.fly")
    levels = network.tensors["stages.2.2.conv2.weight"].levels
    ratios = levels / steps["stages.2.2.conv2.weight"]
    assert float((ratios - ratios.round()).abs().max()) < 0.3  # levels train on from the grid
    card = json.loads((scratch / "shipped" / "resnet20-30kb.json").read_text())
    assert " --trunk" in card["command"]


def test_rows_that_are_not_known_are_refused():
    with pytest.raises(SystemExit, match="31kB is no row; known are 12kB"):
        lab.main(["31kB"])


def test_recipes_get_the_size_and_the_epochs():
    recipe = lab.recipe_of(20, "smallest", 7)
    assert (recipe.epochs, recipe.quantization.target_bytes) == (7, 20_000)
    assert lab.recipe_of(20, "quick", None).epochs == load_recipe("quick").epochs


CARDS = [path.stem for path in lab.SHIPPED.glob("resnet20-*.json")]


def test_each_card_has_its_file():
    assert CARDS
    assert sorted(CARDS) == sorted(compressed_files())


@pytest.mark.parametrize("name", CARDS)
def test_shipped_files_are_what_their_cards_say(name):
    card = pretrained_card(name)
    assert compressed_file(name).stat().st_size == card["file_bytes"]
    assert card["command"].startswith("python -m labs.frontier ")
