"""A compressed model to a ``.fly`` file and back: save, load, decompress."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Collection, Mapping
from typing import overload

from torch import Tensor, nn

from flyweight.compressed import CompressedModel
from flyweight.format import (
    Container,
    Reader,
    read,
    write,
)
from flyweight.errors import ModelError
from flyweight.modules import Architecture, architectures, build, fill_

__all__ = ["decompress", "load", "materialize", "save", "skeleton"]


def save(compressed: CompressedModel, path: str | os.PathLike[str]) -> int:
    """Write a ``.fly`` file, whole or not at all; return its size in bytes.

    Where the compressed model is of an architecture that flyweight knows by name, the file leaves
    names and shapes of the tensors to it.

    Raises ModelError for a tensor that a file cannot hold, OSError where the file cannot be
    written.

    Example:
        >>> import tempfile, torch
        >>> compressed = CompressedModel({"bias": torch.zeros(2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = save(compressed, f"{folder}/a.fly")
        ...     size == os.path.getsize(f"{folder}/a.fly")
        True
    """
    if compressed.metadata.get("architecture") not in architectures():
        return write(compressed.to_container(), path)
    known = skeleton(compressed.metadata)
    place = {name: number for number, name in enumerate(known)}
    ordered = sorted(compressed.tensors, key=lambda name: place.get(name, len(place)))
    tensors = {name: compressed.tensors[name] for name in ordered}
    container = dataclasses.replace(compressed, tensors=tensors).to_container()
    shapes = {tensor.name: tensor.shape for tensor in container.tensors}
    return write(container, path, bare=list(shapes.items()) == list(known.items()))


def skeleton(
    metadata: Mapping[str, str], *, architecture: Architecture | None = None
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of an architecture, in the order in which a file has them.

    ``architecture`` as for `load`. Raises ModelError without one that is known.

    Example:
        >>> names = skeleton({"architecture": "resnet20"})
        >>> next(iter(names.items())), names["linear.weight"]
        (('conv1.weight', (16, 3, 3, 3)), (10, 64))
        >>> skeleton({}, architecture=lambda: nn.Linear(3, 2))
        {'weight': (2, 3), 'bias': (2,)}
    """
    return _names_and_shapes(build(_known(metadata, architecture, "the file")))


def _names_and_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    state = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    names = [*first.values(), *(name for name in state if name not in set(first.values()))]
    return {name: tuple(state[name].shape) for name in names}


def _known(
    metadata: Mapping[str, str], architecture: Architecture | None, where: str
) -> Architecture:
    if architecture is None:
        architecture = metadata.get("architecture")
        if architecture is None or ":" in architecture:
            raise ModelError(
                f"{where} does not name a network that flyweight knows; give --architecture"
            )
    return architecture


def decompress(
    path: str | os.PathLike[str],
    *,
    names: Collection[str] | None = None,
    architecture: Architecture | None = None,
) -> dict[str, Tensor]:
    """The state dict that a ``.fly`` file holds; with ``names``, those tensors and no others.

    With ``names`` only what they need is read and checked. ``architecture`` as for `load`; it is
    needed only for a file that leaves names and shapes to one that flyweight does not know.

    Raises FormatError if the file is damaged or lacks a tensor that is named, OSError if it cannot
    be read.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(CompressedModel({"bias": torch.tensor([0.5, 1.0])}), f"{folder}/a.fly")
        ...     decompress(f"{folder}/a.fly")
        {'bias': tensor([0.5000, 1.0000])}
    """
    find = functools.partial(skeleton, architecture=architecture)
    if names is None:
        return CompressedModel.from_container(read(path, skeleton=find)).state_dict()
    with Reader(path, skeleton=find) as reader:
        places = {outline.name: outline for outline in reader.outlines}
        sources = {
            name: name
            if name not in places or places[name].target is None
            else reader.outlines[places[name].target or 0].name
            for name in names
        }
        coded = Container(tuple(reader.tensors(set(sources.values()))))
    values = CompressedModel.from_container(coded).state_dict()
    return {name: values[source] for name, source in sources.items()}


@overload
def load(
    path: str | os.PathLike[str], *, architecture: Architecture | None = None, names: None = None
) -> nn.Module: ...


@overload
def load(
    path: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    names: Collection[str],
) -> dict[str, Tensor]: ...


def load(
    path: str | os.PathLike[str],
    *,
    architecture: Architecture | None = None,
    names: Collection[str] | None = None,
) -> nn.Module | dict[str, Tensor]:
    """A fresh module in evaluation mode with the weights of a ``.fly`` file.

    ``architecture`` is a name, ``package.module:factory`` or a function that builds the module;
    None takes the name in the file. The file itself never makes anything be imported or run.
    With ``names`` only the tensors named are read, and returned by name.

    Raises FormatError if the file is damaged, ModelError without a known architecture, and
    CheckpointError if the file holds the weights of another one.

    Example:
        >>> model = load("resnet20.fly")  # doctest: +SKIP
        >>> head = load("resnet20.fly", names=["linear.weight"])  # doctest: +SKIP
    """
    if names is not None:
        return decompress(path, names=names, architecture=architecture)
    built: list[nn.Module] = []  # the one whose names and shapes were asked for, to be filled

    def find(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
        built.append(build(_known(metadata, architecture, "the file")))
        return _names_and_shapes(built[-1])

    compressed = CompressedModel.from_container(read(path, skeleton=find))
    if not built:
        return materialize(compressed, architecture, str(path))
    fill_(built[-1], compressed.state_dict(), where=str(path))
    return built[-1].eval()


def materialize(
    compressed: CompressedModel, architecture: Architecture | None, where: str
) -> nn.Module:
    """A fresh module in evaluation mode with the weights of a compressed model.

    ``architecture`` as for `load`; ``where`` names the compressed model in errors. Raises
    ModelError without a known architecture, CheckpointError if these are the weights of another.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> compressed = CompressedModel(layer.state_dict())
        >>> found = materialize(compressed, lambda: nn.Linear(3, 2), "the layer")
        >>> found.training, bool((found.weight == layer.weight).all())
        (False, True)
    """
    model = build(_known(compressed.metadata, architecture, where))
    fill_(model, compressed.state_dict(), where=where)
    return model.eval()
