"""The documentation: links, the generated API page, and names in the changelog."""

import copy
import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from docs import api

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
TERMS = (
    "prune",
    "mask",
    "criterion",
    "schedule",
    "quantize",
    "k-means",
    "fixed point",
    "QAT",
    "LSQ",
    "PTQ",
    "calibration",
    "GPTQ",
    "distillation",
    "Huffman",
    "rANS",
    "codebook",
)
OLD_WORDS = re.compile("few values|anew|shrink|sharing recipe", re.IGNORECASE)


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_api_page_is_up_to_date():
    assert api.PAGE.read_text(encoding="utf-8") == api.page(), "run python -m docs.api"


def test_api_page_has_every_room():
    rooms = {
        path.stem if path.is_file() else path.name
        for path in api.SOURCE.iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }
    assert rooms == {*api.ROOMS}


@pytest.mark.parametrize("room", ["", *api.ROOMS])
def test_every_public_name_has_description(room):
    missing = [item.name for item in api.entries(room) if not item.summary]
    assert missing == [name for name in missing if name == "__version__"]


def test_index_links_each_term_to_one_section():
    rows = dict(re.findall(r"^\| (.+?) \| \[.+?\]\(#(.+?)\)", api.index_of_terms(), re.MULTILINE))
    assert {*TERMS} <= {*rows}
    assert {*rows.values()} <= anchors(api.PAGE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def test_index_links_every_page():
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in text, page.name


def renamed(title):
    """Names in the right column of a table of the changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    table = text.partition(f"{title}:\n\n")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[-1] for row in table.splitlines()[2:]]
    assert cells
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    return [name.partition("(")[0] for name in names]


def test_changelog_names_public_functions_that_exist():
    for name in renamed("Public functions and classes"):
        module, _, leaf = name.rpartition(".")
        found = importlib.import_module(f"flyweight.{module}".rstrip("."))
        assert hasattr(found, leaf), name


def test_changelog_names_modules_that_exist():
    for name in renamed("Modules"):
        importlib.import_module(f"flyweight.{name}")


def test_text_has_no_words_of_the_old_glossary():
    paths = [*api.SOURCE.rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in paths
        for match in [OLD_WORDS.search(path.read_text(encoding="utf-8"))]
        if match
    ]
    assert found == []


@pytest.mark.parametrize("name", ["pruning", "quantization", "proximal"])
def test_examples_of_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, 8, 3))
    model.add_module("norm", nn.BatchNorm2d(8))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("linear", nn.Linear(8, 4))
    inputs = torch.randn(64, 3, 8, 8)
    loader = [*zip(inputs.split(16), torch.randint(4, (64,)).split(16), strict=True)]
    names = {
        "torch": torch,
        "model": model,
        "loader": loader,
        "batches": [inputs],
        "dataset": [*zip(inputs, torch.randint(4, (64,)), strict=True)],
        "dense": copy.deepcopy(model),
        "epochs": 5,
        "weight": model.linear.weight,
        "accuracy": lambda model: 0.5,
    }
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    text = text.replace("target_bytes=20_000", "target_bytes=350")  # which this model can have
    text = text.replace("target_bytes=24_000", "target_bytes=420")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "onnx" in block:
            pytest.importorskip("onnx")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of the exporter
            exec(block, names)
