"""The lab of int8 in onnxruntime, on a few images of noise."""

import pytest
import torch

from benchmarks.report import read_rows

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from labs import int8 as lab


@pytest.fixture
def scratch(borrowed, noise, monkeypatch):
    monkeypatch.setattr(lab, "BATCHES", (1, 2))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return borrowed(lab, noise(100, tested=40))


def test_files_are_measured_in_the_runtime_that_they_are_for(scratch):
    lab.main(["--images", "64", "--repeats", "1"])
    rows = {row["network"]: row for row in read_rows("int8", scratch)}
    torch_row, float_row, safe, wide = rows.values()
    assert torch_row["accuracy"] == float_row["accuracy"]
    assert torch_row["file_bytes"] == ""
    for row in (safe, wide):
        assert 270_000 < int(row["file_bytes"]) < int(float_row["file_bytes"]) / 3
        assert row["accuracy_simulated"]
    # An answer may change by rounding, but not more than here and there.
    assert abs(float(safe["accuracy"]) - float(safe["accuracy_simulated"])) < 0.06
    assert all(float(row["ms_batch_2"]) > 0 for row in rows.values())
    assert "VNNI" in safe["instructions"]
    text = (scratch / lab.DOCUMENT.name).read_text(encoding="utf-8")
    assert "| int8, weights to ±63, ONNX |" in text


def test_rows_of_another_machine_stay(scratch, monkeypatch):
    def measured(time, instructions):
        row = {"network": "fp32", "accuracy": "0.9", "accuracy_simulated": "", "file_bytes": ""}
        row |= {f"ms_batch_{size}": time for size in lab.BATCHES} | {"instructions": instructions}
        row |= dict.fromkeys(("repeats", "calibration_images", "seed", "commit"), "1")
        return [row | {"onnxruntime": "1", "device": "CPU"}]

    for time, instructions in (("1", "AVX2"), ("2", "VNNI"), ("3", "AVX2")):
        rows = measured(time, instructions)
        monkeypatch.setattr(lab, "rows_of", lambda *_, rows=rows: rows)
        lab.main([])
    assert [row["ms_batch_1"] for row in read_rows("int8", scratch)] == ["2", "3"]
    text = (scratch / lab.DOCUMENT.name).read_text(encoding="utf-8")
    assert text.count("| fp32 | 90.00 % |") == 2


def test_ranges_are_measured_on_training_images_drawn_by_the_seed(scratch):
    data = lab.load_cifar10(None)
    batches = lab.calibration(data, 100, 3)
    assert [len(batch) for batch in batches] == [64, 36]
    assert torch.equal(lab.calibration(data, 100, 3)[1], batches[1])
    assert not torch.equal(lab.calibration(data, 100, 4)[1], batches[1])
