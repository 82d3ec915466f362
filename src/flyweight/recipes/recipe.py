"""Recipes: every setting of a compression, in a frozen dataclass or a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import tomli_w

from flyweight.errors import RecipeError
from flyweight.pruning import SCHEDULES, Pattern
from flyweight.quantization import INITIALIZATIONS, SCHEMES, Initialization
from flyweight.recipes.values import check_values, with_values
from flyweight.training import TrainingConfig

__all__ = ["PruningRecipe", "Recipe", "SharingRecipe", "load_recipe"]

CRITERIA = ("magnitude", "taylor", "fisher", "random")
SCOPES = ("global", "layer")
UNITS = ("steps", "epochs")
WEIGHT_SCHEMES = ("shared", *SCHEMES, "learned-step", "ternary", "binary")
MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23}  # without the first, an implied 1
_RETRAINING = TrainingConfig(epochs=4, learning_rate=0.05, ema_decay=0.0)
_TUNING = TrainingConfig(epochs=1, learning_rate=0.005, ema_decay=0.0)


@dataclasses.dataclass(frozen=True)
class PruningRecipe:
    """Pruning while the network retrains.

    Attributes:
        sparsity: fraction of the weights of the chosen layers that end as zeros, from 0 up to 1.
        criterion: what is pruned first: the smallest "magnitude"; the least loss by "taylor" or
            "fisher", measured on ``calibration`` training images each time; or at "random".
        scope: "global" has one threshold for all layers, "layer" the same sparsity in each.
        pattern: "weights", "2:4" and the like, "filters", "channels", or a block "4x1x3x3".
            Other patterns than weights are chosen layer by layer; N:M goes with a sparsity of
            1 − N/M.
        schedule: "cubic" and "linear" grow, "one-shot" is there from the first step.
        ramp: fraction of the steps in which sparsity grows, from 0 to 1.
        interval: steps or epochs from one choice of masks to the next.
        unit: of the interval, "steps" or "epochs".
        recovery: pruned weights still learn, those of whole filters excepted, and may return until
            the ramp ends.
        layers: globs over the names of weights of two and more dimensions that are pruned. All
            others still take few values, unless the sharing keeps them, and zeros among them stay.
        keep: globs of those among them that are not pruned.
        types: classes of layers that are pruned, such as "Conv2d"; none for all.
        overrides: sparsity by glob, for layers that differ from the others.
        calibration: training images that saliency is measured on.
        training: how the network retrains; with ``ema_decay`` the moving average of the weights,
            under the masks of the last step, is what comes out.

    Sources: Zhu & Gupta 2017 (cubic schedule); Lin et al. 2020, "Dynamic model pruning with
    feedback" (recovery).
    """

    sparsity: float = 0.75
    criterion: Literal["magnitude", "taylor", "fisher", "random"] = "magnitude"
    scope: Literal["global", "layer"] = "global"
    pattern: str = "weights"
    schedule: Literal["cubic", "linear", "one-shot"] = "cubic"
    ramp: float = 0.6
    interval: int = 20
    unit: Literal["steps", "epochs"] = "steps"
    recovery: bool = True
    layers: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    overrides: Mapping[str, float] = dataclasses.field(default_factory=dict)
    calibration: int = 512
    training: TrainingConfig = _RETRAINING

    def __post_init__(self) -> None:
        check_values(self, "pruning.")
        if not 0 <= self.sparsity < 1:
            raise RecipeError(
                f"pruning.sparsity is a fraction from 0 up to, not including, 1; "
                f"found {self.sparsity}"
            )
        if not 0 <= self.ramp <= 1:
            raise RecipeError(f"pruning.ramp is a fraction from 0 to 1; found {self.ramp}")
        if self.interval < 1:
            raise RecipeError(
                f"pruning.interval is at least 1 of its {self.unit}; found {self.interval}"
            )
        if self.calibration < 1:
            raise RecipeError(f"pruning.calibration is at least 1 image; found {self.calibration}")
        for glob, sparsity in self.overrides.items():
            if not 0 <= sparsity <= 1:
                raise RecipeError(
                    f"pruning.overrides.{glob!r} is a fraction from 0 to 1; found {sparsity}"
                )
        choices = ("criterion", CRITERIA), ("scope", SCOPES), ("schedule", SCHEDULES)
        for key, known in (*choices, ("unit", UNITS)):
            if getattr(self, key) not in known:
                raise RecipeError(
                    f"pruning.{key} is one of {', '.join(known)}; found {getattr(self, key)!r}"
                )
        self._check_pattern()

    def _check_pattern(self) -> None:
        pattern = Pattern.of(self.pattern)
        if pattern.kind == "n:m":
            n, m = pattern.extents
            near = abs(self.sparsity - (1 - n / m)) <= 1e-6
            if not near or pattern.pruned_of_each(self.sparsity) != m - n or self.overrides:
                raise RecipeError(
                    f"pruning.pattern {self.pattern!r} goes with a sparsity of {1 - n / m} in "
                    f"every layer; found {self.sparsity}"
                )


@dataclasses.dataclass(frozen=True)
class SharingRecipe:
    """Few values for the non-zero weights, then training with them.

    Attributes:
        scheme: "shared" is k-means weight sharing with trained centroids; "asymmetric", "narrow"
            and "mid-rise" are fixed point with a range that follows the weights; "learned-step" has
            a step that is learned; "ternary" two learned scales and zero; "binary" one scale.
        bits: at most 2^bits values to a tensor ("narrow" and "learned-step": 2 bits and more;
            "ternary" and "binary" have their own number).
        allocation: with "size", ``bits`` is that of the largest tensor, and one with a quarter of
            its weights gets one bit more (up to 8): the relative error of every tensor then counts
            the same, and bits are spent where they cost least. Not for "ternary" and "binary".
        first_bits: of the first step, for ``bits`` that fall to the last by one at a time over the
            first ``settle`` of the steps; 0 is ``bits`` from the start. Not for "ternary" and
            "binary".
        interval: of "shared", steps after which each weight joins the nearest value anew. With
            many, weights move on gradients that the values do not answer, and too far.
        settle: fraction of the steps in which they do; after that only the values move.
        init: of "shared", where k-means begins; "optimal" has the least squared error.
        importance: of "shared", how much the error of a weight counts in k-means: "equal", or by
            its "fisher" information, measured before it trains.
        calibration: training images that this is measured on.
        per_channel: ranges, steps or scales of each place along the first dimension, which for most
            layers are the outputs. The file holds one number for each (a
            second for "asymmetric" without ``zero_level``), and the weights use more of their
            levels, which takes more bits. Not for "shared" and "ternary".
        power_of_two: the distance of levels is the next power of two; for fixed point.
        zero_level: "asymmetric" has zero among its levels, as `FixedPoint` says.
        threshold: "ternary" makes zeros of weights up to this fraction of the largest.
        keep: globs of weights that stay floats; what is pruned of them stays so. Of a weight that
            several layers share, one of its names is enough.
        storage: how the values, and the scales and offsets of outputs, are kept in the file.
        training: how the network trains with them.

    Sources: sharing after Han et al. 2016, "Deep compression", §3; by Fisher information after Choi
    et al. 2017, "Towards the limit of network quantization", §3; bits by reverse water-filling
    (Cover & Thomas 2006, §10.3.3).
    """

    scheme: Literal[
        "shared", "asymmetric", "narrow", "mid-rise", "learned-step", "ternary", "binary"
    ] = "shared"
    bits: int = 4
    allocation: Literal["equal", "size"] = "equal"
    first_bits: int = 0
    interval: int = 1
    settle: float = 0.7
    init: Initialization = "optimal"
    importance: Literal["equal", "fisher"] = "equal"
    calibration: int = 512
    per_channel: bool = False
    power_of_two: bool = False
    zero_level: bool = False
    threshold: float = 0.05
    keep: tuple[str, ...] = ()
    storage: Literal["float16", "float32"] = "float16"
    training: TrainingConfig = _TUNING

    def __post_init__(self) -> None:
        check_values(self, "sharing.")
        if not 1 <= self.bits <= 8:
            raise RecipeError(f"sharing.bits is from 1 to 8; found {self.bits}")
        choices = (
            ("scheme", WEIGHT_SCHEMES),
            ("allocation", ("equal", "size")),
            ("init", INITIALIZATIONS),
            ("importance", ("equal", "fisher")),
            ("storage", ("float16", "float32")),
        )
        for key, known in choices:
            if getattr(self, key) not in known:
                raise RecipeError(
                    f"sharing.{key} is one of {', '.join(known)}; found {getattr(self, key)!r}"
                )
        if self.first_bits and not self.bits <= self.first_bits <= 8:
            raise RecipeError(
                f"sharing.first_bits is 0, or from bits = {self.bits} to 8; found {self.first_bits}"
            )
        if self.interval < 1:
            raise RecipeError(f"sharing.interval is at least 1 step; found {self.interval}")
        if self.calibration < 1:
            raise RecipeError(f"sharing.calibration is at least 1 image; found {self.calibration}")
        if not 0 <= self.settle <= 1:
            raise RecipeError(f"sharing.settle is a fraction from 0 to 1; found {self.settle}")
        if self.first_bits > self.bits and not self.settle:
            raise RecipeError("sharing.settle is above 0 with first_bits; found 0")
        if not 0 <= self.threshold < 1:
            raise RecipeError(
                f"sharing.threshold is a fraction from 0 up to 1; found {self.threshold}"
            )
        if self.first_bits and self.training.ema_decay:
            raise RecipeError(
                "sharing.training.ema_decay is 0 with first_bits, since values of fewer and fewer "
                f"bits are not averaged; found {self.training.ema_decay}"
            )
        self._check_scheme()

    def _check_scheme(self) -> None:
        """Refuse what this scheme would do nothing with."""
        scheme = self.scheme
        if self.bits < 2 and scheme in ("narrow", "learned-step"):
            raise RecipeError(f"sharing.bits of {scheme!r} is from 2 to 8; found {self.bits}")
        if self.importance != "equal" and scheme != "shared":
            raise RecipeError(
                f"sharing.importance is for the scheme 'shared', not for {scheme!r}; "
                f"found {self.importance!r}"
            )
        for key, schemes in (
            ("per_channel", (*SCHEMES, "learned-step", "binary")),
            ("power_of_two", SCHEMES),
            ("zero_level", ("asymmetric",)),
        ):
            if getattr(self, key) and scheme not in schemes:
                raise RecipeError(f"sharing.{key} is not for the scheme {scheme!r}; found true")
        if scheme in ("ternary", "binary") and (self.first_bits or self.allocation != "equal"):
            key = "first_bits" if self.first_bits else "allocation"
            raise RecipeError(
                f"sharing.{key} is not for the scheme {scheme!r}, which has its own number of "
                f"values; found {getattr(self, key)!r}"
            )
        if scheme != "ternary" and self.threshold != SharingRecipe.threshold:
            raise RecipeError(
                f"sharing.threshold is for the scheme 'ternary', not for {scheme!r}; "
                f"found {self.threshold}"
            )

    def extra_bits(self, step: int, steps: int) -> int:
        """How many more bits than at the end a step has, counted from 0 out of ``steps``.

        Example:
            >>> recipe = SharingRecipe(bits=2, first_bits=4, settle=0.6)
            >>> [recipe.extra_bits(step, 10) for step in range(10)]
            [2, 2, 1, 1, 0, 0, 0, 0, 0, 0]
        """
        ramp = min(self.settle * steps, steps - 1)
        if not self.first_bits or step >= ramp:
            return 0
        more = self.first_bits - self.bits
        return more - int(step / ramp * (more + 1))

    def bits_of(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Bits for each tensor, given its number of weights.

        Example:
            >>> SharingRecipe(bits=3, allocation="size").bits_of({"a": 4096, "b": 1024})
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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a compression does, stage by stage.

    Attributes:
        name, description: of the recipe; the name goes into the file.
        pruning: how weights become zeros.
        sharing: how the others take few values.
        fold_batch_norm: keep two of the four vectors of a batch normalisation, its effective scale
            and bias.
        dense: how the floats outside the coded weights are kept in the file.
        dense_mantissa_bits: round these floats to so many bits after the first, to nearest with
            ties to even; the bits that are then zero take next to no bytes. At most the 7 of
            "bfloat16", 10 of "float16" or 23 of "float32"; 0 is as many as ``dense`` has.

    Example:
        >>> Recipe.from_toml(Recipe().to_toml()) == Recipe()
        True
    """

    name: str = "custom"
    description: str = ""
    pruning: PruningRecipe = PruningRecipe()
    sharing: SharingRecipe = SharingRecipe()
    fold_batch_norm: bool = True
    dense: Literal["bfloat16", "float16", "float32"] = "float16"
    dense_mantissa_bits: int = 0

    def __post_init__(self) -> None:
        check_values(self, "")
        if self.dense not in MANTISSA_BITS:
            raise RecipeError(f"dense is 'bfloat16', 'float16' or 'float32'; found {self.dense!r}")
        if not 0 <= self.dense_mantissa_bits <= MANTISSA_BITS[self.dense]:
            raise RecipeError(
                f"dense_mantissa_bits is from 1 to {MANTISSA_BITS[self.dense]} for {self.dense}, "
                f"or 0 for all of them; found {self.dense_mantissa_bits}"
            )

    def to_toml(self) -> str:
        """This recipe as a TOML document."""
        return tomli_w.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_toml(text: str, *, where: str = "the recipe") -> Recipe:
        """Read a recipe. Raises RecipeError for bad TOML, unknown keys and impossible values."""
        try:
            document = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers too long, tables too deep
            raise RecipeError(f"{where} is not valid TOML: {error}") from error
        recipe: Recipe = with_values(Recipe(), document, where, "")
        return recipe


def load_recipe(name: str | Path | Recipe | PruningRecipe | SharingRecipe) -> Recipe:
    """A recipe shipped with flyweight, by name, or one from a TOML file.

    A recipe stays what it is, and a pruning or a sharing alone becomes the part of a whole one.
    Raises RecipeError where there is neither, or the file is no recipe.

    Example:
        >>> load_recipe("quick").name
        'quick'
    """
    if isinstance(name, Recipe):
        return name
    if isinstance(name, PruningRecipe):
        return Recipe(pruning=name)
    if isinstance(name, SharingRecipe):
        return Recipe(sharing=name)
    folder = resources.files("flyweight.recipes")
    shipped = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))
    if str(name) in shipped:
        return Recipe.from_toml((folder / f"{name}.toml").read_text(), where=f"recipe {name}")
    try:
        text = Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {str(name)!r}: give a TOML file or one of {', '.join(shipped)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {name} cannot be read: {error}") from error
    return Recipe.from_toml(text, where=str(name))
