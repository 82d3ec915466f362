"""Rows of the exercises: made where they are missing, and not twice."""

import csv
import time
from dataclasses import dataclass

import pytest
import torch

from labs import rows as lab


@dataclass(frozen=True)
class Exercise:
    name: str


EVERY = [Exercise("std 0.5"), Exercise("std 1.0"), Exercise("ways one-shot")]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    document = tmp_path / "page.md"
    document.write_text("<!-- results: python -m labs.some -->\n<!-- end of results -->\n")
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(lab, "STATES", tmp_path / "states")
    return document


def fill(document, todo, made):
    def make(exercise, epochs):
        made.append((exercise.name, epochs))
        return {"row": exercise.name, "epochs": epochs}

    def tables(rows):
        return " ".join(row["row"] for row in rows)

    lab.fill("some", todo, EVERY, make=make, tables=tables, document=document)


def test_rows_are_made_where_they_are_missing_or_too_short(scratch):
    made = []
    fill(scratch, [(EVERY[2], 4)], made)
    fill(scratch, [(EVERY[2], 2), (EVERY[0], 2)], made)
    fill(scratch, [(EVERY[2], 20), (EVERY[0], 2)], made)
    assert made == [("ways one-shot", 4), ("std 0.5", 2), ("ways one-shot", 20)]
    with (scratch.parent / "some.csv").open() as file:
        assert [*csv.reader(file)] == [["row", "epochs"], ["std 0.5", "2"], ["ways one-shot", "20"]]
    assert "\nstd 0.5 ways one-shot\n" in scratch.read_text()


def test_rows_that_another_process_made_meanwhile_stay(scratch):
    def make(exercise, epochs):
        if exercise is EVERY[1]:
            fill(scratch, [(EVERY[0], 1)], [])
        return {"row": exercise.name, "epochs": epochs, "start": "there"}

    lab.fill("some", [(EVERY[1], 3)], EVERY, make=make, tables=str, document=scratch)
    with (scratch.parent / "some.csv").open() as file:
        rows = [*csv.reader(file)]
    assert rows == [["row", "epochs", "start"], ["std 0.5", "1", ""], ["std 1.0", "3", "there"]]


def test_exercises_are_named_themselves_or_by_their_table():
    assert lab.wanted([], EVERY) == EVERY
    assert lab.wanted(["std"], EVERY) == EVERY[:2]
    assert lab.wanted(["ways one-shot", "std 1.0"], EVERY) == EVERY[1:]
    with pytest.raises(SystemExit, match=r"none of fixed is a row; known are std 0\.5"):
        lab.wanted(["fixed"], EVERY)


def test_states_go_when_training_is_done_and_stay_when_it_was_stopped(scratch):
    def train(error):
        with lab.states("some", "std 1.0") as folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "state.pt").touch()
            if error:
                raise KeyboardInterrupt
        return folder

    assert not lab.is_begun("some", "std 1.0")
    with pytest.raises(KeyboardInterrupt):
        train(error=True)
    assert lab.is_begun("some", "std 1.0")
    for others in (("other", "std 1.0"), ("some", "std 0.5")):
        assert not lab.is_begun(*others)
        with lab.states(*others) as elsewhere:
            assert not elsewhere.exists()
    with lab.states("some", "std 1.0") as folder:
        assert (folder / "state.pt").exists()
    assert not train(error=False).exists()
    assert not lab.is_begun("some", "std 1.0")


def test_minutes_are_of_all_the_work_or_blank():
    device = torch.device("cpu")
    assert lab.origin(3, device, time.perf_counter() - 90)["minutes"] == pytest.approx(1.5)
    assert lab.origin(3, device, time.perf_counter() - 90, whole=False)["minutes"] == ""
