"""The shipped network as teacher of all rows, each of its answers computed once."""

from __future__ import annotations

from flyweight.training import TeacherTable
from labs.dense import load_pretrained
from labs.rows import STATES

__all__ = ["dense_teacher"]


def dense_teacher() -> TeacherTable:
    """The dense ResNet-20 of the labs; what it said is kept beside the states of the labs."""
    return TeacherTable(STATES / "teacher-table.sqlite", load_pretrained("resnet20"))
