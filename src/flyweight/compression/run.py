"""Compress any model: prepare, train, finalize, encode, and prove."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flyweight._config import config_digest
from flyweight._provenance import source_commit
from flyweight.batch_norm import fold_batch_norms_, folded_batch_norms, unfold_batch_norms_
from flyweight.batches import (
    Batch,
    Batches,
    Loss,
    default_loss,
    run_model,
    same_bits,
    same_outputs,
    take_examples,
    to_device,
)
from flyweight.compressed import CompressedModel, CompressedTensor, compress_module
from flyweight.compression.arguments import (
    Evaluate,
    check_callable,
    check_loss,
    check_recipe_fits,
    first_batch,
    outputs,
    score,
)
from flyweight.compression.result import CompressionReport, course_ratio, quantized_sparsity
from flyweight.errors import ModelError
from flyweight.modules import add_network_, architecture_of, check_model, fill_
from flyweight.pruning import Pruner, PruningConfig
from flyweight.quantization import (
    PostTrainingConfig,
    QuantizationConfig,
    Quantizer,
    quantize_post_training,
)
from flyweight.recipes import Recipe, load_recipe
from flyweight.training import (
    Progress,
    TrainingConfig,
    choose_device,
    describe_device,
    optimizer_steps,
    prefixed,
    train_,
)

__all__ = ["compress", "remove_states"]

_STATES = ("prune.pt", "quantize.pt")
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
        recipe: name of a shipped recipe ("post-training", "quick", "full"), a TOML file, a
            `Recipe`, or the configuration of one stage.
        data: sized iterable of batches, a `torch.utils.data.DataLoader` or a list: ``(inputs,
            targets)``, mappings as Hugging Face has them, or inputs alone where nothing needs
            targets. Training data for a recipe that trains, calibration data else.
        loss: ``loss(model, batch)``, a scalar. Default: cross-entropy for integer targets, and the
            ``loss`` that the model returns for mappings.
        evaluate: metric, ``evaluate(model) -> float``, higher is better, on data that decides
            nothing. With it the report has the scores before and after.
        teacher: gives soft targets where the recipe distills; default: the model as given.
        device: "auto" is CUDA where there is one; or as torch names it.
        seed: of all that is drawn at random.
        resume: folder that keeps the state of training after each epoch; a run that was stopped
            goes on from it. `remove_states` removes what a finished run left there.
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
    if not isinstance(model, nn.Module):
        raise ModelError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    check_callable(loss, "loss", "loss(model, batch) -> scalar")
    check_callable(evaluate, "evaluate", "evaluate(model) -> float")
    check_model(model)
    check_recipe_fits(model, recipe)
    target = choose_device(device)
    student = copy.deepcopy(model).to(target)
    batch = to_device(first_batch(data), target)
    outputs(student, batch)
    if recipe.epochs:
        check_loss(student, batch, loss or default_loss)
    before = None
    if evaluate is not None:
        _tell(progress, "evaluate the model as given")
        before = score(evaluate, student, "the model as given")
    run = _Run(data, loss, _teacher(teacher or model, recipe), target, seed, progress)
    run = dataclasses.replace(run, states=_state_folder(resume, model, run.teacher, recipe, seed))
    resumed = run.states is not None and any((run.states / name).exists() for name in _STATES)
    compressed = run.compress(student, recipe)
    _tell(progress, "encode")
    restored = CompressedModel.from_bytes(compressed.to_bytes()).state_dict()
    read_back = _filled(model, restored, target)
    identical = _same(_filled(model, compressed.state_dict(), target), read_back, data, target)
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
        course_ratio=course_ratio(compressed),
        sparsity=quantized_sparsity(compressed),
        score_before=before,
        score_after=after,
        outputs_identical=identical,
        recipe=recipe.name,
        epochs=recipe.epochs,
        seed=seed,
        device=describe_device(target),
        commit=commit,
        seconds=None if resumed else time.perf_counter() - start,
    )
    return compressed.with_report(report)


def remove_states(folder: str | Path) -> None:
    """Remove the states of training that `compress` wrote into a folder, and nothing else.

    Folders that are empty then are removed as well.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "notes.txt").write_text("stays")
        ...     remove_states(folder)
        ...     [path.name for path in Path(folder).iterdir()]
        ['notes.txt']
    """
    folder = Path(folder)
    for state in (path for name in _STATES for path in folder.glob(f"*/{name}")):
        state.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # holds something else
            state.parent.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


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
            "float_dtype": recipe.float_dtype,
            "float_mantissa_bits": recipe.float_mantissa_bits,
            "metadata": metadata,
        }
        trains_batch_norm = any(training.trains_batch_norm for training in recipe.stages)
        if trains_batch_norm and folded_batch_norms(student):
            unfold_batch_norms_(student, self._some_batches(_UNFOLDING_BATCHES))
        if recipe.pruning is not None:
            student = self._pruned(student, recipe.pruning, recipe.retraining)
        if recipe.quantization is not None:
            quantizer = self._quantizer(student, recipe.quantization, recipe.fine_tuning)
            quantizer.model.cpu()
            return quantizer.finalize(fold_batch_norm=recipe.fold_batch_norm, **storage)
        quantized: dict[str, CompressedTensor] = {}
        if recipe.post_training is not None:
            student, quantized = quantize_post_training(
                student,
                self.data,
                recipe.post_training,
                progress=self.progress,
            )
        student = student.cpu()
        if recipe.fold_batch_norm:
            fold_batch_norms_(student)
        return compress_module(student, quantized, **storage)

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

    def _quantizer(
        self, student: nn.Module, config: QuantizationConfig, training: TrainingConfig
    ) -> Quantizer:
        seed = self.seed + 1
        quantizer = Quantizer(
            student,
            config,
            steps=optimizer_steps(self.data, training),
            data=self._calibration(config),
            loss=self.loss or default_loss,
            seed=seed,
        )
        self._train(quantizer, training, "quantize and fine-tune", _STATES[1], seed)
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

    def _calibration(self, config: PruningConfig | QuantizationConfig) -> list[Batch] | None:
        return take_examples(self.data, config.calibration_examples) if config.needs_data else None

    def _some_batches(self, number: int) -> list[Batch]:
        some = itertools.islice(iter(self.data), number)
        return [to_device(batch, self.device) for batch in some]


def _metadata(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Strings for the file; the architecture where the module was built by a registered name."""
    name = architecture_of(model)
    return {"recipe": recipe.name} | ({} if name is None else {"architecture": name})


