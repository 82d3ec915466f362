"""The phases of rate-aware training: costs, kept codes, statistics, and floats as stored."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flyweight.batch_norm import fold_batch_norms_
from flyweight.compressed import CompressedTensor
from flyweight.errors import CheckpointError
from flyweight.modules import attached, dense_weight
from flyweight.quantization.config import QuantizationConfig
from flyweight.quantization.file_storage import MANTISSA_BITS, FileStorage
from flyweight.quantization.rate_control import RateControl, grid_steps
from flyweight.quantization.rate_weight import RateWeight
from flyweight.quantization.rounded_float import RoundedFloat

__all__ = ["RateTraining"]

_ESTIMATION_STEPS = 100  # of batch normalization, after the codes are kept
_FINER = 0.7  # of the steps of a grid, until the file is large enough
_ROOM = 1.3  # times the target, of the file before the first step
_MOST_BITS = 8
_MOST_CODES = 126  # on either side
_CONSTANT = 1e-4  # of ε: a variance below that is of a channel of zeros


class RateTraining:
    """Train a model towards bytes, for a `Quantizer` with the method "rate".

    Up to ``freeze_at``, weights follow the loss and the cost of their bits. Then codes are kept,
    and statistics of batch normalization are estimated again and folded; then levels, scales and
    biases train as the file stores them.

    Args:
        model: the prepared copy, before anything is attached.
        weights: to be quantized, by name.
        masks: of zeros that stay, by name.
        config: with the method "rate".
        bits: of each weight; the largest code follows from it.
        given: distances of levels by name, which stay unless the target takes finer ones.
        steps: of the optimizer in all.
        storage: of the file.

    Raises:
        ModelError: the target cannot be had.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        config: QuantizationConfig,
        bits: Mapping[str, int],
        given: Mapping[str, float],
        steps: int,
        storage: FileStorage,
    ) -> None:
        self._model, self._storage = model, storage
        # Never runs, so that it can be copied whatever the model keeps from a run.
        self._plain = copy.deepcopy(model).cpu()
        self._base = storage.compress(copy.deepcopy(self._plain), {})
        self._hooks: list[RemovableHandle] = []
        self._momenta: dict[str, float | None] = {}
        self._estimated: list[str] = []  # batch normalization that trained when codes were kept
        self._phase = 0  # 1: codes are kept, 2: floats are as stored
        scales = {name: config.step * 2.0 ** (config.bits - bits[name]) for name in weights}
        wish = config.bytes_of(model)
        peaks = {n: float(w.detach().abs().max()) if w.numel() else 0.0 for n, w in weights.items()}
        grid = grid_steps(weights, masks, scales)
        grid |= {name: max(step, peaks[name] / _MOST_CODES) for name, step in given.items()}
        used = {n: _enough(bits[n], peaks[n] / grid[n]) if n in given else bits[n] for n in grid}
        while True:
            quantized = {
                name: self._on_grid(weight, masks[name], grid[name], used[name], config.dead_zone)
                for name, weight in weights.items()
            }
            control = RateControl(config, steps, quantized, self._file_bytes)
            finer = {n: max(peaks[n] / _MOST_CODES, step * _FINER) for n, step in grid.items()}
            if control.count(weights) >= (1.0 if given else _ROOM) * wish or all(
                finer[name] >= grid[name] for name in grid
            ):
                break
            grid = {name: min(finer[name], step) for name, step in grid.items()}
            used = {name: _enough(used[name], peaks[name] / step) for name, step in grid.items()}
        self.quantized, self.control = quantized, control
        control.begin(weights, wish)
        self._fold_step = control.freeze_step + min(
            _ESTIMATION_STEPS, (steps - control.freeze_step) // 2
        )

    def _on_grid(
        self, weight: Tensor, mask: Tensor, step: float, bits: int, dead_zone: float
    ) -> RateWeight:
        dtype, mantissa_bits = self._storage.dtype, self._storage.float_mantissa_bits
        if mantissa_bits:  # as many as tell all multiples of a step apart
            mantissa_bits = min(
                max(mantissa_bits, bits - 1), MANTISSA_BITS[self._storage.float_dtype]
            )
        return RateWeight(
            weight,
            mask.clone(),
            step=step,
            largest=2 ** (bits - 1) - 1,
            dead_zone=dead_zone,
            stored=RoundedFloat(dtype, mantissa_bits),
        )

    def floats(self, *, without: Iterable[str]) -> dict[str, RoundedFloat]:
        """Return roundings of all other float parameters, by name, not yet active."""
        storage = self._storage
        if storage.dtype == torch.float32 and not storage.float_mantissa_bits:
            return {}
        left = {*without}
        return {
            name: RoundedFloat(storage.dtype, storage.float_mantissa_bits)
            for name, parameter in self._model.named_parameters()
            if name not in left and parameter.dtype == torch.float32
        }

    def step_(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Follow the schedule after a step of the optimizer."""
        if step < self.control.freeze_step:
            if step % self.control.interval == 0:
                self.control.update(step, weights)
            return
        if self._phase == 0:
            self._keep_codes_(weights)
        if self._phase == 1 and step >= self._fold_step:
            self._store_floats_()
        if step >= self.control.steps:
            self._lower_(weights)

    def finish_(self, weights: Mapping[str, Tensor]) -> None:
        """Go through the phases that no step has reached."""
        if self._phase == 0 and self.control.steps:
            warnings.warn(
                f"training ended before the codes were kept, at {self.control.freeze_step} of "
                f"{self.control.steps} steps, so that nothing trains with them; make all steps",
                stacklevel=4,
            )
        if self._phase == 0:
            self._keep_codes_(weights)
        if self._phase == 1:
            self._store_floats_()
        self._lower_(weights)

    def _lower_(self, weights: Mapping[str, Tensor]) -> None:
        if self._phase == 2:
            self._count_floats_()
            self.control.lower_(weights)

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor | None:
        """Return the bits of all weights times the loss per bit; None once codes are kept."""
        return self.control.penalty(weights) if self._phase == 0 else None

    def masks(self) -> dict[str, Tensor]:
        """Return where kept codes are not zero, by name; none while zeros may return."""
        return {name: q.codes != 0 for name, q in self.quantized.items() if q.is_frozen}

    def _batch_norms(self) -> dict[str, Any]:
        """Batch normalization that follows the batches, by name."""
        return {
            name: module
            for name, module in self._model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.running_mean is not None
        }

    def _file_bytes(self, tensors: Mapping[str, CompressedTensor]) -> int:
        whole = {**self._base.tensors, **tensors}
        return len(dataclasses.replace(self._base, tensors=whole).to_bytes())

    @torch.no_grad()
    def _count_floats_(self) -> None:
        """Take all other tensors as they are now into the count of bytes."""
        for name, parameter in self._plain.named_parameters():
            parameter.copy_(dense_weight(self._model, name))
        buffers = dict(self._model.named_buffers())
        for name, buffer in self._plain.named_buffers():
            buffer.copy_(buffers[name])
        self._base = self._storage.compress(copy.deepcopy(self._plain), {})

    def _keep_codes_(self, weights: Mapping[str, Tensor]) -> None:
        self._count_floats_()
        self.control.freeze_(weights)
        self._estimated = [name for name, m in self._batch_norms().items() if m.training]
        for name in self._estimated:
            self._batch_norms()[name].reset_running_stats()
        self._phase = 1
        self._estimate_()

    def _estimate_(self) -> None:
        """Average the statistics of all batches from the last reset on."""
        for name in self._estimated:
            module = self._batch_norms()[name]
            self._momenta[name] = module.momentum
            module.momentum = None

    @torch.no_grad()
    def _store_floats_(self) -> None:
        for module in self._batch_norms().values():
            constant = module.running_var <= _CONSTANT * module.eps
            if module.affine:  # what is constant gives the bias; a scale of 1/√ε would only explode
                dense_weight(module, "weight")[constant] = 0
        if self._storage.fold_batch_norm:
            fold_batch_norms_(self._model)
        for module in self._batch_norms().values():
            if not module.affine:
                for statistic in (module.running_mean, module.running_var):
                    statistic.copy_(self._storage.rounded(statistic))
        for parametrization in attached(self._model).values():
            rounding = getattr(parametrization, "stored", parametrization)
            if isinstance(rounding, RoundedFloat):
                rounding.is_active = True
        self._phase = 2
        self._hold_()

    def _hold_(self) -> None:
        """Normalize by the statistics that there are, whatever mode the model is set to."""
        for name, module in self._batch_norms().items():
            module.momentum = self._momenta.pop(name, module.momentum)
            module.eval()
            self._hooks.append(module.register_forward_pre_hook(_evaluating))

    def release_(self) -> None:
        """Leave nothing in the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the phase and the loss per bit; the rest is in the state of the model."""
        state = {"phase": self._phase, "estimated": [*self._estimated]}
        return {**state, **self.control.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        """Continue from a state; that of the model is loaded already."""
        known = state if isinstance(state, dict) else {}
        phase, estimated = known.get("phase"), known.get("estimated")
        sound = isinstance(estimated, list) and {*map(str, estimated)} <= {*self._batch_norms()}
        if phase not in (0, 1, 2) or not sound:
            raise CheckpointError(
                "this is not the state of a Quantizer with the method 'rate'; give what its "
                "state_dict() returned"
            )
        self.control.load_state_dict(state)
        if any(q.is_frozen != (phase > 0) for q in self.quantized.values()):
            raise CheckpointError(
                "the state of the quantizer is of another step than that of the model; load the "
                "state of the model first, and both of one time"
            )
        self.release_()
        self._phase, self._estimated = phase, [*map(str, estimated or ())]
        if phase == 1:
            self._estimate_()
        elif phase == 2:
            self._hold_()


def _enough(bits: int, peak: float) -> int:
    """So many bits, or more, that no weight of at most ``peak`` steps lies beyond the grid."""
    return min(_MOST_BITS, max(bits, 1 + (int(peak) + 1).bit_length()))


def _evaluating(module: nn.Module, _: Any) -> None:
    module.training = False
