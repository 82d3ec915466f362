"""Configuration of quantization-aware training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec
from torch import nn

from flyweight._config import (
    AtLeastOne,
    Fraction,
    NotNegative,
    NotNegativeInt,
    Positive,
    ProperFraction,
    check_fields,
)
from flyweight.errors import RecipeError
from flyweight.quantization.fixed_point import SCHEMES
from flyweight.quantization.kmeans_initialization import Initialization

__all__ = ["METHODS", "Method", "QuantizationConfig"]

#: Method of quantization-aware training.
Method = Literal[
    "kmeans",
    "uniform",
    "symmetric",
    "symmetric-no-zero",
    "learned-step",
    "ternary",
    "binary",
    "rate",
]
#: The names of `Method`.
METHODS: tuple[str, ...] = get_args(Method)
Bits = Annotated[int, msgspec.Meta(ge=1, le=8)]


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """How weights are quantized while a model trains; pruned weights stay zero.

    Attributes:
        method: "kmeans" is weight sharing with trained centroids; "uniform", "symmetric" (with a
            zero level) and "symmetric-no-zero" are fixed point with a range that follows the
            weights (QAT by the straight-through estimator); "learned-step" is LSQ; "ternary" has
            two learned scales and zero; "binary" one scale; "rate" trains towards a size of the
            file, with the bits that the coder takes as a term of the loss.
        bits: at most 2^bits levels a tensor ("symmetric" and "learned-step": 2 bits and more;
            "ternary" and "binary" have their own number).
        allocation: "equal" bits in all tensors, or by "size": ``bits`` is that of the largest
            tensor, and one with a quarter of its weights gets one bit more, up to 8, so that the
            relative error of every tensor counts the same. Not for "ternary" and "binary".
        start_bits: bits of the first step, which fall to ``bits`` one by one over the first
            ``assignment_until`` of the steps; 0 is ``bits`` from the start. Not for "ternary" and
            "binary".
        assignment_interval: of "kmeans", steps after which each weight is assigned to its nearest
            centroid again. With a long interval, weights move on gradients that no level answers.
        assignment_until: fraction of the steps in which assignments change; after it only the
            centroids train.
        init: of "kmeans", how centroids are initialized; "optimal" is exact k-means.
        importance: of "kmeans", how much the error of a weight counts: "equal", or by its
            "fisher" information, measured before training.
        calibration_examples: examples that Fisher information is measured on.
        per_channel: a range, step or scale for each output channel; the file holds one number for
            each (two for "uniform" without ``zero_level``). Transposed convolutions have one for
            the tensor, since their first axis is inputs. Not for "kmeans" and "ternary".
        power_of_two: round the step to the next power of two; for fixed point.
        zero_level: "uniform" has zero among its levels, as `FixedPoint` says.
        threshold: "ternary" makes zeros of weights up to this fraction of the largest.
        include: globs over names of weights of two and more dimensions that are quantized.
        exclude: globs of those among them that stay floats; what is pruned of them stays so.
        bits_overrides: bits by glob, for layers that differ from the others.
        level_dtype: type of levels, scales and offsets in the file.
        target_bytes: of "rate", bytes of the whole file that the run is to end with.
        target_ratio: of "rate", where there are no target_bytes: how many times smaller than 4
            bytes for each parameter the file is to be, or as near to it as the model can come.
        loss_per_bit: of "rate", loss that a bit is worth: with a target where it starts (0 to
            take it from the size of the model), without one what it stays.
        step: of "rate", distance of levels as a multiple of the root mean square of the weights;
            with the allocation "size" halved for each bit more.
        steps: of "rate", distance of levels by glob, in the place of ``step``: for a model that
            goes on from the weights and the grid of another run. Where the target takes finer
            grids, all become finer.
        start_ratio: of "rate" that goes on from post-training, bytes that it starts with, as a
            multiple of those to end with.
        dead_zone: of "rate", how much less than to nearest codes are rounded up, from 0 to ½.
        target_ramp: of "rate", fraction of the steps in which the size falls to the target.
        freeze_at: of "rate", fraction of the steps after which codes stay, and levels, batch
            normalization and other floats train on, as the file stores them.
        cost_interval: of "rate", at most how many steps the bits of codes are taken from before
            they are counted again.

    Raises:
        RecipeError: a value is of another type or out of its bounds, or has no effect.

    Example:
        >>> QuantizationConfig(method="learned-step", bits=2).per_channel
        False

    Sources: Han et al. 2016, "Deep compression", §3 (weight sharing); Choi et al. 2017, "Towards
    the limit of network quantization", §3 (Fisher information); Cover & Thomas 2006, §10.3.3
    (allocation of bits by reverse water-filling); Esser et al. 2020, "Learned step size
    quantization"; Zhu et al. 2017, "Trained ternary quantization"; Rastegari et al. 2016,
    "XNOR-Net" (binary).
    """

    method: Method = "kmeans"
    bits: Bits = 4
    allocation: Literal["equal", "size"] = "equal"
    start_bits: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0
    assignment_interval: AtLeastOne = 1
    assignment_until: Fraction = 0.7
    init: Initialization = "optimal"
    importance: Literal["equal", "fisher"] = "equal"
    calibration_examples: AtLeastOne = 512
    per_channel: bool = False
    power_of_two: bool = False
    zero_level: bool = False
    threshold: ProperFraction = 0.05
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    bits_overrides: Mapping[str, Bits] = dataclasses.field(default_factory=dict)
    level_dtype: Literal["float16", "float32"] = "float16"
    target_bytes: NotNegativeInt = 0
    target_ratio: NotNegative = 0.0
    loss_per_bit: NotNegative = 0.0
    step: Positive = 1.2
    steps: Mapping[str, Positive] = dataclasses.field(default_factory=dict)
    start_ratio: Annotated[float, msgspec.Meta(ge=1)] = 1.05
    dead_zone: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.2
    target_ramp: Fraction = 0.7
    freeze_at: Fraction = 0.85
    cost_interval: AtLeastOne = 50

    def __post_init__(self) -> None:
        check_fields(self, "quantization")
        if self.start_bits and self.start_bits < self.bits:
            raise RecipeError(
                f"quantization.start_bits is 0, or from bits = {self.bits} to 8; "
                f"found {self.start_bits}"
            )
        if self.start_bits > self.bits and not self.assignment_until:
            raise RecipeError("quantization.assignment_until is above 0 with start_bits; found 0")
        self._check_method()

    def _check_method(self) -> None:
        """Refuse settings that the method has no use for."""
        method = self.method
        if method in ("symmetric", "learned-step", "rate"):
            for bits in (self.bits, *self.bits_overrides.values()):
                if bits < 2:
                    raise RecipeError(
                        f"quantization.bits of {method!r} is from 2 to 8; found {bits}"
                    )
        if self.importance != "equal" and method != "kmeans":
            raise RecipeError(
                f"quantization.importance is for the method 'kmeans', not for {method!r}; "
                f"found {self.importance!r}"
            )
        for key, methods in (
            ("per_channel", (*SCHEMES, "learned-step", "binary")),
            ("power_of_two", SCHEMES),
            ("zero_level", ("uniform",)),
        ):
            if getattr(self, key) and method not in methods:
                raise RecipeError(f"quantization.{key} is not for the method {method!r}")
        if method == "rate" and self.start_bits:
            raise RecipeError(f"quantization.start_bits is 0 with 'rate'; found {self.start_bits}")
        if method in ("ternary", "binary"):
            for key in ("start_bits", "allocation", "bits_overrides"):
                if getattr(self, key) not in (0, "equal", {}):
                    raise RecipeError(
                        f"quantization.{key} is not for the method {method!r}, which has its own "
                        f"number of levels; found {getattr(self, key)!r}"
                    )
        if self.steps and method != "rate":
            raise RecipeError(
                f"quantization.steps is for the method 'rate', not for {method!r}; leave it out"
            )
        for key in ("target_ratio", "loss_per_bit", "step", "start_ratio"):
            if not math.isfinite(getattr(self, key)):
                raise RecipeError(f"quantization.{key} is finite; found {getattr(self, key)}")
        wishes = ("target_bytes", "target_ratio", "loss_per_bit")
        if (method == "rate") != any(getattr(self, key) for key in wishes):
            raise RecipeError(
                "one of quantization.target_bytes, target_ratio and loss_per_bit is above 0 with "
                f"the method 'rate', and only there; found the method {method!r} with "
                + ", ".join(f"{key} = {getattr(self, key):g}" for key in wishes)
            )
        if method != "ternary" and self.threshold != QuantizationConfig.threshold:
            raise RecipeError(
                f"quantization.threshold is for the method 'ternary', not for {method!r}; "
                f"found {self.threshold}"
            )

    def bytes_of(self, model: nn.Module) -> int:
        """Return the bytes that the file of a model is to end with; 0 where none are asked for.

        Example:
            >>> config = QuantizationConfig(method="rate", target_ratio=10)
            >>> config.bytes_of(nn.Linear(9, 100))
            400
        """
        if self.target_bytes or not self.target_ratio:
            return self.target_bytes
        return int(4 * sum(p.numel() for p in model.parameters()) / self.target_ratio)

    @property
    def needs_data(self) -> bool:
        """Whether something is measured on calibration data before training."""
        return self.importance == "fisher"

    def extra_bits(self, step: int, steps: int) -> int:
        """Return how many more bits than at the end a step has, counted from 0 out of ``steps``.

        Example:
            >>> config = QuantizationConfig(bits=2, start_bits=4, assignment_until=0.6)
            >>> [config.extra_bits(step, 10) for step in range(10)]
            [2, 2, 1, 1, 0, 0, 0, 0, 0, 0]
        """
        ramp = min(self.assignment_until * steps, steps - 1)
        if not self.start_bits or step >= ramp:
            return 0
        more = self.start_bits - self.bits
        return more - int(step / ramp * (more + 1))

    def bits_of(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the bits of each tensor, given its number of weights.

        Example:
            >>> QuantizationConfig(bits=3, allocation="size").bits_of({"a": 4096, "b": 1024})
            {'a': 3, 'b': 4}
        """
        largest = max(sizes.values(), default=0)
        extra = {
            name: (max(1, largest // max(1, size)).bit_length() - 1) // 2  # ⌊log₄(largest / size)⌋
            for name, size in sizes.items()
        }
        return {
            name: self.bits if self.allocation == "equal" else min(8, self.bits + extra[name])
            for name in sizes
        }
