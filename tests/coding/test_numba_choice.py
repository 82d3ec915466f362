"""When compiled loops are taken."""

import sys

import pytest

from flyweight.coding.numba_choice import loops_for

LOOPS = "flyweight.coding.context.kernels"


@pytest.fixture
def loops():
    pytest.importorskip("numba")
    return loops_for(LOOPS, 0, True)


def test_many_values_start_numba(loops, monkeypatch):
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.delitem(sys.modules, LOOPS)
    assert loops_for(LOOPS, 1_999_999) is None
    monkeypatch.undo()
    assert loops_for(LOOPS, 2_000_000) is loops


def test_fewer_take_loops_where_numba_was_started(loops, monkeypatch):
    monkeypatch.delitem(sys.modules, LOOPS)
    assert loops_for(LOOPS, 49_999) is None
    assert loops_for(LOOPS, 50_000).__name__ == LOOPS


def test_few_take_loops_that_are_there(loops):
    assert loops_for(LOOPS, 1_999) is None
    assert loops_for(LOOPS, 2_000) is loops


def test_loops_are_wanted_or_forbidden_whatever_the_count(loops):
    assert loops_for(LOOPS, 1, True) is loops
    assert loops_for(LOOPS, 1 << 30, False) is None


def test_without_numba_there_are_none(monkeypatch):
    monkeypatch.delitem(sys.modules, LOOPS, raising=False)
    monkeypatch.delitem(sys.modules, "flyweight.coding.numba_compiler", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert loops_for(LOOPS, 1 << 30) is None
    with pytest.raises(ImportError):
        loops_for(LOOPS, 1 << 30, True)
