"""The lossy stages of a compression: prune and retrain, quantise and train, finish."""

from flyweight.stages.bias_correction import correct_biases_
from flyweight.stages.finishing import check_model, finish
from flyweight.stages.post_training import quantize_post_training_
from flyweight.stages.pruning import Pruning, prune_
from flyweight.stages.quantization import Quantization, quantize_

__all__ = [
    "Pruning",
    "Quantization",
    "check_model",
    "correct_biases_",
    "finish",
    "prune_",
    "quantize_",
    "quantize_post_training_",
]
