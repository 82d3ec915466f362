"""Quantize weights: k-means, fixed point, learned steps, GPTQ, post-training, the `Quantizer`."""

from flyweight.quantization.bias_correction import (
    correct_biases_,
)
from flyweight.quantization.comparison import (
    SchemeError,
    compare_schemes,
)
from flyweight.quantization.config import METHODS, Method, QuantizationConfig
from flyweight.quantization.exact_kmeans import (
    LEAST_SHARE,
    exact_kmeans_edges,
)
from flyweight.quantization.fixed_point import (
    FixedPoint,
    Grid,
    SCHEMES,
    Scheme,
    quantize_fixed_point,
)
from flyweight.quantization.fixed_point_weight import (
    BinaryWeight,
    FixedPointWeight,
)
from flyweight.quantization.gptq_rounding import (
    input_correlations,
    gptq,
)
from flyweight.quantization.kmeans import (
    kmeans_1d,
    nearest,
)
from flyweight.quantization.kmeans_initialization import (
    INITIALIZATIONS,
    Initialization,
    initial_centroids,
)
from flyweight.quantization.kmeans_weight import (
    KMeansWeight,
)
from flyweight.quantization.learned_step_weight import (
    LearnedStepWeight,
    TernaryWeight,
)
from flyweight.quantization.post_training import (
    quantize_post_training_,
)
from flyweight.quantization.post_training_config import PostTrainingConfig
from flyweight.quantization.quantizer import (
    Quantization,
)
from flyweight.quantization.rate_distortion import (
    LARGEST_CODE,
    check_loss_per_bit,
    code_bits,
    rdoq,
    steps_at_loss_per_bit,
)
from flyweight.quantization.weight_sharing import (
    quantize_kmeans,
)

__all__ = [
    "BinaryWeight",
    "METHODS",
    "Method",
    "PostTrainingConfig",
    "QuantizationConfig",
    "FixedPoint",
    "FixedPointWeight",
    "Grid",
    "INITIALIZATIONS",
    "Initialization",
    "LARGEST_CODE",
    "LEAST_SHARE",
    "LearnedStepWeight",
    "Quantization",
    "SCHEMES",
    "Scheme",
    "SchemeError",
    "KMeansWeight",
    "TernaryWeight",
    "check_loss_per_bit",
    "code_bits",
    "compare_schemes",
    "correct_biases_",
    "initial_centroids",
    "quantize_fixed_point",
    "input_correlations",
    "kmeans_1d",
    "nearest",
    "exact_kmeans_edges",
    "quantize_post_training_",
    "rdoq",
    "gptq",
    "quantize_kmeans",
    "steps_at_loss_per_bit",
]
