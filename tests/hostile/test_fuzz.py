"""A short run of the fuzz, and of its own checks."""

from __future__ import annotations

import numpy as np
import pytest
from cases import KINDS, Case, case
from fuzz import run_cases
from judge import Judge


def test_readers_refuse_or_read_two_thousand_hostile_files():
    total = run_cases(0, range(2000))
    assert total.findings == []
    assert total.cases == 2000
    for kind, (share, _) in KINDS.items():
        for outcome in (True, False):
            found = sum(n for (k, _, o), n in total.outcomes.items() if (k, o) == (kind, outcome))
            assert found or share < 1, (kind, outcome)


def test_case_is_determined_by_its_number():
    assert [case(0, number) for number in range(60)] == [case(0, number) for number in range(60)]
    assert case(0, 5) != case(1, 5)


def test_judge_reads_what_is_sound(tmp_path):
    Judge(tmp_path).start()


@pytest.mark.parametrize(
    ("work", "finding"),
    [
        (lambda: {}["a"], "KeyError"),
        (lambda: np.zeros(9 << 20, np.uint8), "times the 10 bytes"),
        (lambda: np.uint8(255) + np.uint8(1), "RuntimeWarning"),
    ],
)
def test_judge_finds_each_fault(work, finding, tmp_path):
    judge = Judge(tmp_path)
    judge._array = lambda _: judge._attempt("decode", lambda: 10, work)
    judge.judge(32, "arrays", Case("array", b""))
    ((number, found),) = judge.tally.findings
    assert number == 32
    assert finding in found
