"""Choose masks for all layers of a network from scores, one sparsity and overrides by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor

from flyweight.errors import ModelError, RecipeError
from flyweight.modules import OUTPUTS_FIRST, WeightLayout, matching
from flyweight.pruning.patterns import block_mask, channel_mask, filter_mask, n_of_m_mask
from flyweight.pruning.ranking import masks_by_score

__all__ = ["Pattern", "choose_masks"]


@dataclass(frozen=True)
class Pattern:
    """Sparsity pattern: single weights, N of M, blocks, filters or channels.

    Attributes:
        kind: of the pattern.
        extents: N and M, or the extents of a block: outputs, inputs, kernel.

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
        """Parse "weights", "filters", "channels", "2:4" or a block such as "4x1x3x3".

        Raises:
            RecipeError: the text is something else.
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
        """Return how many of every M weights an N:M pattern prunes, at most the sparsity asked for.

        A sparsity that is written with six digits counts as the fraction that it stands for.

        Example:
            >>> [Pattern.of("1:3").pruned_of_each(sparsity) for sparsity in (0.6, 0.666666, 0.7)]
            [1, 2, 2]
        """
        return math.floor((sparsity + 1e-6) * self.extents[1] + 1e-9)

    def mask(
        self, scores: Tensor, sparsity: float, *, layout: WeightLayout = OUTPUTS_FIRST
    ) -> Tensor:
        """Return the mask of one tensor.

        Args:
            scores: at least 0, of the shape of the weight.
            sparsity: fraction to prune, from 0 to 1.
            layout: of the layer that the weight belongs to.
        """
        if self.kind == "filters":
            return filter_mask(scores, sparsity, layout=layout)
        if self.kind == "channels":
            return channel_mask(scores, sparsity, layout=layout)
        rows = layout.outputs_first(scores)
        if self.kind == "n:m":
            _, m = self.extents
            return layout.as_stored(n_of_m_mask(rows, m - self.pruned_of_each(sparsity), m))
        if self.kind == "block":
            return layout.as_stored(block_mask(rows, sparsity, self.extents, order=1))
        return masks_by_score({"": scores}, sparsity)[""]


def choose_masks(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Literal["global", "layer"] = "global",
    pattern: Pattern | None = None,
    overrides: Mapping[str, float] | None = None,
    layouts: Mapping[str, WeightLayout] | None = None,
) -> dict[str, Tensor]:
    """Choose masks that prune the lowest scores of all tensors.

    Args:
        scores: at least 0, of the shape of each weight: magnitudes or `saliency_scores`.
        sparsity: fraction to prune, from 0 to 1.
        scope: "global" has one threshold for all tensors, "layer" the same sparsity in each.
        pattern: of the zeros; patterns other than single weights are chosen layer by layer.
        overrides: sparsity by glob over the names, for layers that differ from the others. They
            have thresholds of their own; of several globs that match the last counts.
        layouts: of the layers by name, where outputs are not the first dimension.

    Returns:
        A bool mask for each tensor, of its shape, False where it is pruned.

    Raises:
        ModelError: the pattern does not fit the shape of a weight, or a glob matches nothing.

    Example:
        >>> import torch
        >>> scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
        >>> {name: mask.tolist() for name, mask in choose_masks(scores, 0.5).items()}
        {'a': [False, False], 'b': [True, True]}
        >>> choose_masks(scores, 0.5, overrides={"b": 0.0})["a"].tolist()
        [False, True]
    """
    pattern = pattern or Pattern()
    overrides, layouts = overrides or {}, layouts or {}
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
        layout = layouts.get(name, OUTPUTS_FIRST)
        try:
            masks[name] = pattern.mask(scores[name], asked, layout=layout)
        except ModelError as error:
            raise ModelError(f"tensor {name!r}: {error}") from error
    rest = {name: score for name, score in scores.items() if name not in own}
    if rest or not scores:
        masks |= masks_by_score(rest, sparsity)
    return {name: masks[name] for name in scores}


def _is_overridden(name: str, overrides: Mapping[str, float]) -> bool:
    return any(fnmatchcase(name, glob) for glob in overrides)
