"""Prune a model while it trains in any loop."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._config import config_digest
from flyweight.batch_norm import check_not_training_folded, folded_batch_norms
from flyweight.batches import Batches, Loss, default_loss
from flyweight.errors import CheckpointError, ModelError
from flyweight.modules import (
    OptimizerCheck,
    WeightLayout,
    attach_,
    check_config,
    check_model,
    check_plain,
    check_steps,
    dense_weight,
    detach_,
    first_revived,
    masks_of_zeros,
    matching,
    overrides_by_name,
)
from flyweight.processes import of_first_process
from flyweight.pruning.analysis import layer_type
from flyweight.pruning.candidates import selected_weights
from flyweight.pruning.choice import Pattern, choose_masks
from flyweight.pruning.config import PruningConfig
from flyweight.pruning.masked_weight import MaskedWeight
from flyweight.pruning.report import PrunedLayer, PruningReport
from flyweight.pruning.schedules import prunings, sparsity_at
from flyweight.pruning.scoring import Scorer, magnitudes

__all__ = ["Pruner"]


class Pruner:
    """Prune a copy of a model gradually while it trains in your own loop.

    The layers of ``model``, the copy, see weights with exact zeros; the optimizer trains dense
    weights behind them, so that none of its steps revives a zero. `step` follows the schedule, and
    `finalize` leaves plain weights. The prepared model is an ordinary module: it can be moved,
    copied, compiled, averaged, wrapped for several devices, and saved.

    - Weights that are zero at the start stay zero, also in layers that are not pruned.
    - A weight that is all zero at the start, as low-rank adapters have one, is not pruned, trains,
      and is not counted.
    - Embeddings, and the weights that other layers share with them, are pruned only if
      ``config.layer_types`` or a glob of ``config.include`` other than "*" names them.

    Args:
        model: any module; it is not changed.
        config: what to prune, and when.
        steps: number of optimizer steps of the run; 0 prunes at once.
        epochs: the same in epochs, needed if ``config.unit`` is "epochs".
        data: calibration batches for the criteria "taylor" and "fisher".
        loss: ``loss(model, batch)`` for them.
        seed: of the criterion "random".

    Attributes:
        model: the prepared copy, to be trained.
        config: what to prune, and when.
        number: number of steps made.

    Raises:
        ModelError: the model cannot be compressed, there is nothing to prune, or nothing would be
            left.
        RecipeError: the configuration does not fit the run.
        DataError: ``data`` holds no batches.

    Example:
        >>> pruner = Pruner(nn.Linear(8, 4), PruningConfig(sparsity=0.5), steps=10)
        >>> optimizer = torch.optim.AdamW(pruner.model.parameters())
        >>> for _ in range(10):
        ...     pruner.model(torch.randn(2, 8)).square().mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     pruner.step()
        >>> int((pruner.finalize().weight == 0).sum())
        16
    """

    def __init__(
        self,
        model: nn.Module,
        config: PruningConfig | None = None,
        *,
        steps: int,
        epochs: int = 0,
        data: Batches | None = None,
        loss: Loss = default_loss,
        seed: int = 0,
    ) -> None:
        steps = check_steps(steps)
        config = PruningConfig() if config is None else config
        check_config(config, PruningConfig)
        check_model(model)
        self.config = config
        self.model = copy.deepcopy(model)
        self.number = 0
        self._finalized: PruningReport | None = None
        selected = selected_weights(self.model, config)
        check_plain(self.model, selected)
        self._names = tuple(name for name, weight in selected.items() if bool(weight.any()))
        if not self._names:
            raise ModelError(
                f"all {len(selected)} weights to prune are zero, so that they are initial values "
                "which must train first; prune the model after training"
            )
        overrides = overrides_by_name(self.model, selected, config.overrides)
        self._overrides = {
            glob: sparsity
            for glob, sparsity in overrides.items()
            if any(matching(name, {glob: 1.0}, 0.0) for name in self._names)
        }
        self._prunings = prunings(
            config.schedule,
            steps=steps,
            ramp=config.ramp,
            interval=config.interval,
            unit=config.unit,
            epochs=epochs,
        )
        self._last = max(self._prunings)
        weights = self._weights
        self._layouts = {name: WeightLayout.at(self.model, name) for name in weights}
        self._scorer = Scorer(config, weights, data=data, loss=loss, seed=seed)
        # The masks are kept here too: those in the model are in its state, which users average.
        self._masks = {name: weight.detach() != 0 for name, weight in weights.items()}
        self._initial_zeros = {name: ~mask for name, mask in self._masks.items()}
        self._masked = {
            name: MaskedWeight(mask.clone(), layout=self._layouts[name])
            for name, mask in self._masks.items()
        }
        self._emptied: set[str] = set()
        self._check_end()
        self._fixed = masks_of_zeros(self.model, without=selected)
        fixed = {name: MaskedWeight(mask.clone()) for name, mask in self._fixed.items()}
        self._attached = {**self._masked, **fixed}
        attach_(self.model, self._attached)
        self._optimizer_check = OptimizerCheck(self.model, "pruner")
        self._folded = folded_batch_norms(self.model)
        self._prune()

    @property
    def _weights(self) -> dict[str, Tensor]:
        """The dense weights that the optimizer trains, on the device where they are now."""
        return {name: dense_weight(self.model, name) for name in self._names}

    @property
    def sparsity(self) -> float:
        """Fraction of the weights to prune that their layers see as zero now."""
        masks = [masked.mask for masked in self._masked.values()]
        return sum(int((~m).sum()) for m in masks) / max(1, sum(m.numel() for m in masks))

    @property
    def masks(self) -> dict[str, Tensor]:
        """Copies of the masks, bool and of the shape of each weight, by its name."""
        return {name: mask.clone() for name, mask in self._masks.items()}

    def step(self) -> None:
        """Follow the schedule; call it after each step of the optimizer.

        Warns if no parameter has changed since the step before, as of an optimizer over the
        parameters of the original model.

        Raises:
            ModelError: batch normalization that is folded, as in a model read from a file, trains.
        """
        self._check_open()
        check_not_training_folded(self._folded)
        self._optimizer_check.compare()
        self.number += 1
        self._prune()
        self._optimizer_check.remember()

    def check(self) -> None:
        """Raise ModelError if a layer sees a value where a mask says zero."""
        if name := first_revived(self.model, {**self._masks, **self._fixed}):
            raise ModelError(
                f"tensor {name!r} has values where its mask says zero; load the masks that "
                "belong to this model, or begin again"
            )

    def report(self) -> PruningReport:
        """Return the sparsity asked for and reached; ``print`` gives a table."""
        if self._finalized is not None:
            return self._finalized
        rows = []
        for name in self._names:
            seen = operator.attrgetter(name)(self.model).detach()
            layer = self.model.get_submodule(name.rpartition(".")[0])
            rows.append(PrunedLayer(name, layer_type(layer), seen.numel(), int((seen == 0).sum())))
        total = sum(row.parameters for row in rows)
        return PruningReport(asked=self._zeros_asked / total, layers=tuple(rows))

    def finalize(self) -> nn.Module:
        """Leave plain weights with exact zeros in ``model``, and return it.

        Its parameters are in the order of the model given. Wherever a mask of this pruner is
        False there is a zero, also if averaging has changed the masks in the model.

        Warns if the sparsity reached is not the one asked for, after too few steps for example.

        Raises:
            ModelError: no weight is left, or the pruner is finalized already.
        """
        self._check_open()
        masks = {**self._masks, **self._fixed}
        for name, masked in self._attached.items():
            masked.mask.logical_and_(masks[name].to(masked.mask.device))
        self.check()
        report = self.report()
        if report.zeros == report.parameters:
            raise ModelError(
                f"all {report.parameters} weights are zero, so nothing is left of the model; lower "
                "the sparsity or the learning rate"
            )
        detach_(self.model, self._attached)
        self._finalized = report
        if abs(report.zeros - self._zeros_asked) > max(1.0, 0.001 * report.parameters):
            warnings.warn(
                f"sparsity {report.reached:.4f} was reached where {report.asked:.4f} was asked "
                "for; call step() after each of the steps that the pruner was made for",
                stacklevel=2,
            )
        return self.model

    def penalty(self) -> None:
        """Return nothing: a pruner adds no term to the loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`, to save beside those of model and optimizer."""
        masks = {name: mask.clone() for name, mask in {**self._masks, **self._fixed}.items()}
        return {"step": self.number, "config": config_digest(self.config), "masks": masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; load that of the model as well.

        Raises:
            CheckpointError: the state belongs to another model or configuration, or is none;
                nothing is changed then.
        """
        self._check_open()
        masks = _masks_in(state)
        expected = {**self._masks, **self._fixed}
        if {name: getattr(mask, "shape", None) for name, mask in masks.items()} != {
            name: mask.shape for name, mask in expected.items()
        }:
            raise CheckpointError(
                "the masks in this state belong to another model or configuration; give the state "
                "of a pruner for the same model and configuration"
            )
        if state["config"] != config_digest(self.config):
            raise CheckpointError(
                "this state belongs to a run with another configuration; make the pruner with "
                "that one"
            )
        for name, mask in self._fixed.items():
            if not torch.equal(masks[name].to(mask), mask):
                raise CheckpointError(
                    f"this state belongs to a model with other zeros in tensor {name!r}, which is "
                    "not pruned; make the pruner of that model"
                )
        for name in self._names:
            device = self._masked[name].mask.device
            self._set_mask(name, masks[name].to(device, torch.bool, copy=True))
        self.number = state["step"]
        self._set_regrowth()

    def _check_open(self) -> None:
        if self._finalized is not None:
            raise ModelError("this pruner was finalized; make a new one of the model")

    def _check_end(self) -> None:
        """Refuse before training what would leave nothing, or cannot be scored."""
        masks = self._choose(1.0, magnitudes(self._weights))
        total = sum(mask.numel() for mask in masks.values())
        if not any(bool((mask & self._masks[name]).any()) for name, mask in masks.items()):
            raise ModelError(
                f"a sparsity of {self._zeros_asked / total:g} leaves none of the {total} weights; "
                "ask for less"
            )
        self._scorer.check(self.model, self._weights)

    @property
    def _zeros_asked(self) -> float:
        """Number of zeros in the end: as configured, or those at the start if that is none."""
        asked = sum(
            matching(name, self._overrides, self.config.sparsity) * mask.numel()
            for name, mask in self._masks.items()
        )
        return asked or sum(int(zeros.sum()) for zeros in self._initial_zeros.values())

    def _prune(self) -> None:
        """Choose the masks of the step that comes next, where the schedule says so."""
        self._set_regrowth()
        progress = self._prunings.get(self.number)
        if progress is None:
            return
        scores = self._scores() if progress else magnitudes(self._weights)
        for name, mask in self._choose(progress, scores).items():
            if self._scorer.differs_by_process:
                mask = of_first_process(mask)
            self._set_mask(name, mask & ~self._gone(name))
        self._warn_of_emptied_layers()

    def _set_regrowth(self) -> None:
        for masked in self._masked.values():
            masked.allow_regrowth = self.config.allow_regrowth and self.number < self._last

    def _set_mask(self, name: str, mask: Tensor) -> None:
        self._masks[name] = mask
        self._masked[name].mask.copy_(mask)

    def _choose(self, progress: float, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        lowest = -1.0 if config.pattern == "weights" else 0.0
        return choose_masks(
            {name: score.masked_fill(self._gone(name), lowest) for name, score in scores.items()},
            sparsity_at(config.schedule, progress, config.sparsity),
            scope=config.scope,
            pattern=Pattern.of(config.pattern),
            overrides={
                glob: sparsity_at(config.schedule, progress, final)
                for glob, final in self._overrides.items()
            },
            layouts=self._layouts,
        )

    def _gone(self, name: str) -> Tensor:
        """Where a weight cannot return: it was zero at the start, or regrowth is not allowed."""
        gone = self._initial_zeros[name] if self.config.allow_regrowth else ~self._masks[name]
        return gone.to(self._masked[name].mask.device)

    def _scores(self) -> dict[str, Tensor]:
        """Score all dense weights, those behind a mask too, in the masked network."""
        before = {name: masked.allow_regrowth for name, masked in self._masked.items()}
        for masked in self._masked.values():
            masked.allow_regrowth = True
        try:
            return self._scorer.scores(self.model, self._weights)
        finally:
            for name, masked in self._masked.items():
                masked.allow_regrowth = before[name]

    def _warn_of_emptied_layers(self) -> None:
        emptied = {name for name, mask in self._masks.items() if not bool(mask.any())}
        if found := [name for name in self._names if name in emptied - self._emptied]:
            self._emptied |= emptied
            several = f"tensors {', '.join(map(repr, found))}" if found[1:] else f"{found[0]!r}"
            warnings.warn(
                f"pruning leaves no weight of {several}, so the layer gives a constant; lower the "
                'sparsity, set an override for it, or use the scope "layer"',
                stacklevel=4,
            )


def _masks_in(state: Any) -> Mapping[str, Tensor]:
    """Return the masks of a state; CheckpointError unless it has the form of one."""
    masks = state.get("masks") if isinstance(state, Mapping) else None
    step = state.get("step") if isinstance(state, Mapping) else None
    if not isinstance(masks, Mapping) or not isinstance(step, int) or "config" not in state:
        raise CheckpointError(
            "this is not the state of a pruner, which has step, config and masks; give what "
            "state_dict() returned"
        )
    if step < 0:
        raise CheckpointError(f"the step of this state is {step}; give what state_dict() returned")
    return masks
