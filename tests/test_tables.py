"""Tables of text: they fit their width, break no number and obey no terminal sequence."""

import pytest

from flyweight._tables import format_table, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("conv1.weight", "conv1.weight"),
        ("Größe", "Größe"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\r", r"a\nb\r"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202eabc", r"\u202eabc"),
        ("\udcff", r"\udcff"),
        (3, "3"),
    ],
)
def test_printable_escapes_what_a_terminal_would_act_on(text, expected):
    assert printable(text) == expected


def test_format_table_breaks_names_and_not_numbers():
    name = "encoder.layer." * 8
    out = format_table(["tensor", "bytes", "bound"], [[name, 1_234_567_890, 3], ["b", 2, 4]])
    assert max(map(len, out.splitlines())) <= 80
    assert "1234567890" in out
    assert "".join(line.split()[0] for line in out.splitlines()[1:-1]) == name


def test_format_table_escapes_cells_and_takes_markup_as_text():
    table = format_table(["tensor", "bytes"], [["w\x1b[31m[bold]:smile:", 5]])
    assert table.splitlines() == [
        "tensor                  bytes",
        r"w\x1b[31m[bold]:smile:      5",
    ]
