"""The benchmarks run on small sizes, without peers, and write their tables."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import (
    aims,
    coders,
    forms,
    hostile,
    kmeans,
    lossless,
    masking,
    opening,
    peers,
    redundant,
    report,
    threads,
)
from benchmarks.checkpoints import outlines, write_checkpoint
from benchmarks.codecs import Codec, Timing, measure
from benchmarks.report import DOCS, END
from benchmarks.weights import Layer, layers_of
from flyweight import save
from flyweight.checkpoints import compress_checkpoint

STANDALONE = {"nncodec_peer"}  # runs in an environment that flyweight is not in
TABLES = ("aims", "coders", "threads", "lossless", "redundant", "forms", "checkpoints", "opening")
TABLES += ("hostile", "kmeans", "masking")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Results and document in a folder of their own."""
    document = tmp_path / "benchmarks.md"
    document.write_text(DOCS.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "DOCS", document)
    return document


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No peer is installed but those of the standard library."""
    names = ["brotli", "constriction", "openzl", "openzl.ext", "zipnn", "zstandard"]
    for name in [*names, "flash1dkmeans", "kmeans1d", "sklearn", "sklearn.cluster"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(peers, "NNCODEC_PYTHON", tmp_path / "none")
    monkeypatch.setattr(peers, "HTSCODECS", "none.so")


def test_every_module_imports_without_the_peers(alone):
    names = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - STANDALONE
    assert set(TABLES) < names
    for name in names:
        assert callable(getattr(importlib.import_module(f"benchmarks.{name}"), "main", callable))


def test_the_document_has_a_place_for_each_table():
    text = DOCS.read_text(encoding="utf-8")
    for name in TABLES:
        assert text.count(f"<!-- results: python -m benchmarks.{name} -->") == 1
    assert text.count(END) == len(TABLES)


def test_coders_round_trip_and_write_rows_and_table(scratch, alone, capsys):
    arguments = ["--symbols", "2000", "--repeats", "1", "--sets", "a", "b"]
    coders.main(arguments)
    rows = report.read_rows("coders")
    assert [row["set"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert {row["coder"] for row in rows} == {
        "flyweight huffman",
        "flyweight rans",
        "flyweight context",
        "xz -6",
    }
    assert all(float(row["decode_msym_s"]) > 0 for row in rows)
    text = scratch.read_text(encoding="utf-8")
    assert coders.table(rows) in text
    said = capsys.readouterr().out
    assert "nncodec is left out" in said
    assert "htscodecs is left out" in said
    coders.main(arguments)
    again = scratch.read_text(encoding="utf-8")
    assert again.count("Set a:") == 1
    assert again.count(END) == len(TABLES)


def test_lossless_and_threads_write_rows(scratch, alone):
    lossless.main(["--values", "5000", "--repeats", "1", "--sets", "gaussian"])
    threads.main(["--symbols", "3000", "--repeats", "1", "--seconds", "0.05"])
    dtypes = [row["dtype"] for row in report.read_rows("lossless")]
    assert dtypes == ["float32"] * 3 + ["bfloat16"] * 3
    rows = report.read_rows("threads")
    assert len(rows) == 6
    assert 0 < float(rows[0]["two_processes_ratio"]) < 20
    written, before = (path.read_text(encoding="utf-8") for path in (scratch, DOCS))
    assert "\n3,000 symbols a set;" in written
    mark = "<!-- results: python -m benchmarks.checkpoints -->"
    assert written.partition(mark)[2][:500] == before.partition(mark)[2][:500]


def test_files_of_redundant_tensors_come_back(scratch):
    redundant.main(["--scale", "16"])
    rows = {row["tensor"]: row for row in report.read_rows("redundant")}
    assert rows["STFT basis"]["shape"] == "16x1x16"
    assert all(int(row["fly_bytes"]) < 100 + int(row["raw_bytes"]) for row in rows.values())
    assert redundant.table([*rows.values()]) in scratch.read_text(encoding="utf-8")


def test_opening_is_timed_in_a_fresh_process(scratch):
    opening.main(["--processes", "1"])
    (row,) = report.read_rows("opening")
    assert 0 < float(row["load_ms"]) <= float(row["slowest_load_ms"])


def test_hostile_files_are_loaded_or_refused(tmp_path):
    found = dict(hostile.cases(3000)) | dict(hostile.many(30_000))
    names = {"aliases.fly", "many aliases, long names", "constant", "rANS, uint8"}
    assert names < set(found)
    path, warm = tmp_path / "a.fly", tmp_path / "warm.fly"
    save(torch.nn.Linear(64, 64), warm)
    for name, data in found.items():
        assert len(data) <= (30_000 if name.startswith("many") else 3000) or name.endswith(".fly")
        path.write_bytes(data)
        result = hostile.work(path, warm)
        assert result.outcome in (("loaded", "refused") if name.endswith(".fly") else ("loaded",))
        assert result.declared >= len(data)
    path.write_bytes(found["constant"][:-1])
    assert hostile.work(path, warm).outcome == "refused"
    assert hostile.module_of(warm)[1] == 2


def test_forms_of_a_checkpoint_are_counted(tmp_path):
    state = {"a.weight": torch.randn(64, 70), "a.bias": torch.zeros(64)}
    source = tmp_path / "a.pt"
    torch.save(state, source)
    rows = forms.rows_of(forms.PACKAGES[0], source, tmp_path)
    exact = [(row["form"], row["tensors"], row["elements"]) for row in rows if row["way"] == "save"]
    assert exact == [("constant", 1, 64), ("dense, planes", 1, 64 * 70)]
    assert any(row["form"].startswith("shared") for row in rows if row["way"] == "--bits 4")
    assert "| constant | `save` | 1 | 1 | 64 |" in forms.table(rows)


def test_kmeans_is_told_with_its_error_over_the_optimum(scratch, alone):
    kmeans.main(["--values", "3000", "--clusters", "4", "8", "--repeats", "2", "--sets", "laplace"])
    rows = report.read_rows("kmeans")
    assert [row["clusters"] for row in rows] == ["4"] * 5 + ["8"] * 5
    assert {row["method"].partition(", ")[0] for row in rows} == {"flyweight"}
    over = {(row["method"], row["clusters"]): float(row["over_least_percent"]) for row in rows}
    assert over["flyweight, optimal", "4"] == over["flyweight, optimal", "8"] == 0
    assert max(over.values()) > 0.01
    errors = [float(row["squared_error"]) for row in rows if row["method"].endswith("optimal")]
    assert errors[0] > 2 * errors[1] > 0
    assert kmeans.table(rows) in scratch.read_text(encoding="utf-8")
    assert aims.judged(aims.AIMS[-1])[2:] == ("0.0000 %", "yes")


def test_the_squared_error_is_that_of_the_nearest_centroid():
    values = np.array([0.0, 1.0, 4.0, 6.0], dtype=np.float32)
    assert kmeans.squared_error(values, [[5.0], [0.5]]) == 2.5
    sizes = [values.size for values in kmeans.tensors_of("resnet20", 0)]
    assert (len(sizes), sum(sizes)) == (20, 268_336)


def test_signed_values_are_in_the_order_of_the_levels():
    layer = Layer(np.array([[0, 1, 2], [3, 4, 0]], dtype=np.uint8), 5, 2)
    assert layer.values.tolist() == [[0, -2, -1], [1, 2, 0]]


def test_htscodecs_gives_symbols_back():
    if not (codecs := peers.htscodecs()):
        pytest.skip("libhtscodecs is not installed")
    layers = layers_of("b", 5000)
    (timing,) = measure(codecs, layers, coders.same, 1).values()
    assert 400 < timing.size < 700


def test_scikit_learn_does_the_same_work():
    pytest.importorskip("sklearn")
    found = kmeans.methods()["scikit-learn KMeans"](np.array([0, 1, 8, 9], dtype="f4"), 2, 0)
    assert sorted(found.ravel().tolist()) == [0.5, 8.5]


def test_a_codec_that_loses_a_symbol_is_refused():
    layers = layers_of("b", 100)
    lossy = Codec("lossy", lambda layers: [b""], lambda blobs, layers: [layers[0].symbols * 0])
    with pytest.raises(RuntimeError, match="lossy does not give back"):
        measure([lossy], layers, coders.same, 1)


def test_a_slow_codec_is_run_once():
    ran = []
    slow = Codec("slow", lambda data: ran.append(1) or [b"12"], lambda blobs, data: data)
    timing = measure([slow], None, lambda *both: True, 5, longest=0.0)["slow"]
    assert (len(ran), timing.repeats, timing.size) == (1, 1, 2)


def test_aims_are_judged_by_the_worst_set(scratch):
    assert {aims.judged(aim)[2:] for aim in aims.AIMS} == {("not measured", "")}
    layers = layers_of("b", 100)
    ours, theirs = (Timing(*numbers, 3) for numbers in ((10, 1e-5, 1e-5), (9, 4e-5, 5e-6)))
    timings = {"flyweight context": ours, "nncodec DeepCABAC, default": theirs}
    rows = coders.rows_of("minilm", layers, timings)
    rows += coders.rows_of("minilm-sparse", layers, timings | {"nncodec DeepCABAC, best": ours})
    report.write_rows("coders", rows)
    size, decode, decode_fastest, encode, encode_fastest = (
        aims.judged(aim)[2:] for aim in aims.AIMS[2:7]
    )
    assert size == ("1.1111 x", "no")
    assert decode == decode_fastest == ("0.50 x", "no")
    assert encode == ("4.00 x", "yes")
    assert encode_fastest == ("1.00 x", "no")
    aims.main()
    assert "| 1.1111 x | no |" in scratch.read_text(encoding="utf-8")


def test_a_document_without_marks_is_refused(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("nothing\n")
    with pytest.raises(ValueError, match=r"no marks for the results of benchmarks\.coders"):
        report.put_table("coders", "| |", document)
    assert document.read_text() == "nothing\n"


def test_rows_are_added_and_replaced(scratch):
    report.append_rows("tiny", [{"a": 1, "b": "x, y"}])
    report.append_rows("tiny", [{"a": 2, "b": ""}])
    assert report.read_rows("tiny") == [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]
    report.write_rows("tiny", [{"a": 3}])
    assert report.read_rows("tiny") == [{"a": "3"}]


def test_tables_line_up_text_and_numbers():
    assert report.markdown([":name", "size"], [("x", 1), ("", 2)]) == (
        "| name | size |\n|---|---:|\n| x | 1 |\n| | 2 |"
    )


def test_the_synthetic_checkpoint_is_a_checkpoint_of_the_size_asked_for(tmp_path):
    shapes = list(outlines(1.0))
    assert 0.95e9 < sum(2 * np.prod(shape) for _, shape in shapes) < 1.05e9
    small = [(name, tuple(extent // 16 for extent in shape)) for name, shape in shapes[:6]]
    write_checkpoint(tmp_path / "in.safetensors", small)
    source, target = tmp_path / "in.safetensors", tmp_path / "x.fly"
    written = compress_checkpoint(source, target, bits=4, effort="fast")
    assert written.quantized == 6


def test_the_peer_that_stands_alone_says_what_it_lacks():
    done = subprocess.run(
        [sys.executable, "benchmarks/nncodec_peer.py", "none.npz", "1"],
        capture_output=True,
        text=True,
        cwd=DOCS.parents[1],
    )
    assert done.returncode == 1
    assert "nncodec is not installed" in done.stderr


def test_masks_are_told_against_the_dense_loop(scratch, capsys):
    rows = masking.rows_of({"dense": [0.2, 0.1, 0.3], "masks": [0.22]}, torch.device("cpu"))
    assert [row["over_dense_percent"] for row in rows] == ["0.0", "10.0"]
    assert "| masks | 220.0 | 220.0 | 10.0 % |" in masking.table(rows)
