"""The options of the exercises: those asked for and no others, and the commit is looked up."""

from pathlib import Path

import pytest

from labs import options


def test_an_exercise_has_the_options_it_asks_for():
    few = vars(options.lab_parser("x", device=None, seed=None).parse_args(["--data", "some"]))
    assert few == {"data": Path("some")}
    parser = options.lab_parser("x", rows=True, epochs=20, short=2)
    every = vars(parser.parse_args(["std", "ways", "--short", "4"]))
    assert every == {
        "rows": ["std", "ways"],
        "epochs": 20,
        "short": 4,
        "compile": False,
        "device": "auto",
        "data": None,
        "seed": 0,
    }
    with pytest.raises(SystemExit):
        options.lab_parser("x").parse_args(["--epochs", "1"])


def test_the_commit_is_that_of_the_code_that_was_loaded(monkeypatch):
    done = []
    monkeypatch.setattr(options, "keep_freed_memory", lambda: done.append("memory"))
    monkeypatch.setattr(options, "source_commit", lambda: done.append("commit"))
    assert options.read_options(options.lab_parser("x"), ["--seed", "3"]).seed == 3
    assert done == ["memory", "commit"]
