"""The examples run and reach what they say."""

import runpy
import warnings
from pathlib import Path

import pytest

from flyweight import summary

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_loop(capsys):
    runpy.run_path(str(EXAMPLES / "own_loop.py"))
    lines = capsys.readouterr().out.splitlines()
    assert "sparsity 0.900" in lines[9]
    assert float(lines[9].rpartition(" ")[2]) > 0.97
    assert lines[-1].split()[0] == "total"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("package", "name"),
    [("transformers", "huggingface_trainer"), ("pytorch_lightning", "lightning_callback")],
)
def test_callbacks(package, name):
    pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        pruned = example["main"]()
    assert summary(pruned).sparsity == pytest.approx(0.5, abs=0.002)
