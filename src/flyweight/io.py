"""Save models and state dicts to ``.fly`` files; load, read and decompress these."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flyweight._files import FilePath, check_output, replacing, write_atomic
from flyweight._progress import Progress
from flyweight.coding import decode_tensor
from flyweight.compressed import (
    CompressedModel,
    compress_lossless,
    give_shapes_,
    gradual_underflow,
    to_torch,
)
from flyweight.errors import CheckpointError, ModelError
from flyweight.format import Outline, Reader
from flyweight.modules import (
    Architecture,
    architectures,
    build,
    check_detached,
    check_fillable,
    fill_,
    names_and_shapes,
    without_wrappers,
)

__all__ = ["decompress", "load", "load_state_dict", "save"]


def save(
    obj: CompressedModel | nn.Module | Mapping[str, Tensor], path: FilePath, *, force: bool = True
) -> int:
    """Write a compressed model, a module or a state dict as a ``.fly`` file, whole or not at all.

    A module and a state dict are stored bit for bit; zeros and repeated values take few bytes, so
    that what `Pruner.finalize` returns is small. Prefixes of wrapper modules, such as those of
    torch.compile, are left out of the names.

    Args:
        obj: what to save; it is not changed.
        path: the file to write.
        force: False refuses a file that exists.

    Returns:
        The size of the file in bytes.

    Raises:
        ModelError: a file cannot hold one of the tensors, or a stage of the module is not
            finalized.
        CheckpointError: the file cannot be written there.
        OSError: writing failed, for a full disk say.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save(nn.Linear(3, 2), f"{folder}/a.fly")
        ...     size == os.path.getsize(f"{folder}/a.fly")
        True
    """
    check_output(path, force=force)
    return write_atomic(path, _compressed(obj).to_bytes(), force=force)


def _compressed(obj: CompressedModel | nn.Module | Mapping[str, Tensor]) -> CompressedModel:
    if isinstance(obj, CompressedModel):
        return obj
    if not isinstance(obj, nn.Module | Mapping):
        raise ModelError(
            f"a {type(obj).__name__} cannot be saved; pass a compressed model, a module or a "
            "state dict"
        )
    if isinstance(obj, nn.Module):
        check_detached(obj)
    state: Mapping[str, Any] = obj.state_dict() if isinstance(obj, nn.Module) else obj
    for name in state:
        if not isinstance(name, str):
            raise ModelError(f"the state dict has the key {name!r}; names of tensors are strings")
    plain = without_wrappers(state)
    return compress_lossless({plain[name]: value for name, value in state.items()})


def _check_path(path: object) -> None:
    if not isinstance(path, str | os.PathLike):
        raise ModelError(
            f"path is a {type(path).__name__}; save it first, and give the path of the file"
        )


def load(
    path: FilePath,
    model: nn.Module | None = None,
    *,
    architecture: Architecture | None = None,
    strict: bool = True,
) -> nn.Module:
    """Load a ``.fly`` file into a module.

    Nothing that the file names is imported or run.

    Args:
        path: the file.
        model: an instance to fill, such as ``MyNet()``. None builds one.
        architecture: a registered name, ``package.module:factory`` or a function that builds the
            module; None takes the name in the file, if it is registered. Only without ``model``.
        strict: False ignores tensors that only one of file and module has.

    Returns:
        The module, in evaluation mode.

    Raises:
        FormatError: the file is damaged, or no ``.fly`` file.
        ModelError: there is no module to fill, or the architecture cannot be built.
        CheckpointError: the file holds the tensors of another module.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> layer = nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(layer, f"{folder}/a.fly")
        ...     loaded = load(f"{folder}/a.fly", nn.Linear(3, 2))
        >>> bool((loaded.weight == layer.weight).all()), loaded.training
        (True, False)
    """
    _check_path(path)
    check_fillable(model, architecture)
    with Reader(path) as reader:
        if model is None:
            model = build(_architecture_of(reader, architecture, path))
        _use_shapes(reader, architecture, path, model)
        state = dict(_values(reader))
        reader.verify()
    fill_(model, state, where=os.fspath(path), strict=strict)
    return model.eval()


def _architecture_of(
    reader: Reader, architecture: Architecture | None, path: FilePath
) -> Architecture:
    if architecture is not None:
        return architecture
    name = reader.metadata.get("architecture")
    if name in architectures():
        return name
    named = "names no network" if name is None else f"names the network {name!r}, not registered"
    raise ModelError(
        f"{os.fspath(path)} {named}; give model= or architecture=, the network that it was saved "
        "from"
    )


def _use_shapes(
    reader: Reader,
    architecture: Architecture | None,
    path: FilePath,
    model: nn.Module | None = None,
) -> None:
    """Give a reader the names and shapes that its file leaves out; the names without wrappers."""
    shapes = None
    if reader.bare and model is not None:
        shapes = names_and_shapes(model)
        plain = without_wrappers(shapes)
        shapes = {plain[name]: shape for name, shape in shapes.items()}
    give_shapes_(reader, architecture, where=os.fspath(path), shapes=shapes)


def _values(reader: Reader, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Decode the tensors of these names, or all; tied names share one tensor."""
    outlines = reader.outlines
    owners = {
        outline.name: outline.name if outline.target is None else outlines[outline.target].name
        for outline in outlines
    }
    wanted = list(owners) if names is None else list(names)
    values: dict[str, Tensor] = {}
    with gradual_underflow():
        for tensor in reader.tensors({owners.get(name, name) for name in wanted}):
            values[tensor.name] = to_torch(decode_tensor(tensor), tensor.dtype)
    for name in wanted:
        yield name, values[owners[name]]


