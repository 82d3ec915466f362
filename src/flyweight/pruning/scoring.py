"""Scores of all weights of a model by the criterion of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from flyweight.batches import Batches, Loss, check_batches, take_examples
from flyweight.errors import ModelError
from flyweight.pruning.config import Criterion, PruningConfig
from flyweight.pruning.ranking import check_finite
from flyweight.pruning.saliency import reached_weights, saliency_scores

__all__ = ["Scorer", "magnitudes"]


def magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the magnitudes of weights."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


class Scorer:
    """Score weights by magnitude, at random, by saliency, or by a function of the user's.

    Args:
        config: has the criterion.
        weights: by name; their shapes decide what is drawn at random.
        data: batches for "taylor" and "fisher".
        loss: ``loss(model, batch)`` for "taylor" and "fisher".
        seed: of the criterion "random".

    Raises:
        DataError: ``data`` is empty, or no batches.
        ModelError: the criterion needs data, and there are none.
    """

    def __init__(
        self,
        config: PruningConfig,
        weights: Mapping[str, Tensor],
        *,
        data: Batches | None,
        loss: Loss,
        seed: int,
    ) -> None:
        self._config = config
        self._loss = loss
        self._data: Batches = ()
        self._drawn: dict[str, Tensor] = {}
        if config.needs_data:
            if data is None:
                raise ModelError(
                    f"pruning by {config.criterion!r} needs calibration data; give data=, or the "
                    "criterion 'magnitude'"
                )
            check_batches(data)
            self._data = data
        if config.criterion == "random":
            generator = torch.Generator().manual_seed(seed)  # of the CPU: the same on all devices
            self._drawn = {
                name: torch.rand(weight.shape, generator=generator)
                for name, weight in weights.items()
            }

    @property
    def differs_by_process(self) -> bool:
        """Whether each of several processes has scores of its own, from its part of the data."""
        return self._config.criterion not in ("magnitude", "random")

    def scores(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return scores of at least 0, of the shape and on the device of each weight."""
        if self._drawn:
            return {name: drawn.to(weights[name].device) for name, drawn in self._drawn.items()}
        if callable(self._config.criterion):
            return _scores_by(self._config.criterion, weights)
        if self._config.needs_data:
            batches = take_examples(self._data, self._config.calibration_examples)
            criterion = cast(Literal["taylor", "fisher"], self._config.criterion)
            return saliency_scores(model, weights, batches, criterion=criterion, loss=self._loss)
        return magnitudes(weights)

    def check(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Raise ModelError or DataError if the weights cannot be scored.

        With "taylor" and "fisher" the loss of the first batch is checked, by one backward pass.
        Weights that it does not depend on, such as those of an expert that its examples are not
        routed to, must have a gradient by all calibration examples.
        """
        if self._config.needs_data:
            first = [next(iter(self._data))]
            reached = reached_weights(model, weights, first, loss=self._loss)
            if len(reached) < len(weights):
                batches = take_examples(self._data, self._config.calibration_examples)
                saliency_scores(model, weights, batches, loss=self._loss)
        elif callable(self._config.criterion):
            _scores_by(self._config.criterion, weights)


@torch.no_grad()
def _scores_by(criterion: Criterion, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores of a user's function, all moved up by one number if some are negative."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        scores: object = criterion(weight.detach().clone())
        if not isinstance(scores, Tensor) or scores.shape != weight.shape:
            shape = f" of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else ""
            raise ModelError(
                f"the criterion gives a {type(scores).__name__}{shape} for tensor {name!r}; return "
                f"a tensor of the weight's shape, {tuple(weight.shape)}"
            )
        if scores.is_complex():
            raise ModelError(
                f"the criterion gives complex scores for tensor {name!r}; return reals"
            )
        exact = torch.promote_types(scores.dtype, torch.float32)
        found[name] = scores.detach().to(weight.device, exact)
        check_finite(found[name], name=name, kind="scores of the criterion")
    lowest = min((float(scores.min()) for scores in found.values() if scores.numel()), default=0.0)
    return {name: scores - min(lowest, 0.0) for name, scores in found.items()}
