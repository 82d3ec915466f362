"""Tables fit 80 columns and never break a number; JSON is valid JSON."""

import json
import math

import pytest

from flyweight.cli.tables import print_json, print_rows, print_table


def test_print_rows_aligns_values(capsys):
    print_rows({"file": "a.fly", "compression ratio": "20.00x"})
    assert capsys.readouterr().out == "file               a.fly\ncompression ratio  20.00x\n"


def test_print_rows_wraps_long_values_at_80_columns(capsys):
    print_rows({"name": "word " * 40})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)


def test_print_table_breaks_names_and_not_numbers(capsys):
    name = "encoder.layer." * 8
    print_table(["tensor", "bytes", "bound"], [[name, 1_234_567_890, 3], ["b", 2, 4]])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "1234567890" in out
    assert "".join(line.split()[0] for line in out.splitlines()[1:-1]) == name


def test_print_table_is_plain_text_off_a_terminal(capsys):
    print_table(["tensor", "bytes"], [["w\x1b[31m[bold]:smile:", 5]])
    assert capsys.readouterr().out.splitlines() == [
        "tensor                  bytes",
        r"w\x1b[31m[bold]:smile:      5",
    ]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_print_json_has_null_for_what_is_not_finite(capsys, value):
    print_json({"ratio": value, "rows": [{"bound": value, "bytes": 3}]})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"ratio": None, "rows": [{"bound": None, "bytes": 3}]}
