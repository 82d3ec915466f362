"""The names that a course notebook uses, over flyweight: they change the network given.

    from labs.course import prune_by_std, prune_by_percentage, finetune_after_prune, summary
    from labs.course import FP_Conv, FP_Linear, STE, quantize_whole_model, huffman_coding

``q`` is in per cent, as in the course. Zeros stay zeros in `finetune_after_prune`. In a loop of
your own `STE` gives them no gradient, but an optimizer that has momentum from before the pruning
moves them all the same: make a new one after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flyweight.cifar import AugmentedImages, load_cifar10
from flyweight.coding import canonical_codewords, code_lengths
from flyweight.compressed import CompressedTensor
from flyweight.modules import apply_masks_, attach_, detach_, select_weights
from flyweight.pruning import (
    MaskedWeight,
    Summary,
    global_magnitude_masks,
    percentile_mask,
    std_mask,
    summarize_sparsity,
)
from flyweight.quantization import FixedPoint, Initialization, quantize_kmeans
from flyweight.training import TrainingConfig, train_

_MOST_BITS = 8  # of `FixedPoint`

__all__ = [
    "STE",
    "FP_Conv",
    "FP_Linear",
    "average_bits",
    "finetune_after_prune",
    "global_prune_by_percentage",
    "huffman_coding",
    "prune_by_percentage",
    "prune_by_std",
    "quantize_whole_model",
    "summary",
]


def prune_by_percentage(net: nn.Module, q: float = 70.0) -> nn.Module:
    """Set the ``q`` per cent smallest weights of each layer to zero. ``net`` may be one layer.

    Warns where ``q`` is between 0 and 1, since it is in per cent: 0.7 is 0.7 %. Raises ModelError
    for a ``q`` outside 0…100.

    Example:
        >>> layer = prune_by_percentage(nn.Linear(10, 10), q=30)
        >>> int((layer.weight == 0).sum())
        30
    """
    _warn_of_fractions(q)
    return _prune_(net, lambda weight: percentile_mask(weight, q))


def prune_by_std(net: nn.Module, s: float = 0.25) -> nn.Module:
    """Set the weights of each layer below ``s`` of its standard deviations to zero.

    Raises ModelError for an ``s`` below 0.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, -2.0], [0.5, -0.5]]))
        >>> prune_by_std(layer, s=1).weight.tolist()
        [[2.0, -2.0], [0.0, 0.0]]
    """
    return _prune_(net, lambda weight: std_mask(weight, s))


def global_prune_by_percentage(net: nn.Module, q: float = 70.0) -> nn.Module:
    """Set the ``q`` per cent smallest weights of the whole network to zero, by one threshold.

    Warns and raises as `prune_by_percentage`.

    Example:
        >>> net = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
        >>> _ = net[0].weight.data.mul_(0.001)
        >>> [int((layer.weight == 0).sum()) for layer in global_prune_by_percentage(net, q=30)]
        [60, 0]
    """
    _warn_of_fractions(q)
    weights = select_weights(net)
    apply_masks_(weights, global_magnitude_masks(weights, q / 100))
    return net


def _warn_of_fractions(q: float) -> None:
    if 0 < q < 1:
        warnings.warn(
            f"q is in per cent: {q} prunes {q} % of the weights; did you mean {100 * q:g}?",
            stacklevel=3,
        )


def _prune_(net: nn.Module, mask_of: Callable[[Tensor], Tensor]) -> nn.Module:
    weights = select_weights(net)
    apply_masks_(weights, {name: mask_of(weight) for name, weight in weights.items()})
    return net


def finetune_after_prune(
    net: nn.Module,
    trainloader: Iterable[tuple[Tensor, Tensor]] | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    prune: bool = True,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    lr: float = 0.01,
    reg: float = 5e-4,
    seed: int = 0,
) -> nn.Module:
    """Train on for some epochs; with ``prune``, what is zero stays zero.

    With a ``trainloader`` it is used, with ``optimizer`` or, where there is none, SGD with momentum
    0.9 of rate ``lr`` and weight decay ``reg``. Without, the 45,000 training images of CIFAR-10
    are, in batches of ``batch_size`` and by the training loop of flyweight: the rate rises to
    ``lr`` and falls again, and the loss is the cross-entropy.

    Raises ValueError for an optimizer or a criterion of your own without a trainloader.

    Example:
        >>> layer = prune_by_percentage(nn.Linear(10, 10), q=30)
        >>> batches = [(torch.randn(4, 10), torch.arange(4))]
        >>> int((finetune_after_prune(layer, batches, epochs=2).weight == 0).sum())
        30
    """
    if trainloader is None:
        _check_ours(criterion, optimizer)
    weights = select_weights(net)
    masks = {name: MaskedWeight(weight.detach() != 0) for name, weight in weights.items()}
    if prune:
        attach_(net, masks)
    try:
        if trainloader is None:
            config = TrainingConfig(epochs=epochs, learning_rate=lr, weight_decay=reg)
            device = next(net.parameters()).device
            images = load_cifar10().split("train45k").to(device)
            batches = AugmentedImages(images, batch_size=batch_size)
            train_(net, batches, config, device=device, seed=seed)
        else:
            if optimizer is None:
                optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=reg)
            net.train()
            for _ in range(epochs):
                for inputs, targets in trainloader:
                    optimizer.zero_grad()
                    criterion(net(inputs), targets).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
    finally:
        if prune:
            detach_(net, masks)
    return net


def _check_ours(criterion: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """Raise ValueError where the loop of flyweight would not do what was asked for."""
    if optimizer is not None:
        raise ValueError("an optimizer is for a trainloader of yours; give one, or leave it out")
    plain = criterion is F.cross_entropy
    if isinstance(criterion, nn.CrossEntropyLoss):
        as_made = {k: v for k, v in vars(nn.CrossEntropyLoss()).items() if not k.startswith("_")}
        own = {k: v for k, v in vars(criterion).items() if not k.startswith("_")}
        plain = own == as_made and criterion.weight is None
    if not plain:
        raise ValueError(
            "without a trainloader the loss is the cross-entropy; give one for another criterion"
        )


def summary(net: nn.Module) -> Summary:
    """Print layer, type, parameters, non-zeros and sparsity of each layer, and the totals."""
    found = summarize_sparsity(net)
    print(found)
    return found


class STE(torch.autograd.Function):
    """Fixed point with dynamic scaling of the non-zero weights; the gradient goes straight through.

    ``STE.apply(weight, bits)``; symmetric with ``STE.apply(weight, bits, True)``, which has a level
    at zero and 2^(bits-1) - 1 on either side, or with "symmetric-no-zero" in place of True, 2^bits
    levels and none at zero. Zeros stay zeros and get no gradient. None for the bits, or 32 and
    more, leaves the weight as it is; 0 bits, and 1 bit with a level at zero, make it zero.

    Example:
        >>> STE.apply(torch.tensor([0.0, -1.0, 0.1, 2.0]), 2).tolist()
        [0.0, -1.0, 0.0, 2.0]
        >>> STE.apply(torch.tensor([0.0, -1.0, 0.1, 2.0]), 2, True).tolist()
        [0.0, 0.0, 0.0, 2.0]
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor, bit: int | None, symmetric: bool | str = False) -> Tensor:
        """What the layer computes with."""
        mask = w != 0
        ctx.save_for_backward(mask)
        if bit is None or bit >= 32:
            return w.clone()
        scheme = ("symmetric" if symmetric else "uniform") if symmetric in (0, 1) else symmetric
        if bit <= 0 or (bit == 1 and scheme == "symmetric"):
            return torch.zeros_like(w)
        if bit > _MOST_BITS:
            return _wide_fixed_point(w, mask, bit, scheme)
        return FixedPoint(bit, scheme).quantize(w, mask)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        """The gradient itself, and none for what is pruned."""
        return g * ctx.saved_tensors[0], None, None


