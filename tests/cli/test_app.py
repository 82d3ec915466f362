"""The program: version, help, completion, and the one place that reports errors."""

import io
import os
import subprocess
import sys
import threading
import warnings
from importlib import metadata
from pathlib import Path

import pytest

import flyweight
from flyweight.errors import FormatError


def failing_with(error):
    def inspect(*arguments, **options):
        raise error

    return inspect


@pytest.fixture
def inspect_raises(monkeypatch):
    """Let `flyweight.inspect` raise an error."""
    return lambda error: monkeypatch.setattr(flyweight, "inspect", failing_with(error))


def test_run_prints_the_version(cli):
    assert cli("--version") == (0, f"flyweight {metadata.version('flyweight')}\n", "")


@pytest.mark.parametrize("arguments", [("-h",), ("--help",), ("compress", "-h"), ("train", "-h")])
def test_run_prints_help(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("Usage: flyweight")
    assert max(map(len, result.out.splitlines())) <= 80


def test_help_names_what_there_is(cli):
    out = " ".join(cli("compress", "--help").out.split())
    assert "auto, cpu, cuda or cuda:1." in out
    assert "mps" not in out
    assert "Without --recipe the network is quantized after training (post-training)" in out


def test_run_lists_the_verbs(cli):
    out = cli("--help").out
    verbs = ["compress", "compress-checkpoint", "decompress", "inspect", "evaluate", "train"]
    commands = out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in commands if line] == verbs
    assert "..." not in out.partition("Commands:")[2]
    assert "--install-completion" in out


@pytest.mark.parametrize(
    "arguments",
    [("squash",), ("compress",), ("inspect", "a.fly", "--bits", "3"), ("train", "resnet20")],
)
def test_run_exits_with_2_for_wrong_usage(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: flyweight" in result.err


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FormatError("a.fly is damaged"), "a.fly is damaged"),
        (TypeError("unsupported\noperand"), "unsupported operand (TypeError); repeat"),
        (RuntimeError("can't start new thread"), "can't start new thread (RuntimeError); repeat"),
        (RecursionError("too deep"), "too deep (RecursionError); repeat"),
        (OverflowError("int too large to convert"), "int too large to convert (OverflowError)"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), "(UnicodeEncodeError); repeat"),
        (AssertionError(), "unexpected AssertionError; repeat the command with --debug"),
        (MemoryError(), "out of memory; "),
        (OSError(28, "No space left on device", "a"), "a: No space left on device\n"),
    ],
)
def test_run_reports_whatever_escapes_as_one_sentence(cli, inspect_raises, error, expected):
    inspect_raises(error)
    result = cli("inspect", "a.fly")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("flyweight: ")
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert "nothing was written" not in result.err


def test_run_prints_the_traceback_with_debug(cli, inspect_raises):
    inspect_raises(TypeError("odd"))
    result = cli("inspect", "a.fly", "--debug")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("flyweight: odd (TypeError)")


@pytest.mark.parametrize("code", [0, 1, None, "text"])
def test_run_does_not_take_sys_exit_of_other_code_for_success(cli, inspect_raises, code):
    inspect_raises(SystemExit(code))
    result = cli("inspect", "a.fly")
    assert (result.code, result.out) == (2, "")
    assert f"calls sys.exit({code!r})" in result.err


def test_run_names_options_where_an_error_names_arguments(cli, inspect_raises):
    inspect_raises(FormatError("a.fly has no names; give architecture="))
    assert cli("inspect", "a.fly").err == "flyweight: a.fly has no names; give --architecture\n"


def test_run_reports_ctrl_c_without_a_word_about_epochs(cli, inspect_raises):
    inspect_raises(KeyboardInterrupt())
    assert cli("inspect", "a.fly") == (130, "", "flyweight: stopped\n")


def test_run_reports_warnings_in_one_line(cli, monkeypatch):
    def inspect(*arguments, **options):
        warnings.warn("two\nlines", stacklevel=1)
        raise FormatError("end")

    monkeypatch.setattr(flyweight, "inspect", inspect)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = cli("inspect", "a.fly")
    assert result.err == "flyweight: two lines\nflyweight: end\n"


def test_run_escapes_terminal_sequences_of_names(cli, inspect_raises):
    inspect_raises(FormatError("tensor '\x1b[2J\x9b' is damaged"))
    assert cli("inspect", "a.fly").err == "flyweight: tensor '\\x1b[2J\\x9b' is damaged\n"


@pytest.mark.parametrize("rank", ["x", "1.5"])
def test_run_reports_a_rank_that_is_no_number(cli, monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    result = cli("--version")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Traceback" not in result.err


def test_run_prints_in_the_first_process_only(cli, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = cli("--help")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_run_reports_threads_that_cannot_start(cli, monkeypatch, folder):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    result = cli("compress-checkpoint", "tiny.safetensors", "-o", "out.fly", "--lossless")
    assert (result.code, result.out) == (2, "")
    assert "can't start new thread" in result.err
    assert not Path("out.fly").exists()


def test_run_prints_any_name_to_a_stdout_that_is_not_utf8(cli, monkeypatch):
    class Report:
        def __str__(self):
            return "Größe\ntotal"

    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(flyweight, "inspect", lambda *arguments, **options: Report())
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli("inspect", "a.fly").code == 0
    assert stdout.buffer.getvalue() == b"Gr\\xf6\\xdfe\ntotal\n"


class Full(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


def test_run_reports_a_stdout_that_cannot_be_written(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full(OSError(28, "No space left on device")))
    result = cli("--help")
    assert result.code == 2
    assert result.err == "flyweight: stdout: No space left on device\n"


def test_run_is_silent_when_the_reader_of_stdout_has_ended(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full(BrokenPipeError(32, "Broken pipe")))
    result = cli("--help")
    assert (result.code, result.err) == (1, "")


def program(*arguments, **options):
    command = [sys.executable, "-m", "flyweight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


def with_modules_in(folder):
    """An environment in which modules of a folder stand in the place of installed ones."""
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def test_the_module_runs_the_program(tmp_path):
    found = program("inspect", "missing.fly", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("flyweight: missing.fly")
    assert found.stderr.count("\n") == 1


def test_version_and_help_do_not_import_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ValueError('imported')")
    environment = with_modules_in(tmp_path)
    assert program("--version", env=environment).stdout.startswith("flyweight ")
    assert "Usage" in program("compress", "-h", env=environment).stdout
    environment |= {"_FLYWEIGHT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    words = {"COMP_WORDS": "flyweight dec"}
    assert program(env=environment | words).stdout.split() == ["decompress"]


@pytest.mark.parametrize("module", ["torch", "typer", "rich"])
def test_ctrl_c_during_imports_gives_no_traceback(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    environment = with_modules_in(tmp_path)
    (tmp_path / "a.fly").write_bytes(b"")
    found = program("inspect", str(tmp_path / "a.fly"), env=environment)
    if module != "rich":
        assert found.returncode == 130
        assert found.stderr in ("flyweight: stopped\n", "\nflyweight: stopped\n")
    assert "Traceback" not in found.stderr


def test_completion_knows_commands_and_options():
    environment = {**os.environ, "_FLYWEIGHT_COMPLETE": "complete_bash"}
    words = {"COMP_WORDS": "flyweight dec", "COMP_CWORD": "1"}
    assert program(env={**environment, **words}).stdout.split() == ["decompress"]
    words = {"COMP_WORDS": "flyweight inspect --pe", "COMP_CWORD": "2"}
    assert program(env={**environment, **words}).stdout.split() == ["--peers"]
