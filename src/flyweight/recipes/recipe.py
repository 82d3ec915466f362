"""Recipes: every setting of a compression, as a frozen dataclass or a TOML file."""

from __future__ import annotations

import dataclasses
import operator
import os
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w

from flyweight._config import NotNegativeInt, check_fields, from_table
from flyweight.errors import RecipeError
from flyweight.pruning import PruningConfig
from flyweight.quantization import MANTISSA_BITS, PostTrainingConfig, QuantizationConfig
from flyweight.training import TrainingConfig

__all__ = ["Recipe", "load_recipe", "recipe_names"]

_RETRAINING = TrainingConfig(epochs=4, learning_rate=0.05)
_FINE_TUNING = TrainingConfig(epochs=1, learning_rate=0.005)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a compression, stage by stage; a stage without a table is left out.

    Attributes:
        name: goes into the file.
        description: one line for people.
        pruning: what is pruned, and when.
        retraining: how the model trains while it is pruned.
        quantization: how weights are quantized while the model trains.
        fine_tuning: how the model trains while it is quantized.
        post_training: how weights are quantized without training. With ``quantization`` by the
            method "rate", training goes on from there; with no other method.
        fold_batch_norm: store two of the four vectors of a batch normalization, its effective
            scale and bias.
        float_dtype: type that the tensors which are not quantized are rounded to in the file.
        float_mantissa_bits: round these to so many bits of the mantissa, to nearest with ties to
            even; at most the 7 of "bfloat16", 10 of "float16" or 23 of "float32", and 0 for all
            of them.

    Raises:
        RecipeError: a value is of another type or out of its bounds, or does not go with others.

    Example:
        >>> recipe = Recipe(pruning=PruningConfig(sparsity=0.8))
        >>> Recipe.from_toml(recipe.to_toml()) == recipe
        True
    """

    name: str = "custom"
    description: str = ""
    pruning: PruningConfig | None = None
    retraining: TrainingConfig = _RETRAINING
    quantization: QuantizationConfig | None = None
    fine_tuning: TrainingConfig = _FINE_TUNING
    post_training: PostTrainingConfig | None = None
    fold_batch_norm: bool = True
    float_dtype: Literal["bfloat16", "float16", "float32"] = "float16"
    float_mantissa_bits: NotNegativeInt = 0

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.float_mantissa_bits > MANTISSA_BITS[self.float_dtype]:
            raise RecipeError(
                f"float_mantissa_bits is from 1 to {MANTISSA_BITS[self.float_dtype]} for "
                f"{self.float_dtype}, or 0 for all of them; found {self.float_mantissa_bits}"
            )
        rate = self.quantization is not None and self.quantization.method == "rate"
        if self.quantization is not None and self.post_training is not None and not rate:
            raise RecipeError(
                "[post_training] goes with [quantization] of the method 'rate' only, which trains "
                "on from it; leave one of them out"
            )
        if self.quantization and self.quantization.start_bits and self.fine_tuning.ema_decay:
            raise RecipeError(
                "fine_tuning.ema_decay is 0 with quantization.start_bits, since weights of "
                f"falling bits are not averaged; found {self.fine_tuning.ema_decay}"
            )

    @property
    def stages(self) -> tuple[TrainingConfig, ...]:
        """How the model trains in each stage of training that there is."""
        trained = (self.pruning, self.retraining), (self.quantization, self.fine_tuning)
        return tuple(training for stage, training in trained if stage is not None)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(training.epochs for training in self.stages)

    def with_target(self, target_bytes: int) -> Recipe:
        """Return this recipe with another size of the file to end with.

        Raises:
            RecipeError: the size is not above 0, or the recipe has no stage that reaches one.

        Example:
            >>> load_recipe("quick").with_target(30_000).quantization.target_bytes
            30000
        """
        try:
            target_bytes = operator.index(target_bytes)
        except TypeError:
            raise RecipeError(
                f"target_bytes is a whole number of bytes; found {target_bytes!r}"
            ) from None
        if target_bytes < 1:
            raise RecipeError(f"target_bytes is above 0; found {target_bytes}")
        if self.post_training is not None and self.quantization is None:
            post_training = dataclasses.replace(self.post_training, target_bytes=target_bytes)
            return dataclasses.replace(self, post_training=post_training)
        if self.quantization is None or self.quantization.method != "rate":
            raise RecipeError(
                f"recipe {self.name} cannot reach a size that is asked for; give one whose "
                "quantization.method is 'rate', such as quick or smallest, or post-training"
            )
        quantization = dataclasses.replace(self.quantization, target_bytes=target_bytes)
        return dataclasses.replace(self, quantization=quantization)

    def to_toml(self) -> str:
        """Return this recipe as a TOML document.

        Raises:
            RecipeError: the criterion of pruning is a function, which no file holds.
        """
        if self.pruning is not None and callable(self.pruning.criterion):
            raise RecipeError("pruning.criterion is a function, which TOML cannot hold; name one")
        table = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return tomli_w.dumps(table)

    @staticmethod
    def from_toml(text: str, *, where: str = "the recipe") -> Recipe:
        """Read a recipe.

        Raises:
            RecipeError: bad TOML, an unknown key, a value of another type or out of its bounds.
        """
        try:
            document: dict[str, Any] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # also numbers too long, tables too deep
            raise RecipeError(f"{where} is not valid TOML: {error}") from error
        return from_table(Recipe, document, where)


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that flyweight ships.

    Example:
        >>> "quick" in recipe_names()
        True
    """
    folder = resources.files("flyweight.recipes")
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


def load_recipe(
    name: str | Path | Recipe | PruningConfig | QuantizationConfig | PostTrainingConfig,
) -> Recipe:
    """Return a shipped recipe by its name, one from a TOML file, or one with a single stage.

    Args:
        name: of a shipped recipe, as a string, or the path of a TOML file; a `Recipe` stays what
            it is, and the configuration of one stage becomes a recipe of it alone.

    Raises:
        RecipeError: there is no such recipe or file, or the file is no recipe.

    Example:
        >>> load_recipe("quick").name
        'quick'
    """
    if isinstance(name, Recipe):
        return name
    if isinstance(name, PruningConfig):
        return Recipe(pruning=name)
    if isinstance(name, QuantizationConfig):
        return Recipe(quantization=name)
    if isinstance(name, PostTrainingConfig):
        return Recipe(post_training=name)
    if not isinstance(name, str | os.PathLike):
        raise RecipeError(
            f"the recipe is a {type(name).__name__}; give a name, the path of a TOML file, a "
            "Recipe or the configuration of one stage"
        )
    if isinstance(name, str) and name in recipe_names():
        file = resources.files("flyweight.recipes") / f"{name}.toml"
        return Recipe.from_toml(file.read_text(), where=f"recipe {name}")
    try:
        text = Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(recipe_names())
        raise RecipeError(
            f"there is no recipe {str(name)!r}; give a TOML file or one of {known}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {name} cannot be read: {error}") from error
    return Recipe.from_toml(text, where=str(name))
