"""Tables fit 80 columns; JSON is valid JSON."""

import json
import math

import pytest

from flyweight.cli.tables import print_json, print_rows


def test_print_rows_aligns_values(capsys):
    print_rows({"file": "a.fly", "compression ratio": "20.00x"})
    assert capsys.readouterr().out == "file               a.fly\ncompression ratio  20.00x\n"


def test_print_rows_wraps_long_values_at_80_columns(capsys):
    print_rows({"name": "word " * 40})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


def test_print_rows_escapes_terminal_sequences_and_takes_markup_as_text(capsys):
    print_rows({"a": "\x1b[31m[bold]:smile:"})
    assert capsys.readouterr().out == "a  \\x1b[31m[bold]:smile:\n"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_print_json_has_null_for_what_is_not_finite(capsys, value):
    print_json({"ratio": value, "rows": [{"bound": value, "bytes": 3}]})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"ratio": None, "rows": [{"bound": None, "bytes": 3}]}
