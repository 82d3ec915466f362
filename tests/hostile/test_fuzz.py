"""A short run of the fuzz, and of its own checks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from cases import KINDS, Case, case
from corpus import grouped, seeds
from fuzz import run_cases
from judge import DECODERS, Judge
from sealing import sealed

from flyweight.format import loads

NEVER_REFUSED = ("dense", "constant")  # but for booleans, which are few


def test_readers_refuse_or_read_two_thousand_hostile_files():
    total = run_cases(0, range(2000))
    assert total.findings == []
    assert total.cases == 2000
    for decoder in DECODERS:
        assert total.accepted[decoder] > 0, decoder
        assert total.refused[decoder] > 0 or decoder in NEVER_REFUSED, decoder
    for kind, (share, _) in KINDS.items():
        if share > 1:
            assert total.kinds[kind, "accepted"] > 0, kind
            assert total.kinds[kind, "refused"] > 0, kind


def test_case_is_determined_by_its_number():
    assert [case(0, number) for number in range(60)] == [case(0, number) for number in range(60)]
    assert case(0, 5) != case(1, 5)


def test_sealed_matches_the_writer():
    for tensors in seeds().values():
        assert loads(sealed(tensors[:1])).tensors == tuple(tensors[:1])
    for tensors in grouped():
        assert loads(sealed(tensors)).tensors == tuple(tensors)


def work_for(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize(
    ("work", "finding"),
    [
        (lambda: {}["a"], "KeyError"),
        (lambda: np.zeros(9 << 20, np.uint8), "times the 10 bytes"),
        (lambda: work_for(1.1), "took 1.1 s"),
        (lambda: np.uint8(255) + np.uint8(1), "RuntimeWarning"),
    ],
)
def test_judge_finds_each_fault(work, finding, tmp_path):
    judge = Judge(tmp_path)
    judge._array = lambda _: judge._attempt("array of rans", 10, work)
    judge.judge(7, Case("arrays", "array", b""))
    ((number, found),) = judge.tally.findings
    assert number == 7
    assert finding in found


def test_judge_finds_decoders_that_disagree(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "judge.decode_rans", lambda *_, engine: np.zeros(9, np.uint16) + (engine == "numpy")
    )
    judge = Judge(Path(tmp_path))
    tensor = next(tensor for tensor in seeds()["rans"] if tensor.shape == (9,))
    judge.judge(3, Case("parts", "file", sealed([tensor])))
    assert [number for number, _ in judge.tally.findings] == [3]
