"""How a training runs: where it writes and how it loads, and the rates and steps of the first stage."""

from __future__ import annotations

from dataclasses import dataclass

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.training.precision import PRECISIONS
from medldm.training.resume.state_handler import RESUME


@dataclass(kw_only=True)
class RunConfig(Config):
    """Say where a training writes, how it loads its cases, and how it stops and goes on.

    Args:
        output_dir: receives the checkpoints, `logs/<stage>` and `state/<stage>`; None writes nothing, for
            work that is measured only.
        batch_size: cases of a batch, of all processes together.
        num_workers: processes that load.
        val_interval: epochs between two validations.
        resume: "auto" goes on from the newest state, "must" insists on one, "never" begins anew.
        save_minutes: between two savings of the training's state.
        save_batches: batches between two savings, beside the minutes; None for the minutes alone.

    Raises:
        ConfigError: if a value is outside its range.
    """

    output_dir: str | None = None
    batch_size: int = 1
    num_workers: int = 0
    val_interval: int = 1
    resume: str = "auto"
    save_minutes: float = 10.0
    save_batches: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume not in RESUME:
            raise ConfigError(f"resume is {self.resume!r}: choose from {list(RESUME)}")
        for name, least in (("batch_size", 1), ("num_workers", 0), ("val_interval", 1), ("save_minutes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: at least {least} is needed")


@dataclass(kw_only=True)
class AutoencoderTrainingConfig(Config):
    """Set the steps and rates of the first stage; those of the second stand in `LatentDiffusionConfig`.

    Args:
        n_epochs: passes over the training cohort.
        learning_rate: of the network's AdamW, reached after the warm-up; it falls along a cosine.
        discriminator_learning_rate: constant.
        warmup_steps: optimiser steps of linear learning-rate increase.
        accumulation_steps: batches whose gradients are added up before a step.
        gradient_clip: largest gradient norm.
        ema_decay: of the averaged weights that are validated and saved; 0 turns averaging off.
        precision: "float32", "bfloat16", "float16" (CUDA only) or "auto", see `choose_precision`.
        seed: of the order of the cases and of their random transforms.

    Raises:
        ConfigError: if a value is outside its range.
    """

    n_epochs: int = 100
    learning_rate: float = 5e-4
    discriminator_learning_rate: float = 1e-4
    warmup_steps: int = 100
    accumulation_steps: int = 1
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}: choose from {list(PRECISIONS)}")
        for name in ("n_epochs", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        for name in ("learning_rate", "discriminator_learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: a positive number is needed")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}: a number in [0, 1) is needed")