def _wide_fixed_point(w: Tensor, mask: Tensor, bit: int, scheme: str) -> Tensor:
    """Fixed point of more bits than a file has levels for."""
    kept = w[mask].double()
    if not kept.numel():
        return torch.zeros_like(w)
    low, high = float(kept.min()), float(kept.max())
    if scheme != "uniform":
        high = max(high, -low)
        low = 0.0 if scheme == "symmetric" else -high
    steps = 2 ** (bit - 1) - 1 if scheme == "symmetric" else 2**bit - 1
    scale = (high - low) / steps or 1.0
    values = torch.round((w.double() - low) / scale) * scale + low
    return torch.where(mask, values.to(w.dtype), torch.zeros_like(w))


class FP_Linear(nn.Module):  # noqa: N801
    """A linear layer, ``linear``, whose weights have ``Nbits`` bits in the forward pass.

    ``symmetric`` is as for `STE`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        Nbits: int | None = None,
        symmetric: bool | str = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.Nbits = Nbits
        self.symmetric = symmetric

    def forward(self, x: Tensor) -> Tensor:
        """The layer with quantized weights."""
        weight = STE.apply(self.linear.weight, self.Nbits, self.symmetric)
        return F.linear(x, weight, self.linear.bias)


class FP_Conv(nn.Module):  # noqa: N801
    """A convolution, ``conv``, whose weights have ``Nbits`` bits in the forward pass.

    ``symmetric`` is as for `STE`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        Nbits: int | None = None,
        symmetric: bool | str = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.Nbits = Nbits
        self.symmetric = symmetric

    def forward(self, x: Tensor) -> Tensor:
        """The layer with quantized weights."""
        weight = STE.apply(self.conv.weight, self.Nbits, self.symmetric)
        return self.conv._conv_forward(x, weight, self.conv.bias)


