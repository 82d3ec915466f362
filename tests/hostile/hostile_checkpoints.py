"""Hostile checkpoints: damaged safetensors files and indices of shards."""

from __future__ import annotations

import json
from random import Random

from corpus import checkpoint
from mutations import mutated

__all__ = ["damaged_checkpoint", "damaged_index"]

_ODD = (
    *(None, True, -1, 1.5, 0, 1, 3, 12, 1 << 31, (1 << 63) - 1, 1 << 64, 10**4000, float("nan")),
    *("", "F32", "U8", "x" * 300, "a\0b", "\ud800", "..", "/"),
    *([], [0], [0, 0], [0, 12], [1] * 70, [0, 1 << 62, 1 << 62], [[]], {}, {"dtype": "F32"}),
    [10**4000] * 90,
)


def _odd_json(random: Random, document: object) -> object:
    """A document with something odd in one place."""
    if not isinstance(document, dict) or not document or random.random() < 0.05:
        return random.choice(_ODD)
    key = random.choice([*document])
    change = random.randrange(8)
    if change == 0:
        return {name: value for name, value in document.items() if name != key}
    if change == 1:
        return document | {str(random.choice(_ODD))[:50]: document[key]}
    return document | {key: _odd_json(random, document[key])}


def _damaged(random: Random, text: bytes) -> bytes:
    if random.random() < 0.8:
        text = json.dumps(_odd_json(random, json.loads(text))).encode("ascii")
    return mutated(random, text, b"[" * 2000 + text) if random.random() < 0.3 else text


def damaged_checkpoint(random: Random) -> bytes:
    """A damaged checkpoint: any of its bytes, or what its header says."""
    data = checkpoint()
    length = int.from_bytes(data[:8], "little")
    text, values = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.2:
        return mutated(random, data, text)
    text = _damaged(random, text)
    return len(text).to_bytes(8, "little") + text + values


def damaged_index(random: Random) -> bytes:
    """A damaged index of shards; beside it lies one sound shard, ``a.safetensors``."""
    shards = dict.fromkeys(("a.weight", "a.bias", "b", "none"), "a.safetensors")
    index = {"metadata": {"total_size": 38, "note": "x"}, "weight_map": shards}
    return _damaged(random, json.dumps(index).encode("ascii"))
