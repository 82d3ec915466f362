"""Epochs of any sized loader, with an order that follows from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from flyweight.batches import Batch, Batches, check_batch, check_batches
from flyweight.errors import DataError
from flyweight.training.config import TrainingConfig

__all__ = [
    "batches_of_epoch",
    "is_sharded",
    "layer_randomness",
    "optimizer_steps",
    "reset_",
    "seeded_batches",
]


def optimizer_steps(data: Batches, config: TrainingConfig) -> int:
    """Count the optimizer steps of a whole run.

    Args:
        data: sized iterable of batches.
        config: its epochs and accumulation steps count.

    Raises:
        DataError: ``data`` is empty, has no length, or its batches have no known form.

    Example:
        >>> batches = [torch.ones(1, 2)] * 5
        >>> optimizer_steps(batches, TrainingConfig(epochs=3, accumulation_steps=2))
        9
    """
    with torch.random.fork_rng(devices=[]), _own_generators(data):  # which shuffling draws from
        return config.epochs * math.ceil(check_batches(data) / config.accumulation_steps)


def _parts(data: Any) -> list[Any]:
    """A loader and the objects in it that may have an epoch or a generator."""
    batch_sampler = getattr(data, "batch_sampler", None)
    found = [
        data,
        getattr(data, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
        getattr(data, "dataset", None),
    ]
    return list({id(part): part for part in found if part is not None}.values())


@contextmanager
def _own_generators(data: Any) -> Iterator[list[torch.Generator]]:
    """Give the generators of a loader, and restore them afterwards."""
    found = (getattr(part, "generator", None) for part in _parts(data))
    generators = [g for g in found if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _set_epoch_(data: Any, epoch: int) -> None:
    for part in _parts(data):
        if callable(set_epoch := getattr(part, "set_epoch", None)):
            set_epoch(epoch)


def _set_seed_(data: Any, seed: int) -> None:
    if callable(set_seed := getattr(data, "set_seed", None)):
        set_seed(seed)


def reset_(data: Any) -> None:
    """Set a loader back to epoch 0 of no particular run."""
    _set_epoch_(data, 0)
    _set_seed_(data, 0)


def is_sharded(data: Any) -> bool:
    """Tell whether a loader gives each process examples of its own."""
    return any(isinstance(part, DistributedSampler) for part in _parts(data))


def batches_of_epoch(
    data: Any, *, seed: int, epoch: int, number: int
) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch, in an order that follows from the seed and the epoch.

    ``set_epoch(epoch)`` is called on the loader, its samplers and its data set, and
    ``set_seed(seed)`` on the loader, where they have it. Generators of a `DataLoader`, its own or
    the global one, are seeded while the order is drawn, and restored afterwards.

    Raises:
        DataError: the loader gives fewer batches than ``number``, its length, or a first batch of
            unknown form.
    """
    _set_epoch_(data, epoch)
    _set_seed_(data, seed)
    order = random.Random(f"order {seed} {epoch}").getrandbits(63)
    given, before = 0, torch.get_rng_state()
    with _own_generators(data) as generators:
        for generator in (*generators, torch.default_generator):
            generator.manual_seed(order)
        iterator = iter(data)
        batch = next(iterator, None)  # draws the order of the epoch
        torch.set_rng_state(before)
        while batch is not None and given < number:
            if not given:
                check_batch(batch)
            given += 1
            yield batch
            batch = next(iterator, None) if given < number else None
    if given < number:
        raise DataError(
            f"data gave {given} batches in epoch {epoch + 1} and has a length of {number}; give a "
            "loader that can be iterated over again, with the same number of batches each time"
        )


@contextmanager
def seeded_batches(data: Any, seed: int) -> Iterator[Iterator[Batch]]:
    """Give the batches of one epoch, their order and what torch draws for them, by a seed.

    The generators of torch, and those of the loader, are restored afterwards.

    Example:
        >>> loader = torch.utils.data.DataLoader(range(9), batch_size=3, shuffle=True)
        >>> with seeded_batches(loader, 0) as first, seeded_batches(loader, 0) as second:
        ...     torch.equal(next(first), next(second))
        True
    """
    with torch.random.fork_rng(devices=[]), _own_generators(data):
        number = check_batches(data)
        torch.default_generator.manual_seed(random.Random(f"data {seed}").getrandbits(63))
        batches = batches_of_epoch(data, seed=seed, epoch=0, number=number)
        try:
            yield batches
        finally:
            batches.close()
            reset_(data)


@contextmanager
def layer_randomness(device: torch.device, seed: int, epoch: int, process: int) -> Iterator[None]:
    """Let random layers such as dropout draw what follows from seed, epoch and process alone.

    The generators of torch are restored afterwards.
    """
    number = random.Random(f"{seed} {epoch} {process}").getrandbits(32)
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(number)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield
