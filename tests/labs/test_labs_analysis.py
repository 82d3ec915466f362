"""The figures of pruning: measured once, drawn by one command, shown in the documents."""

import re

import pytest

from benchmarks.report import read_rows
from labs import analysis


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    """The folder of the lab, and how often its data were loaded."""
    folder, data, loads = borrowed(analysis, noise(100)), noise(100), []
    monkeypatch.setattr(analysis, "load_cifar10", lambda path: loads.append(path) or data)
    monkeypatch.setattr(analysis, "SPARSITIES", (0.0, 0.95))
    return folder, loads


def test_what_is_missing_is_measured_and_figures_are_drawn(scratch):
    folder, loads = scratch
    analysis.main(["--images", "10", "--device", "cpu"])
    rows = read_rows("sensitivity", folder)
    assert len(rows) == 20 * 2
    assert {row["images"] for row in rows} == {"10"}
    assert [row["way"] for row in read_rows("allocation", folder)] == [
        "the same in each layer",
        "one threshold",
        "by the scan",
    ]
    assert all(
        float(row["sparsity"]) == pytest.approx(0.8, abs=1e-3)
        for row in read_rows("allocation", folder)
    )
    assert "| by the scan | 80.0" in (folder / "pruning.md").read_text()
    drawn = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    assert len(drawn) == 5
    before = len(loads)
    for path in folder.glob("*.svg"):
        path.unlink()
    analysis.main(["--images", "10"])
    assert len(loads) == before  # nothing is measured again
    assert {path.name: path.read_bytes() for path in folder.glob("*.svg")} == drawn


def test_the_document_shows_every_figure_and_none_is_large():
    text = analysis.DOCUMENT.read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]+\]\((.+?)\)", text)
    files = {(analysis.DOCUMENT.parent / link).resolve() for link in shown}
    names = {"layers", "filters-single", "filters-whole", "sensitivity", "allocation"}
    assert files == {(analysis.RESULTS / f"{name}.svg").resolve() for name in names}
    assert all(1000 < path.stat().st_size < 200_000 for path in files)
