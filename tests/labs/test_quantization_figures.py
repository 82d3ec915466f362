"""The figures of quantization: drawn from the rows there are, and shown in the document."""

import re

import pytest

from benchmarks.report import read_rows
from labs import quantization_figures as lab
from labs.quantization import DOCUMENT


@pytest.fixture
def rows():
    before = {"quantized_accuracy": "0.5", "quantized_bytes": "1000"}
    after = {"trained_accuracy": "", "trained_bytes": ""}
    return [
        {"row": name, "dense": "0.9", **before, **after}
        for name in (
            "kmeans 2 k-means++",
            "fixed symmetric 4",
            "fixed symmetric 4 per channel",
            "fixed ternary",
            "sparse symmetric 4",
        )
    ]


def test_rows_are_found_by_scheme_and_bits(rows):
    (kmeans,), (symmetric, ternary) = (lab.points_of(rows, kind) for kind in ("kmeans", "fixed"))
    assert (ternary.scheme, ternary.bits) == ("ternary", 2)
    assert (kmeans.scheme, kmeans.bits, kmeans.file_bytes) == ("k-means++", 2, 1000)
    assert (symmetric.scheme, symmetric.bits, symmetric.accuracy) == ("symmetric", 4, 0.5)
    assert len(lab.points_of(rows, "channels")) == len(lab.points_of(rows, "sparse")) == 1
    assert not any(lab.points_of(rows, kind) for kind in lab.FIGURES if "trained" in kind)
    rows[1] |= {"trained_accuracy": "0.8", "trained_bytes": "900"}
    (trained,) = lab.points_of(rows, "fixed-trained")
    assert (trained.accuracy, trained.file_bytes) == (0.8, 900)


def test_the_command_draws_every_figure_that_there_are_rows_for(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(lab, "read_rows", lambda name, folder: rows[:1])
    lab.main([])
    drawn = {path.stem for path in (tmp_path / "quantization").iterdir()}
    assert drawn == {"values", "errors", "kmeans"}
    errors = read_rows("quantization_errors", tmp_path)
    assert len(errors) == 40
    assert all(float(row["error"]) > 0 for row in errors)


def test_the_document_shows_every_figure_and_none_is_large():
    shown = re.findall(r"!\[[^]]+\]\((.+?)\)", DOCUMENT.read_text(encoding="utf-8"))
    own = [link for link in shown if "results/quantization/" in link]
    files = {(DOCUMENT.parent / link).resolve() for link in own}
    assert files == {path.resolve() for path in (lab.RESULTS / "quantization").glob("*.svg")}
    assert {path.stem for path in files} <= {"values", "errors", *lab.FIGURES}
    assert len(files) >= 4
    assert all(1000 < path.stat().st_size < 250_000 for path in files)
