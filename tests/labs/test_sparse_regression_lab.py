"""The lab of sparse regression: its numbers, its document and its figures."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.report import END
from flyweight.sparse_regression import fista
from labs.sparse_regression import __main__ as lab
from labs.sparse_regression import cases, figures

REFERENCE = json.loads(
    (
        Path(__file__).parents[1] / "sparse_regression" / "sparse_regression_reference.json"
    ).read_text()
)
FOLDER = lab.RESULTS / "sparse_regression"


def test_json_holds_every_case(capsys):
    lab.main(["--json"])
    found = json.loads(capsys.readouterr().out)
    assert [case["part"] for case in found["cases"]] == ["b", "c"] + ["d"] * 4 + ["e"] * 4 + [
        "f"
    ] * 4
    assert found["lipschitz_constant"] == pytest.approx(31.967062)
    case = found["cases"][-1]
    assert (case["loss"], case["exact_zeros"]) == (pytest.approx(5.858286575e-18), 3)
    assert np.shape(case["weights"]) == (201, 5)
    assert case["supports"] == [[1, [0, 1]], [17, [1, 4]]]


def test_the_document_is_what_the_command_writes():
    text = lab.DOCUMENT.read_text(encoding="utf-8")
    mark = "<!-- results: python -m labs.sparse_regression -->\n"
    written = text.partition(mark)[2].partition(f"\n{END}")[0]
    assert written == lab.report(cases.cases()).strip()
    linked = re.findall(r"\]\((\.\./labs/[^)]*)\)", text)
    assert len(linked) == 9
    for link in linked:
        path = lab.DOCUMENT.parent / link
        assert path.is_file()
        assert path.with_suffix(".png").is_file()


def test_the_figures_are_small_and_legible():
    for letter in "bcdef":
        text = (FOLDER / f"{letter}.svg").read_text(encoding="utf-8")
        for words in ("step k", "log scale", "unit of y / unit of X", "w₅"):
            assert words in text
    for path in FOLDER.iterdir():
        assert path.stat().st_size < 350_000
    with Image.open(FOLDER / "b.png") as image:
        assert image.width > 800


def test_every_figure_is_drawn_by_the_command(tmp_path):
    figures.draw_all(cases.cases(), tmp_path / "new")
    drawn = {path.name for path in (tmp_path / "new").iterdir()}
    assert drawn == {path.name for path in FOLDER.iterdir()}
    assert len(drawn) == 18


@pytest.mark.parametrize("strength", [0.05, 2.0, 6.9, 7.0, 15.0, 22.0, 30.0])
def test_the_closed_form_is_where_fista_ends(strength):
    history = fista(cases.X, cases.Y, step=0.02, steps=20_000, strength=strength, tolerance=1e-15)
    np.testing.assert_allclose(history.weights[-1], cases.converged(strength), atol=1e-11)


@pytest.mark.parametrize("strength", ["1.0", "2.0", "5.0", "10.0"])
def test_choosing_on_the_old_vector_meets_the_reference(strength):
    expected = REFERENCE["f_trimmed_before"][strength]
    history = cases.trimmed_on_old(float(strength))
    assert history.loss[-1] == pytest.approx(expected["final_L"], rel=1e-6)
    np.testing.assert_allclose(history.weights[-1], expected["final_W"], rtol=1e-6, atol=0)
    changes = [(step, tuple(support)) for step, support in expected["support_changes"]]
    assert history.support_changes == changes
