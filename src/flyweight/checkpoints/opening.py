"""Find the files of a checkpoint: one file, the shards of an index, or a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from flyweight.checkpoints.file_kinds import check_regular_file, checkpoint_kind, escaped
from flyweight.checkpoints.safetensors_files import open_safetensors
from flyweight.checkpoints.tensor_entries import Checkpoint, TensorEntry
from flyweight.checkpoints.torch_files import open_torch
from flyweight.errors import CheckpointError

__all__ = ["open_checkpoint"]

_INDEX = ".index.json"
_SHARD = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(\.\w+)")
_TORCH_NAMES = (
    "pytorch_model.bin",
    "model.bin",
    "adapter_model.bin",
    "diffusion_pytorch_model.bin",
)
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
# Files that training programs put beside the weights.
_TRAINING_STATE = (
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
)
_LARGEST_INDEX = 1 << 28  # bytes
_BLOCK = 1 << 20


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint for reading; only its headers are read.

    Args:
        path: a ``.safetensors`` file, a torch checkpoint of plain tensors (also nested under
            ``state_dict``, ``model`` or the like), the index of a sharded checkpoint, or a folder
            that holds one checkpoint of these.

    Returns:
        The tensors: those of the index in its order, then those of its shards that it lacks.

    Raises:
        CheckpointError: a file is damaged or is something else, a shard is missing, or a folder
            holds no checkpoint or several.
    """
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(
            f"source is a {type(path).__name__}; save it first, and give the path of the file"
        )
    path = Path(path)
    if str(path) != "-" and path.is_dir():
        return _open_folder(path)
    kind = checkpoint_kind(path)
    if kind == "index":
        return _open_index(path)
    return open_safetensors(path) if kind == "safetensors" else open_torch(path)


def _open_folder(folder: Path) -> Checkpoint:
    """Open the one checkpoint of a folder: an index, shards without one, or a single file."""
    files = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for suffix, names in (
        (".safetensors", [name for name in files if name.endswith(".safetensors")]),
        (".bin", [name for name in files if _SHARD.fullmatch(name) and name.endswith(".bin")]),
        ("", [name for name in files if name in _TORCH_NAMES]),
        ("", [name for name in files if _is_torch_weights(name)]),
    ):
        indexes = [name for name in files if suffix and name.endswith(suffix + _INDEX)]
        found = _candidates(folder, indexes, names)
        if len(found) == 1:
            (chosen,) = found.values()
            return chosen if isinstance(chosen, Checkpoint) else _open_shards(folder, chosen)
        if found:
            raise CheckpointError(
                f"{escaped(folder)} holds {len(found)} checkpoints ({_listed(found)}); name one"
            )
    within = sorted(str(found.relative_to(folder)) for found in folder.glob("*/*.safetensors"))
    where = f"; its sub-folders hold {_listed(within)}" if within else ""
    raise CheckpointError(
        f"{escaped(folder)} holds no safetensors checkpoints and no pytorch_model.bin{where}; "
        "name one file"
    )


def _is_torch_weights(name: str) -> bool:
    return name.endswith(_TORCH_SUFFIXES) and not name.startswith(_TRAINING_STATE)


def _candidates(
    folder: Path, indexes: list[str], names: list[str]
) -> dict[str, Checkpoint | list[str]]:
    """Return by name what a folder offers: opened indexes, and files that belong together."""
    found: dict[str, Checkpoint | list[str]] = {}
    taken: set[Path] = set()
    for name in indexes:
        opened = _open_index(folder / name)
        found[name] = opened
        taken |= set(opened.files)
    sets: dict[str, list[str]] = {}
    for name in names:
        if folder / name not in taken:
            match = _SHARD.fullmatch(name)
            sets.setdefault(f"{match[1]}-*-of-{match[3]}{match[4]}" if match else name, []).append(
                name
            )
    for pattern, shards in sets.items():
        match = _SHARD.fullmatch(shards[0])
        if match and len(shards) != int(match[3]):
            raise CheckpointError(
                f"{escaped(folder)} holds {len(shards)} of the {int(match[3])} shards "
                f"{escaped(pattern)}; copy the missing ones"
            )
    return found | sets


def _listed(names: Mapping[str, object] | list[str], most: int = 4) -> str:
    shown = [escaped(name) for name in list(names)[:most]]
    return ", ".join(shown) + (", …" if len(names) > most else "")


def _open_index(index: Path) -> Checkpoint:
    check_regular_file(index)
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError("it is too long")
        document = json.loads(index.read_text(encoding="utf-8"))
        places = {str(name): str(shard) for name, shard in document["weight_map"].items()}
        stated = document.get("metadata") or {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{escaped(index)} is not an index of shards; name the checkpoint itself"
        ) from error
    shards = sorted(set(places.values()))
    for shard in shards:
        parts = PurePosixPath(shard).parts
        if not parts or PurePosixPath(shard).is_absolute() or ".." in parts or "\0" in shard:
            raise CheckpointError(
                f"{escaped(index)} names the shard {shard!r}, which is outside its folder"
            )
        if not os.path.isfile(index.parent / shard):  # noqa: PTH113 - takes names of any length
            raise CheckpointError(
                f"{escaped(index)} names the shard {shard!r}, which is missing; copy it there"
            )
    checkpoint = _open_shards(index.parent, shards, places)
    found = {entry.name: entry for entry in checkpoint.entries}
    for name in places:
        if name not in found:
            raise CheckpointError(
                f"{escaped(index)} names the tensor {name!r}, which its shard lacks; "
                "copy the shards again"
            )
    metadata = dict(checkpoint.metadata)
    if isinstance(stated, dict):
        metadata |= {str(key): str(value) for key, value in stated.items() if key != "total_size"}
    entries = [found.pop(name) for name in places]
    return Checkpoint((*entries, *found.values()), metadata, (index, *checkpoint.files))


def _open_shards(
    folder: Path, shards: list[str], places: Mapping[str, str] | None = None
) -> Checkpoint:
    """Open shards as one checkpoint; ``places`` says in which of them a tensor is meant."""
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    files: list[Path] = []
    for shard in shards:
        kind = checkpoint_kind(folder / shard)
        if kind == "index":
            raise CheckpointError(f"the shard {escaped(folder / shard)} is a JSON file")
        path = folder / shard
        part = open_safetensors(path) if kind == "safetensors" else open_torch(path)
        metadata |= part.metadata
        files += part.files
        for entry in part.entries:
            if entry.name in entries and not _same(entry, entries[entry.name]):
                raise CheckpointError(
                    f"two shards in {escaped(folder)} hold different tensors {entry.name!r}; "
                    "remove one of them"
                )
            if entry.name not in entries or (places or {}).get(entry.name) == shard:
                entries[entry.name] = entry
    return Checkpoint(tuple(entries.values()), metadata, tuple(files))


def _same(one: TensorEntry, other: TensorEntry) -> bool:
    if (one.dtype, one.shape, one.bit_type) != (other.dtype, other.shape, other.bit_type):
        return False
    return all(
        one.read_bytes(start, min(start + _BLOCK, one.length)).tobytes()
        == other.read_bytes(start, min(start + _BLOCK, one.length)).tobytes()
        for start in range(0, one.length, _BLOCK)
    )
