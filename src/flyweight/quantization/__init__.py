"""Quantize weights: k-means, fixed point, learned steps, GPTQ, post-training, the `Quantizer`."""

from flyweight.quantization.bias_correction import correct_biases_
from flyweight.quantization.comparison import SchemeError, compare_schemes
from flyweight.quantization.config import METHODS, Method, QuantizationConfig
from flyweight.quantization.exact_kmeans import exact_kmeans_edges
from flyweight.quantization.file_storage import MANTISSA_BITS, FileStorage
from flyweight.quantization.fixed_point import (
    SCHEMES,
    FixedPoint,
    Grid,
    Scheme,
    quantize_fixed_point,
)
from flyweight.quantization.fixed_point_weight import BinaryWeight, FixedPointWeight
from flyweight.quantization.gptq_rounding import gptq
from flyweight.quantization.grid_start import start_on_grid_
from flyweight.quantization.input_statistics import input_correlations
from flyweight.quantization.kmeans import kmeans_1d, nearest
from flyweight.quantization.kmeans_initialization import (
    INITIALIZATIONS,
    Initialization,
    initial_centroids,
)
from flyweight.quantization.kmeans_weight import KMeansWeight
from flyweight.quantization.learned_step_weight import LearnedStepWeight, TernaryWeight
from flyweight.quantization.post_training import quantize_post_training
from flyweight.quantization.post_training_config import PostTrainingConfig
from flyweight.quantization.quantizer import Quantizer
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    check_loss_per_bit,
    code_bits,
    rdoq,
    steps_at_loss_per_bit,
)
from flyweight.quantization.rate_weight import RateWeight
from flyweight.quantization.report import LayerQuantization, QuantizationReport
from flyweight.quantization.weight_sharing import quantize_kmeans

__all__ = [
    "INITIALIZATIONS",
    "LARGEST_CODE",
    "MANTISSA_BITS",
    "METHODS",
    "SCHEMES",
    "BinaryWeight",
    "FileStorage",
    "FixedPoint",
    "FixedPointWeight",
    "Grid",
    "Initialization",
    "KMeansWeight",
    "LayerQuantization",
    "LearnedStepWeight",
    "Method",
    "PostTrainingConfig",
    "QuantizationConfig",
    "QuantizationReport",
    "Quantizer",
    "RateWeight",
    "Scheme",
    "SchemeError",
    "TernaryWeight",
    "check_loss_per_bit",
    "code_bits",
    "compare_schemes",
    "correct_biases_",
    "exact_kmeans_edges",
    "gptq",
    "initial_centroids",
    "input_correlations",
    "kmeans_1d",
    "nearest",
    "quantize_fixed_point",
    "quantize_kmeans",
    "quantize_post_training",
    "rdoq",
    "start_on_grid_",
    "steps_at_loss_per_bit",
]
