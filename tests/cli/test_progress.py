"""Progress on stderr: a bar on a terminal, lines elsewhere."""

import io

import pytest

from flyweight.cli.progress import display


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_display_prints_each_phase_once_off_a_terminal(capsys):
    with display(quiet=False) as progress:
        for done in range(1, 4):
            progress("prune and retrain, epoch 1 of 2", done, 6)
        progress("prune and retrain, epoch 2 of 2", 4, 6)
        progress("encode", 0, None)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "flyweight: prune and retrain, epoch 1 of 2",
        "flyweight: prune and retrain, epoch 2 of 2",
        "flyweight: encode",
    ]


def test_display_escapes_terminal_sequences(capsys):
    with display(quiet=False) as progress:
        progress("\x1b[2J", 0, None)
    assert capsys.readouterr().err == "flyweight: \\x1b[2J\n"


def test_display_names_the_phase_beside_one_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with display(quiet=False) as progress:
        progress("quantize and fine-tune, epoch 1 of 1", 3, 4)
    assert "quantize and fine-tune, epoch 1 of 1" in terminal.getvalue()
    assert "75%" in terminal.getvalue()


@pytest.mark.parametrize(("quiet", "rank"), [(True, "0"), (False, "1")])
def test_display_shows_nothing_when_quiet_or_in_another_process(monkeypatch, capsys, quiet, rank):
    monkeypatch.setenv("RANK", rank)
    with display(quiet=quiet) as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")
