"""Report of a compression, measured on the file read back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from flyweight._tables import format_pairs
from flyweight.coding import code_lengths
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.errors import DataError

__all__ = ["CompressionReport", "course_ratio", "quantized_sparsity"]


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """Sizes and scores of a compressed model; all of the file as it is read back.

    Attributes:
        dense_bytes: 4 bytes × number of parameters of the model given.
        file_bytes: the whole file: codes, positions, codebooks, tables, biases, header.
        compression_ratio: ``dense_bytes / file_bytes``.
        course_ratio: of the course exercises: it leaves out positions, codebooks, tables, batch
            normalization, biases and header, so that no file is that small. None where nothing is
            quantized.
        sparsity: fraction of the weights of two and more dimensions that are exactly zero.
        score_before: ``evaluate`` of the model given; None without a metric.
        score_after: ``evaluate`` of the model read back; None without a metric.
        outputs_identical: whether every tensor, and the outputs on batches of the data, are bit
            for bit those of the model before it was saved.
        recipe: name of the recipe.
        epochs: of training, in all stages.
        seed: of the run.
        device: that it ran on.
        commit: of the code, or its version.
        seconds: that the run took; None where it was resumed.
        run: name of the folder of this run among the states of `compress`; "" without ``resume``.
    """

    dense_bytes: int
    file_bytes: int
    compression_ratio: float
    course_ratio: float | None
    sparsity: float
    score_before: float | None
    score_after: float | None
    outputs_identical: bool
    recipe: str
    epochs: int
    seed: int
    device: str
    commit: str
    seconds: float | None
    run: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON can hold them."""
        return dataclasses.asdict(self)

    def requirements(
        self,
        *,
        min_ratio: float | None = None,
        max_drop: float | None = None,
        min_score: float | None = None,
    ) -> list[tuple[bool, str]]:
        """Return for each requirement whether it is met, and what was found and asked for.

        Args:
            min_ratio: least compression ratio.
            max_drop: largest loss of score against the model as given; it has to be below that.
            min_score: least score.

        Raises:
            DataError: a score is asked for and there is no metric.
        """
        found: list[tuple[bool, str]] = []
        if min_ratio is not None:
            ratio = self.compression_ratio
            found.append((ratio >= min_ratio, f"{ratio:.2f}x (at least {min_ratio:g}x)"))
        before, after = self.score_before, self.score_after
        if max_drop is None and min_score is None:
            return found
        if before is None or after is None:
            raise DataError("a score is required and nothing measures one; give evaluate")
        if max_drop is not None:
            drop = before - after
            found.append((drop < max_drop, f"a drop of {drop:.4f} (below {max_drop:g})"))
        if min_score is not None:
            found.append((after >= min_score, f"a score of {after:.4f} (at least {min_score:g})"))
        return found

    def rows(self) -> dict[str, str]:
        """Return the report as text: what each row is, and its value."""
        rows = {
            "dense bytes": f"{self.dense_bytes:,}",
            "file bytes": f"{self.file_bytes:,}",
            "compression ratio": f"{self.compression_ratio:.2f}x (whole file)",
        }
        if self.course_ratio is not None:
            rows["course ratio"] = f"{self.course_ratio:.2f}x (codes of non-zero weights only)"
        rows["sparsity"] = f"{self.sparsity:.2%} of the weights are zero"
        if self.score_before is not None and self.score_after is not None:
            change = self.score_after - self.score_before
            rows["score before"] = f"{self.score_before:.4f}"
            rows["score after"] = f"{self.score_after:.4f} ({change:+.4f})"
        rows["read back"] = "outputs identical" if self.outputs_identical else "outputs DIFFER"
        rows["run"] = f"recipe {self.recipe}, {self.epochs} epochs, seed {self.seed}"
        rows["device"] = self.device
        return rows

    def __str__(self) -> str:
        return format_pairs(self.rows())


def course_ratio(compressed: CompressedModel) -> float | None:
    """Compute 32 bits × weights over the Huffman bits of the non-zero ones, quantized tensors only.

    It leaves out positions, codebooks, tables, batch normalization, biases and the header.

    Example:
        >>> tensor = CompressedTensor(torch.tensor([0, 1, 1, 2]), torch.tensor([0.5, 1.0]))
        >>> course_ratio(CompressedModel({"weight": tensor}))
        42.666666666666664
    """
    weights = bits = 0
    for tensor in compressed.tensors.values():
        if isinstance(tensor, CompressedTensor):
            indices = tensor.symbols[tensor.symbols > 0].flatten() - 1
            counts = torch.bincount(indices, minlength=tensor.levels.numel()).numpy()
            weights += tensor.symbols.numel()
            bits += int((counts * code_lengths(counts)).sum())
    return 32 * weights / bits if bits else None


def quantized_sparsity(compressed: CompressedModel) -> float:
    """Compute the fraction of zeros among the weights of two and more dimensions.

    Example:
        >>> quantized_sparsity(CompressedModel({"weight": torch.eye(2)}))
        0.5
    """
    zeros = total = 0
    for tensor in compressed.tensors.values():
        if isinstance(tensor, CompressedTensor):
            zeros += round(tensor.sparsity * tensor.symbols.numel())
            total += tensor.symbols.numel()
        elif tensor.ndim > 1 and tensor.is_floating_point():
            zeros += int((tensor == 0).sum())
            total += tensor.numel()
    return zeros / max(1, total)
