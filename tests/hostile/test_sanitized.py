"""The C decoders, built with sanitizers, on all hostile and golden files and mutations of them."""

import subprocess

import pytest
from corpus import write_seeds
from sanitized import build_program


def test_decoders_withstand_mutations_under_sanitizers(tmp_path):
    try:
        program = build_program("replay.c")
    except OSError as error:
        pytest.skip(f"no sanitized build: {error}")
    write_seeds(tmp_path)
    files = sorted(tmp_path.iterdir())
    run = subprocess.run([program, "100", *files], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout == f"{101 * len(files)} cases\n"
