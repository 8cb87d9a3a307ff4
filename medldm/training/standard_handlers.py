"""The handlers that every training of the first two stages has, in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler

from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model_files import Describe
from medldm.training.configs import AutoencoderTrainingConfig, RunConfig
from medldm.training.diffusion import DiffusionEvaluator
from medldm.training.early_snapshot import EarlySnapshot
from medldm.training.handlers import CheckpointWriter, LossBar, TrainingLog
from medldm.training.identity import TrainingIdentity
from medldm.training.memorisation import GapWarning
from medldm.training.patience import DecayPhase, Patience, Sufficiency
from medldm.training.previews import SliceWriter
from medldm.training.quarantine import Quarantine
from medldm.training.resume.state_handler import TrainingStateHandler

TrainingConfig = AutoencoderTrainingConfig | LatentDiffusionConfig


def standard_handlers(
    stage: str,
    run: RunConfig,
    *,
    name: str,
    describe: Describe,
    evaluator: SupervisedEvaluator | None,
    preview: Callable[..., SliceWriter],
    quarantine: Quarantine | None,
    identity: TrainingIdentity,
    config: TrainingConfig,
    decay: DecayPhase | None,
    further: Sequence[Any],
) -> list[Any]:
    """Return validation, log, bar, preview, checkpoints, what the caller adds, and last of all the state."""
    if run.output_dir is None:
        return list(further)
    folder = Path(run.output_dir)
    log = TrainingLog(folder / "logs" / stage, evaluator=evaluator)
    writer = CheckpointWriter(
        folder,
        name=name,
        describe=describe,
        evaluator=evaluator,
        metric=None if evaluator is None else evaluator.state.key_metric_name,
        larger_is_better=evaluator is None or bool(evaluator.metric_cmp_fn(1.0, 0.0)),
        identity=identity,
    )
    followers = _follow_validations(writer, config, decay)
    state_handler = TrainingStateHandler(
        folder / "state" / stage,
        resume=run.resume,
        handlers=[log, writer, *followers],
        evaluator=evaluator,
        every_minutes=run.save_minutes,
        every_steps=run.save_batches,
        quarantine=quarantine,
        identity=identity,
        output_dir=folder,
    )
    kept = [writer, *followers, *further, state_handler]
    if evaluator is None:
        return [log, LossBar(stage), *kept]
    validation = ValidationHandler(run.val_interval, evaluator)
    shown = [log, LossBar(stage), preview(log, evaluator=evaluator)]
    if isinstance(evaluator, DiffusionEvaluator):
        shown.append(GapWarning(evaluator))
    return [validation, *shown, *kept]


def _follow_validations(
    writer: CheckpointWriter, config: TrainingConfig, decay: DecayPhase | None
) -> list[EarlySnapshot | Patience | Sufficiency]:
    """Return what draws conclusions from the validations, beside the writer: these handlers have a state."""
    followers: list[EarlySnapshot | Patience | Sufficiency] = []
    evaluator: Any = writer.evaluator
    if evaluator is None:
        return followers
    if isinstance(evaluator, DiffusionEvaluator):
        followers.append(EarlySnapshot(writer, evaluator=evaluator))
    if decay is not None and config.patience is not None:
        patience = Patience(
            evaluator,
            metric=str(writer.metric),
            larger_is_better=writer.sign > 0,
            patience=config.patience,
            min_improvement=config.min_improvement,
            decay=decay,
        )
        followers.append(patience)
    enough = getattr(config, "sufficient_psnr", None)
    if enough is not None and writer.metric == "psnr":
        followers.append(Sufficiency(evaluator, metric="psnr", value=enough))
    return followers
