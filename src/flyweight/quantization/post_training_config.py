"""Configuration of post-training quantization."""

from __future__ import annotations

import dataclasses

from flyweight._config import AtLeastOne, NotNegativeInt, Positive, check_fields

__all__ = ["PostTrainingConfig"]


@dataclasses.dataclass(frozen=True)
class PostTrainingConfig:
    """How weights are quantized without training, from calibration data.

    Attributes:
        loss_per_bit: increase of the loss, in nats an example, that one bit of the file is worth
            (λ); the larger, the smaller the file. Try 1e-8 to 1e-6 for 300,000 weights.
        target_bytes: bytes of the whole file, of which up to 1 % may be missing; the loss per bit
            is then found, from ``loss_per_bit`` on. 0 for none.
        include: globs over names of weights of two and more dimensions that are quantized.
        exclude: globs of those among them that stay floats.
        examples: examples, from the first on, that the weights are chosen by.
        calibration_examples: examples, from the first on, that re-estimate batch normalization and
            correct biases.
        gptq: let the weights still to be rounded make up for the error so far, in linear layers
            and convolutions; else each weight is rounded alone.
        measured: measure the sensitivity of each layer by the outputs of the model with that
            layer alone quantized; else by Fisher information alone.

    Raises:
        RecipeError: a value is of another type or out of its bounds.

    Example:
        >>> PostTrainingConfig(loss_per_bit=1e-6).examples
        256

    Sources: Shoham & Gersho 1988 (one multiplier for all layers); Frantar et al. 2023, "GPTQ", §3.
    """

    loss_per_bit: Positive = 1e-7
    target_bytes: NotNegativeInt = 0
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    examples: AtLeastOne = 256
    calibration_examples: AtLeastOne = 2048
    gptq: bool = True
    measured: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "post_training")
