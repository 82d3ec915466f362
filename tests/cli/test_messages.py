"""Errors as one line."""

import pytest

from flyweight.cli.messages import sentence, with_option_names
from flyweight.errors import FormatError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FormatError("a.fly is damaged;\n copy it again"), "a.fly is damaged; copy it again"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "a.fly"), "a.fly: Permission denied"),
        (OSError("odd"), "odd (OSError); repeat the command with --debug for the traceback"),
        (KeyError(), "unexpected KeyError; repeat the command with --debug for the traceback"),
        (UserWarning("slow"), "slow"),
    ],
)
def test_sentence_is_one_line_without_a_claim_about_files(error, expected):
    assert sentence(error) == expected


def test_sentence_for_memory_says_what_to_do():
    assert sentence(MemoryError()).startswith("out of memory; ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a exists already; pass force=True", "a exists already; pass --force"),
        ("give architecture=, a name", "give --architecture, a name"),
        ("give model= or architecture= to fill", "give --architecture to fill"),
        ("give architecture= or model=; else", "give --architecture; else"),
        ("pass its `architecture`", "pass its --architecture"),
        ("give loss=, a function", "give loss=, a function"),
        ("give data= or loss=", "give data= or loss="),
        ("use its model, or strict=False to ignore this", "use its model"),
        ("resume it, or pass force=True", "resume it, or pass --force"),
        ("replace it, or force=True to go on", "replace it, or --force to go on"),
        ("give batches, or drop_last=True", "give batches"),
        ("the value my_force=True", "the value my_force=True"),
    ],
)
def test_with_option_names_replaces_arguments_that_are_options(text, expected):
    options = {"force": "--force", "architecture": "--architecture"}
    assert with_option_names(text, options) == expected
