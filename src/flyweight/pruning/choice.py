"""Masks for all layers of a network at once: scores in, one sparsity, exceptions by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor

from flyweight.errors import ModelError, RecipeError
from flyweight.modules import matching
from flyweight.pruning.patterns import (
    block_mask,
    channel_mask,
    filter_mask,
    n_of_m_mask,
)
from flyweight.pruning.ranking import masks_by_score

__all__ = ["Pattern", "choose_masks"]


@dataclass(frozen=True)
class Pattern:
    """The shape of what goes: single weights, N of M, blocks, filters or channels.

    Example:
        >>> Pattern.of("2:4")
        Pattern(kind='n:m', extents=(2, 4))
        >>> Pattern.of("4x1x3x3").extents
        (4, 1, 3, 3)
    """

    kind: Literal["weights", "n:m", "block", "filters", "channels"] = "weights"
    extents: tuple[int, ...] = ()

    @staticmethod
    def of(text: str) -> Pattern:
        """Read "weights", "filters", "channels", "2:4" or a block such as "4x1x3x3".

        Raises RecipeError for anything else.
        """
        if text in ("weights", "filters", "channels"):
            return Pattern(text)  # type: ignore[arg-type]
        if found := re.fullmatch(r"(\d{1,4}):(\d{1,4})", text):
            n, m = int(found[1]), int(found[2])
            if 0 <= n <= m and m:
                return Pattern("n:m", (n, m))
        if re.fullmatch(r"\d{1,6}(x\d{1,6})+", text):
            extents = tuple(map(int, text.split("x")))
            if min(extents):
                return Pattern("block", extents)
        raise RecipeError(
            "a pattern is 'weights', 'filters', 'channels', N:M such as '2:4', or a block such as "
            f"'4x1x3x3'; found {text!r}"
        )

    def pruned_of_each(self, sparsity: float) -> int:
        """How many of every M weights an N:M pattern prunes: never more than was asked for.

        A sparsity that is written with six digits counts as the fraction that it stands for.

        Example:
            >>> [Pattern.of("1:3").pruned_of_each(sparsity) for sparsity in (0.6, 0.666666, 0.7)]
            [1, 2, 2]
        """
        return math.floor((sparsity + 1e-6) * self.extents[1] + 1e-9)

    def mask(self, scores: Tensor, sparsity: float) -> Tensor:
        """Mask of one tensor from its scores, which are 0 and more."""
        if self.kind == "n:m":
            _, m = self.extents
            return n_of_m_mask(scores, m - self.pruned_of_each(sparsity), m)
        if self.kind == "block":
            return block_mask(scores, sparsity, self.extents, order=1)
        if self.kind == "filters":
            return filter_mask(scores, sparsity)
        if self.kind == "channels":
            return channel_mask(scores, sparsity)
        return masks_by_score({"": scores}, sparsity)[""]


def choose_masks(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Literal["global", "layer"] = "global",
    pattern: Pattern | None = None,
    overrides: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Masks that prune the lowest scores of all tensors.

    Arguments:
        scores: 0 and more, of the shape of each weight: magnitudes or `saliency_scores`.
        sparsity: fraction to prune, from 0 to 1.
        scope: "global" has one threshold for all tensors, "layer" the same sparsity in each.
        pattern: the shape of what goes; another than single weights is chosen layer by layer.
        overrides: sparsity by glob over the names, for layers that differ from the others. They
            have a threshold of their own; of several globs that match the last counts.

    Raises ModelError for what the shape of a weight does not allow, and for a glob that matches
    nothing.

    Example:
        >>> import torch
        >>> scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
        >>> {name: mask.tolist() for name, mask in choose_masks(scores, 0.5).items()}
        {'a': [False, False], 'b': [True, True]}
        >>> choose_masks(scores, 0.5, overrides={"b": 0.0})["a"].tolist()
        [False, True]
    """
    pattern = pattern or Pattern()
    overrides = overrides or {}
    for glob in overrides:
        if not any(fnmatchcase(name, glob) for name in scores):
            raise ModelError(f"the layer pattern {glob!r} matches none of the weights to prune")
    own = {
        name: matching(name, overrides, sparsity)
        for name in scores
        if scope == "layer" or pattern.kind != "weights" or _is_overridden(name, overrides)
    }
    masks: dict[str, Tensor] = {}
    for name, asked in own.items():
        try:
            masks[name] = pattern.mask(scores[name], asked)
        except ModelError as error:
            raise ModelError(f"tensor {name!r}: {error}") from error
    rest = {name: score for name, score in scores.items() if name not in own}
    if rest or not scores:
        masks |= masks_by_score(rest, sparsity)
    return {name: masks[name] for name in scores}


def _is_overridden(name: str, overrides: Mapping[str, float]) -> bool:
    return any(fnmatchcase(name, glob) for glob in overrides)
