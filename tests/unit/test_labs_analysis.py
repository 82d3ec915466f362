"""The figures of pruning: measured once, drawn by one command, shown in the documents."""

import re

import pytest
import torch

from benchmarks.report import read_rows
from flyweight.data import Cifar10, Split
from labs import analysis


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Results and document in a folder of their own, and noise for data."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = Split(pixels.repeat(26, 1, 1, 1)[:5100], torch.arange(5100) % 10)
    data = Cifar10(train, Split(pixels[:20], torch.arange(20) % 10))
    loads = []
    monkeypatch.setattr(analysis, "load_cifar10", lambda path: loads.append(path) or data)
    monkeypatch.setattr(analysis, "RESULTS", tmp_path)
    monkeypatch.setattr(analysis, "SPARSITIES", (0.0, 0.95))
    monkeypatch.setattr(analysis, "DOCUMENT", tmp_path / "pruning.md")
    text = "before\n<!-- results: python -m labs.analysis -->\n<!-- end of results -->\nafter\n"
    (tmp_path / "pruning.md").write_text(text)
    return tmp_path, loads


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
