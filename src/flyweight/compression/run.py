"""Compress any model: prepare, train, finalize, encode, and prove."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import glob
import hashlib
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._config import config_digest
from flyweight._provenance import source_commit
from flyweight.batch_norm import folded_batch_norms, unfold_batch_norms_
from flyweight.batches import (
    Batch,
    Batches,
    Loss,
    default_loss,
    inputs_of,
    run_model,
    same_bits,
    same_outputs,
    take_examples,
    targets_of,
    tensors_in,
    to_device,
)
from flyweight.compressed import CompressedModel, CompressedTensor
from flyweight.compression.arguments import (
    Evaluate,
    check_callable,
    check_loss,
    check_recipe_fits,
    check_training_fits,
    outputs,
    score,
)
from flyweight.compression.result import CompressionReport, course_ratio, quantized_sparsity
from flyweight.errors import ModelError
from flyweight.modules import add_network_, architecture_of, check_model, fill_
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import (
    FileStorage,
    PostTrainingConfig,
    QuantizationConfig,
    Quantizer,
    quantize_post_training,
    start_on_grid_,
)
from flyweight.recipes import Recipe, load_recipe
from flyweight.training import (
    Progress,
    TrainingConfig,
    choose_device,
    describe_device,
    optimizer_steps,
    prefixed,
    read_checkpoint,
    seeded_batches,
    train_,
    write_checkpoint,
)

__all__ = ["compress", "remove_states"]

_STATES = ("prune.pt", "start.pt", "quantize.pt")
_ALL_BITS = 0.5  # loss that all bits of that file are worth before the first step
_UNFOLDING_BATCHES = 8
_PROOF_BATCHES = 4


def compress(
    model: nn.Module,
    recipe: Recipe
    | PruningConfig
    | QuantizationConfig
    | PostTrainingConfig
    | str
    | Path = "post-training",
    *,
    data: Batches,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    teacher: nn.Module | None = None,
    target_bytes: int | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: str | Path | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Compress a model by a recipe; return a new compressed model with a report.

    Prunes and retrains, quantizes and fine-tunes, or quantizes without training, as the recipe
    says; then encodes the result, reads it back, and measures what was read. ``model`` stays as
    it is.

    Args:
        model: any module; where its batch normalization is folded, as in a model read from a
            ``.fly`` file, it is given statistics of the data before it trains.
        recipe: name of a shipped recipe ("post-training", "quick", "full", "smallest"), a TOML
            file, a `Recipe`, or the configuration of one stage.
        data: sized iterable of batches, a `torch.utils.data.DataLoader` or a list: ``(inputs,
            targets)``, mappings as Hugging Face has them, or inputs alone where nothing needs
            targets. Training data for a recipe that trains, calibration data else.
        loss: ``loss(model, batch)``, a scalar. Default: cross-entropy for integer targets, and the
            ``loss`` that the model returns for mappings.
        evaluate: metric, ``evaluate(model) -> float``, higher is better, on data that decides
            nothing. With it the report has the scores before and after.
        teacher: gives soft targets where the recipe distills; default: the model as given.
        target_bytes: bytes of the whole file that a recipe with the method "rate" or without
            training is to end with, in the place of its own.
        device: "auto" is CUDA where there is one; or as torch names it.
        seed: of all that is drawn at random.
        resume: folder that keeps the state of training after each epoch; a run that was stopped
            goes on from it, if model, recipe, seed, forms of the batches and loss are the same.
            `remove_states` removes what a finished run left there.
        progress: called with a phase, how much of it is done, and how much there is (or None).

    Returns:
        The compressed model, on the CPU, for `flyweight.save`. Its ``report`` is a
        `CompressionReport`.

    Raises:
        DataError: ``data``, ``loss`` or ``evaluate`` is not as described; found before any work.
        ModelError: the model cannot be compressed, or a layer pattern matches nothing.
        RecipeError: there is no such recipe, or it has impossible values.
        CheckpointError: the state in ``resume`` is damaged.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> batches = [torch.randn(32, 8) for _ in range(4)]
        >>> compressed = compress(model, data=batches, device="cpu")
        >>> compressed.report.outputs_identical
        True

    Source: Han et al. 2016, "Deep compression".
    """
    start = time.perf_counter()
    commit = source_commit()  # of the code that runs, whatever is edited meanwhile
    recipe = load_recipe(recipe)
    if target_bytes is not None:
        recipe = recipe.with_target(target_bytes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    check_callable(loss, "loss", "loss(model, batch) -> scalar")
    check_callable(evaluate, "evaluate", "evaluate(model) -> float")
    check_model(model)
    if teacher is not None:
        check_model(teacher)
    check_recipe_fits(model, recipe)
    target = choose_device(device)
    student = copy.deepcopy(model).to(target)
    with seeded_batches(data, seed) as batches:
        batch = to_device(next(batches), target)
    outputs(student, batch)
    if recipe.epochs:
        check_training_fits(recipe, batch, loss)
        check_loss(student, batch, loss or default_loss)
    before = None
    if evaluate is not None:
        _tell(progress, "evaluate the model as given")
        before = score(evaluate, copy.deepcopy(student), "the model as given")
    master = _teacher(teacher or model, recipe)
    states = None
    if resume is not None:
        states = Path(resume) / _name_of_run(recipe, seed, batch, data, loss, model, master)
    run = _Run(data, loss, master, target, seed, progress, states)
    resumed = run.states is not None and any((run.states / name).exists() for name in _STATES)
    compressed = run.compress(student, recipe)
    _tell(progress, "encode")
    restored = CompressedModel.from_bytes(compressed.to_bytes())
    read_back = _filled(model, restored.state_dict(), target)
    identical = run.same(_filled(model, compressed.state_dict(), target), read_back)
    after = None
    if evaluate is not None:
        _tell(progress, "evaluate the file read back")
        after = score(evaluate, read_back, "the compressed model")
    dense_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    file_bytes = len(compressed.to_bytes())
    report = CompressionReport(
        dense_bytes=dense_bytes,
        file_bytes=file_bytes,
        compression_ratio=dense_bytes / file_bytes,
        course_ratio=course_ratio(restored),
        sparsity=quantized_sparsity(restored),
        score_before=before,
        score_after=after,
        outputs_identical=identical,
        recipe=recipe.name,
        epochs=recipe.epochs,
        seed=seed,
        device=describe_device(target),
        commit=commit,
        seconds=None if resumed else time.perf_counter() - start,
        run="" if states is None else states.name,
    )
    return compressed.with_report(report)


def remove_states(folder: str | Path, run: str) -> None:
    """Remove the states of one run that `compress` wrote into a folder, and nothing else.

    Args:
        folder: the ``resume`` of that run; it is removed as well if it is empty then.
        run: name of the run, ``compressed.report.run``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "notes.txt").write_text("stays")
        ...     remove_states(folder, "0123456789abcdef")
        ...     [path.name for path in Path(folder).iterdir()]
        ['notes.txt']
    """
    folder = Path(folder)
    for state in _STATES:
        (folder / run / state).unlink(missing_ok=True)
    for empty in (folder / run, folder):
        with contextlib.suppress(OSError):  # holds something else, or was never there
            empty.rmdir()


@dataclasses.dataclass(frozen=True)
class _Run:
    """Settings common to the stages of a run."""

    data: Batches
    loss: Loss | None
    teacher: nn.Module | None
    device: torch.device
    seed: int
    progress: Progress | None
    states: Path | None = None

    def compress(self, student: nn.Module, recipe: Recipe) -> CompressedModel:
        """Run the stages of a recipe on ``student``, which is changed."""
        metadata = _metadata(student, recipe)
        storage: dict[str, Any] = {
            "fold_batch_norm": recipe.fold_batch_norm,
            "float_dtype": recipe.float_dtype,
            "float_mantissa_bits": recipe.float_mantissa_bits,
            "metadata": metadata,
        }
        trains_batch_norm = any(training.trains_batch_norm for training in recipe.stages)
        if trains_batch_norm and folded_batch_norms(student):
            unfold_batch_norms_(student, self._batches(_UNFOLDING_BATCHES))
        if recipe.pruning is not None:
            student = self._pruned(student, recipe.pruning, recipe.retraining)
        if recipe.quantization is not None:
            config = recipe.quantization
            if recipe.post_training is not None:
                config = self._start_on_grid_(student, config, recipe.post_training, storage)
            quantizer = self._quantizer(student, config, recipe.fine_tuning, storage)
            quantizer.model.cpu()
            return quantizer.finalize()
        quantized: dict[str, CompressedTensor] = {}
        if recipe.post_training is not None:
            student, quantized = quantize_post_training(
                student,
                self._examples(recipe.post_training.calibration_examples),
                recipe.post_training,
                storage=FileStorage(**storage),
                progress=self.progress,
            )
        return FileStorage(**storage).compress(student.cpu(), quantized)

    def _pruned(
        self, student: nn.Module, config: PruningConfig, training: TrainingConfig
    ) -> nn.Module:
        pruner = Pruner(
            student,
            config,
            steps=optimizer_steps(self.data, training),
            epochs=training.epochs,
            data=self._calibration(config),
            loss=self.loss or default_loss,
            seed=self.seed,
        )
        self._train(pruner, training, "prune and retrain", _STATES[0], self.seed)
        return pruner.finalize()

    def _start_on_grid_(
        self,
        student: nn.Module,
        config: QuantizationConfig,
        post_training: PostTrainingConfig,
        storage: Mapping[str, Any],
    ) -> QuantizationConfig:
        """Quantize without training, and start there; stay where that finds nothing to start from.

        What it came to is kept with the states, since a run goes on from the same numbers only.
        """
        path = None if self.states is None else self.states / _STATES[1]
        if path is not None and path.exists():
            kept = read_checkpoint(path)
            student.load_state_dict(kept["model"])
            return _continued(config, kept["steps"], kept["target"])
        target = post_training.target_bytes or round(config.start_ratio * config.bytes_of(student))
        towards = dataclasses.replace(
            post_training,
            target_bytes=target,
            include=config.include,
            exclude=config.exclude,
        )
        steps: Mapping[str, float] = {}
        with contextlib.suppress(ModelError):  # such as a size that takes training
            _, found = quantize_post_training(
                student,
                self._examples(post_training.calibration_examples),
                towards,
                storage=FileStorage(**storage),
                progress=self.progress,
            )
            steps = start_on_grid_(student, found, dead_zone=config.dead_zone)
        config = _continued(config, steps, target)
        if path is not None:
            kept = {"model": student.state_dict(), "steps": steps, "target": target}
            write_checkpoint(kept, path)
        return config

    def _quantizer(
        self,
        student: nn.Module,
        config: QuantizationConfig,
        training: TrainingConfig,
        storage: Mapping[str, Any],
    ) -> Quantizer:
        seed = self.seed + 1
        quantizer = Quantizer(
            student,
            config,
            steps=optimizer_steps(self.data, training),
            data=self._calibration(config),
            loss=self.loss or default_loss,
            seed=seed,
            storage=storage,
        )
        self._train(quantizer, training, "quantize and fine-tune", _STATES[2], seed)
        return quantizer

    def _train(
        self,
        stage: Pruner | Quantizer,
        training: TrainingConfig,
        phase: str,
        state: str,
        seed: int,
    ) -> None:
        if not training.epochs:
            return
        result = train_(
            stage.model,
            self.data,
            training,
            loss=self.loss,
            teacher=self.teacher,
            stage=stage,
            device=self.device,
            seed=seed,
            checkpoint=None if self.states is None else self.states / state,
            progress=prefixed(self.progress, phase),
        )
        if result.averaged is not None:  # of dense weights; masks and symbols are the last step's
            stage.model.load_state_dict(result.averaged.state_dict())
            stage.check()

    def same(self, first: nn.Module, second: nn.Module) -> bool:
        """Whether two models have the same tensors and give the same outputs, bit for bit."""
        states = first.state_dict(), second.state_dict()
        if not all(same_bits(states[0][name], states[1][name]) for name in states[0]):
            return False
        for batch in self._batches(_PROOF_BATCHES):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.default_generator.manual_seed(0)
                expected = run_model(first, batch)
                torch.default_generator.manual_seed(0)
                if not same_outputs(expected, run_model(second, batch)):
                    return False
        return True

    def _calibration(self, config: PruningConfig | QuantizationConfig) -> list[Batch] | None:
        return self._examples(config.calibration_examples) if config.needs_data else None

    def _examples(self, number: int) -> list[Batch]:
        with seeded_batches(self.data, self.seed) as batches:
            return take_examples(batches, number)

    def _batches(self, number: int) -> list[Batch]:
        with seeded_batches(self.data, self.seed) as batches:
            return [to_device(batch, self.device) for batch in itertools.islice(batches, number)]


def _continued(
    config: QuantizationConfig, steps: Mapping[str, float], start: int
) -> QuantizationConfig:
    """The configuration of training that goes on from a file of so many bytes."""
    if not steps:
        return config
    escaped = {glob.escape(name): step for name, step in steps.items()}
    loss_per_bit = config.loss_per_bit or (_ALL_BITS / (8 * start) if start else 0.0)
    return dataclasses.replace(config, steps={**escaped, **config.steps}, loss_per_bit=loss_per_bit)


def _metadata(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Strings for the file; the architecture where the module was built by a registered name."""
    name = architecture_of(model)
    return {"recipe": recipe.name} | ({} if name is None else {"architecture": name})


def _teacher(model: nn.Module, recipe: Recipe) -> nn.Module | None:
    """The model that gives soft targets, where the recipe distills."""
    distills = any(training.epochs and training.distillation for training in recipe.stages)
    return model if distills else None


def _name_of_run(
    recipe: Recipe,
    seed: int,
    batch: Batch,
    data: Batches,
    loss: Loss | None,
    model: nn.Module,
    teacher: nn.Module | None,
) -> str:
    """Hexadecimal digits that tell this run from others, by what its states depend on."""
    forms = [
        (tuple(tensor.shape), tensor.dtype)
        for part in (inputs_of(batch), targets_of(batch))
        for tensor in tensors_in(part)
    ]
    parts = (recipe, seed, len(data), repr(forms), loss)  # type: ignore[arg-type]
    digest = hashlib.sha256(config_digest(parts).encode())
    add_network_(digest, model)
    if teacher is not None:
        add_network_(digest, teacher)
    return digest.hexdigest()[:16]


def _filled(model: nn.Module, state: dict[str, Tensor], device: torch.device) -> nn.Module:
    """A copy of the model as given, with another state."""
    filled = copy.deepcopy(model)
    fill_(filled, state, where="the compressed model")
    return filled.to(device).eval()


def _tell(progress: Progress | None, phase: str) -> None:
    if progress is not None:
        progress(phase, 0, None)