def quantize_whole_model(
    net: nn.Module, bits: int = 5, init: Initialization = "linear", seed: int = 0
) -> list[Tensor]:
    """Let the non-zero weights of each layer share 2^bits values; return these, layer by layer.

    Example:
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> [len(centers) for centers in quantize_whole_model(nn.Linear(10, 10), bits=3)]
        [8]
    """
    centers = []
    for weight in select_weights(net).values():
        shared = quantize_kmeans(weight, bits=bits, init=init, seed=seed)
        weight.data.copy_(shared.dequantize())
        centers.append(shared.levels)
    return centers


def huffman_coding(
    net: nn.Module, centers: Sequence[Tensor] | None = None
) -> tuple[list[dict[float, int]], list[dict[float, str]]]:
    """Huffman codes of the non-zero weights of each layer; print their average length in bits.

    Returns, layer by layer, how often each value occurs and its codeword. ``centers`` from
    `quantize_whole_model` is checked against the values that are there.
    """
    frequencies: list[dict[float, int]] = []
    encodings: list[dict[float, str]] = []
    for place, weight in enumerate(select_weights(net).values()):
        tensor = CompressedTensor.from_values(weight)
        if centers is not None and not bool(torch.isin(tensor.levels, centers[place]).all()):
            raise ValueError(f"layer {place} holds values that are not among its centers")
        symbols = tensor.symbols[tensor.symbols > 0].long() - 1
        counts = torch.bincount(symbols, minlength=tensor.levels.numel()).numpy()
        lengths = code_lengths(counts)
        words = canonical_codewords(lengths)
        values = tensor.levels.tolist()
        frequencies.append(dict(zip(values, counts.tolist(), strict=True)))
        encodings.append(
            {
                value: format(int(word), f"0{int(length)}b")
                for value, word, length in zip(values, words, lengths, strict=True)
            }
        )
        average = float(counts @ lengths) / max(1, int(counts.sum()))
        print(f"layer {place}: {average:.4f} bits for each non-zero weight")
    print(f"average: {average_bits(frequencies, encodings):.4f} bits")
    return frequencies, encodings


def average_bits(
    frequencies: Sequence[dict[float, int]], encodings: Sequence[dict[float, str]]
) -> float:
    """Bits for each weight of all layers together, by what `huffman_coding` returns."""
    bits = sum(
        count * len(words[value])
        for counts, words in zip(frequencies, encodings, strict=True)
        for value, count in counts.items()
    )
    return bits / max(1, sum(sum(counts.values()) for counts in frequencies))