def _teacher(model: nn.Module, recipe: Recipe) -> nn.Module | None:
    """The model that gives soft targets, where the recipe distills."""
    distills = any(training.epochs and training.distillation for training in recipe.stages)
    return model if distills else None


def _state_folder(
    folder: str | Path | None,
    model: nn.Module,
    teacher: nn.Module | None,
    recipe: Recipe,
    seed: int,
) -> Path | None:
    """Return the folder of the states of this run and no other."""
    if folder is None:
        return None
    digest = hashlib.sha256(f"{config_digest(recipe)} {seed}".encode())
    add_network_(digest, model)
    if teacher is not None:
        add_network_(digest, teacher)
    return Path(folder) / digest.hexdigest()[:16]


def _filled(model: nn.Module, state: dict[str, Tensor], device: torch.device) -> nn.Module:
    """A copy of the model as given, with another state."""
    filled = copy.deepcopy(model)
    fill_(filled, state, where="the compressed model")
    return filled.to(device).eval()


def _same(first: nn.Module, second: nn.Module, data: Batches, device: torch.device) -> bool:
    """Whether two models have the same tensors and give the same outputs, bit for bit."""
    states = first.state_dict(), second.state_dict()
    if not all(same_bits(states[0][name], states[1][name]) for name in states[0]):
        return False
    for batch in itertools.islice(iter(data), _PROOF_BATCHES):
        moved = to_device(batch, device)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(0)
            expected = run_model(first, moved)
            torch.default_generator.manual_seed(0)
            if not same_outputs(expected, run_model(second, moved)):
                return False
    return True


def _tell(progress: Progress | None, phase: str) -> None:
    if progress is not None:
        progress(phase, 0, None)