def load_state_dict(
    path: FilePath,
    *,
    names: Collection[str] | None = None,
    architecture: Architecture | None = None,
) -> dict[str, Tensor]:
    """Read the tensors of a ``.fly`` file, or some of them, as a state dict.

    Args:
        path: the file.
        names: of the tensors to read; only what they need is read and checked. A string is one
            name; None reads all.
        architecture: as in `load`; needed only where the file leaves names and shapes to an
            architecture that is not registered.

    Returns:
        The tensors by name. Tied names share one tensor.

    Raises:
        FormatError: the file is damaged, or lacks a tensor that is named.
        ModelError: names and shapes are missing.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save({"bias": torch.tensor([0.5, 1.0])}, f"{folder}/a.fly")
        ...     load_state_dict(f"{folder}/a.fly")
        {'bias': tensor([0.5000, 1.0000])}
    """
    from flyweight.checkpoints import with_bit_types

    _check_path(path)
    if isinstance(names, str):
        names = [names]
    with Reader(path) as reader:
        _use_shapes(reader, architecture, path)
        state = dict(_values(reader, names))
        if names is None:
            reader.verify()
        return with_bit_types(state, _checkpoint_metadata(reader))


def _checkpoint_metadata(reader: Reader) -> dict[str, str]:
    from flyweight.checkpoints import METADATA_PREFIX  # `load` needs none of that room

    return {
        key.removeprefix(METADATA_PREFIX): text
        for key, text in reader.metadata.items()
        if key.startswith(METADATA_PREFIX)
    }


def decompress(
    path: FilePath,
    output: FilePath,
    *,
    architecture: Architecture | None = None,
    force: bool = True,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the tensors of a ``.fly`` file as ``.safetensors``, whole or not at all.

    Memory holds one tensor at a time; tied tensors are written once for each name.

    Args:
        path: the file to read.
        output: the file to write; its name ends in ``.safetensors``.
        architecture: as in `load_state_dict`.
        force: False refuses a file that exists.
        progress: called with "decompress", the number of tensors written, and that of all.

    Returns:
        The numbers of "tensors" and "bytes" written.

    Raises:
        FormatError: the file is damaged.
        CheckpointError: the output cannot be written, is named otherwise, or is the input.
        ModelError: names and shapes are missing.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save({"bias": torch.zeros(2)}, f"{folder}/a.fly")
        ...     decompress(f"{folder}/a.fly", f"{folder}/a.safetensors")["tensors"]
        1
    """
    from flyweight.checkpoints import SafetensorsWriter

    _check_path(path)
    target = Path(output)
    if target.suffix.lower() != ".safetensors" and (target.is_file() or not target.exists()):
        raise CheckpointError(
            f"{target} would hold safetensors; name {target.with_suffix('.safetensors')}"
        )
    check_output(target, inputs=[path], force=force)
    with Reader(path) as reader:
        _use_shapes(reader, architecture, path)
        reader.verify()
        outlines = reader.outlines
        names: dict[str, list[str]] = {}
        for outline in outlines:
            owner = outline if outline.target is None else outlines[outline.target]
            names.setdefault(owner.name, []).append(outline.name)
        with replacing(target, inputs=[path], force=force) as file, gradual_underflow():
            writer = SafetensorsWriter(file, map(_stated, outlines), _checkpoint_metadata(reader))
            done = 0
            for tensor in reader.tensors(names):
                values = decode_tensor(tensor)
                for name in names[tensor.name]:
                    writer.add(name, values)
                done += len(names[tensor.name])
                del tensor, values  # before the next is read
                if progress is not None:
                    progress("decompress", done, len(outlines))
            size = file.seek(0, os.SEEK_END)
    return {"tensors": len(outlines), "bytes": size}


def _stated(outline: Outline) -> tuple[str, str, tuple[int, ...]]:
    return outline.name, outline.dtype, outline.shape
