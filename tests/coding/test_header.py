"""Headers: outlines of every form come back, and each defect is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyweight.coding.header import Outline, open_header, pack_header
from flyweight.errors import FormatError

FIELDS = {"dtype": "float32", "storage": "float16"}


def shared(name, rows=3, levels=2, coder="huffman", **lengths):
    lengths = {"tables": 1, "codebook": 2 * levels, "symbols": 5} | lengths
    kind = {"encoding": "shared", "coder": coder, "levels": levels, "lengths": lengths}
    return Outline(name=name, shape=(rows, 4), **FIELDS, **kind)


def dense(name, coder, **lengths):
    return Outline(
        name=name, shape=(3, 4), **FIELDS, encoding="dense", coder=coder, lengths=lengths
    )


def outlines():
    """Return outlines of every form, groups among them."""
    own = {"codebook": 4}
    tensors = [
        shared("a.w"),
        shared("a.x", coder="rans", scales=6, offsets=6),
        shared("b.w", coder="context", scales=6),
        dense("b.raw", "raw", dense=24),
        dense("planes", "planes", dense=300),
        dense("a.sparse", "sparse", tables=3, positions=200, dense=7),
        dense("a.matches", "matches", dense=1 << 40),
        replace(dense("one", "raw", dense=2), encoding="constant"),
        replace(dense("zero", "raw", dense=0), encoding="constant"),
        Outline(name="tied", shape=(3, 4), dtype="float32", storage="float32", encoding="alias",
                coder="raw", target=1, lengths={}),
        replace(shared("a.y", 5), lengths=own, first=0),
        replace(dense("", "planes"), shape=(9, 4), first=4),
    ]  # fmt: skip
    return tensors + [shared(f"{block}.w", levels=block % 2) for block in range(20)]


@pytest.mark.parametrize("bare", [False, True])
def test_open_header_restores_outlines_of_every_form(bare):
    tensors = outlines()
    metadata = {"architecture": "x", "a": "", "zoé": "用"}
    header = open_header(pack_header(tensors, metadata, bare=bare), bare=bare)
    assert header.metadata == metadata
    assert list(header.metadata) == sorted(metadata)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    assert header.outlines(shapes if bare else None) == tensors
    if bare:
        with pytest.raises(FormatError, match="give that"):
            header.outlines()
        for other in ({**shapes, "a.w": (3, 5)}, {**shapes, "more": ()}, {}):
            with pytest.raises(FormatError, match="another architecture"):
                header.outlines(other)


def test_header_repeats_kinds_in_few_bytes():
    tensors = [shared(f"{block}.{part}", levels=len(part)) for block in range(50) for part in "wvu"]
    assert len(pack_header(tensors, {})) < 150 * 9


@pytest.mark.parametrize("cut", range(3))
def test_open_header_refuses_any_cut_header(cut):
    raw = pack_header(outlines(), {"k": "v"})
    for length in range(cut, len(raw), 3):
        with pytest.raises(FormatError, match=r"cut short|states"):
            open_header(raw[:length]).outlines()


def test_open_header_refuses_wrong_groups():
    first, member = shared("a"), replace(shared("b"), lengths={"codebook": 4}, first=0)
    for tensors, message in [
        ([member], "'b' belongs to no group"),
        ([replace(first, shape=(3, 5)), member], "'b' belongs to no group"),
        ([first, replace(member, shape=(0, 4))], "'b' belongs to no group"),
        ([replace(first, shape=(0, 4)), member], "'b' belongs to no group"),
        ([first, replace(member, shape=(1 << 18, 4))], "'b' makes its group too large"),
    ]:
        with pytest.raises(FormatError, match=message):
            open_header(pack_header(tensors, {})).outlines()


def test_open_header_takes_the_last_group_of_a_kind():
    tensors = [shared("a"), shared("b"), replace(shared("c"), lengths={"codebook": 4}, first=1)]
    assert open_header(pack_header(tensors, {})).outlines() == tensors
