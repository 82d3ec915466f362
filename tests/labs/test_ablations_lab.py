"""The lab of ablations: one change of a recipe at a time, on noise."""

import pytest

from benchmarks.report import read_rows
from flyweight import load_recipe
from labs import ablations as lab

ROW = "from the dense network, .025"


def test_a_row_has_its_bytes_and_is_made_once(borrowed, noise, monkeypatch):
    folder = borrowed(lab, noise(256))
    monkeypatch.setattr(lab, "STATES", folder / "states")
    for _ in range(2):
        lab.main([ROW, "--kilobytes", "50", "--epochs", "1", "--device", "cpu"])
    (row,) = read_rows("ablations", folder)
    assert 49_500 <= int(row["file_bytes"]) <= 50_000
    assert (row["row"], row["asked_bytes"], row["epochs"]) == (ROW, "50000", "1")
    assert float(row["divergence"]) > 0
    assert f"| {ROW} | 50,000 | {int(row['file_bytes']):,} |" in (folder / "frontier.md").read_text(
        encoding="utf-8"
    )
    assert not list((folder / "states").glob("**/*.pt"))


def test_each_change_gives_another_recipe():
    quick = load_recipe("quick")
    recipes = {name: change(quick) for name, change in lab.ROWS.items()}
    assert recipes.pop("quick") == recipes.pop("half the batch") == quick
    assert len({repr(recipe) for recipe in recipes.values()} - {repr(quick)}) == len(recipes)


def test_rows_that_are_not_known_are_refused():
    with pytest.raises(SystemExit, match="tenfold is no row; known are quick"):
        lab.main(["tenfold"])
