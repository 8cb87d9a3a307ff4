"""How a training runs: where it writes and how it loads, and the rates and steps of the first stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medldm.conditioning.config import read_names
from medldm.configs import Config


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
    resume: Literal["auto", "never", "must"] = "auto"
    save_minutes: float = 10.0
    save_batches: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[1, inf)", "batch_size", "val_interval")
        self.require("[0, inf]", "num_workers", "save_minutes")


@dataclass(kw_only=True)
class AutoencoderTrainingConfig(Config):
    """Set the steps and rates of the first stage; those of the second stand in `LatentDiffusionConfig`.

    Args:
        n_epochs: passes over the training cohort.
        learning_rate: of the network's AdamW, reached after the warm-up; it falls along a cosine.
        discriminator_learning_rate: constant.
        warmup_steps: optimiser steps of linear learning-rate increase.
        patience: validations without improvement after which the learning rate falls and the training ends;
            None falls along a cosine over all steps and trains to the end.
        min_improvement: with patience: what counts as improvement, relative to the value to beat.
        decay_share: with patience: share of the steps, the last ones, in which the learning rate falls.
        sufficient_psnr: dB of a validation that end the training with its epoch: a linear path that keeps all
            components has nothing to learn. None trains on.
        accumulation_steps: batches whose gradients are added up before a step.
        gradient_clip: largest gradient norm.
        ema_decay: of the averaged weights that are validated and saved; 0 turns averaging off.
        ema_length: width of a power-function average in its place, as a share of the training, see
            `average_weights`; None for `ema_decay`.
        latent_noise: largest noise on the latents that the decoder is trained on, in standard deviations of
            each of their channels; see `medldm.training.latent_noise`. 0 turns it off.
        precision: "float32", "bfloat16", "float16" (CUDA only) or "auto", see `choose_precision`.
        freeze: parts that are left as they are: "encoder" or "decoder"; None for none.
        seed: of the order of the cases and of their random transforms.

    Raises:
        ConfigError: if a value is outside its range.
    """

    n_epochs: int = 100
    learning_rate: float = 5e-4
    discriminator_learning_rate: float = 1e-4
    warmup_steps: int = 100
    patience: int | None = None
    min_improvement: float = 0.002
    decay_share: float = 0.2
    sufficient_psnr: float | None = None
    accumulation_steps: int = 1
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    ema_length: float | None = None
    latent_noise: float = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    freeze: tuple[str, ...] | str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.freeze, str):
            self.freeze = read_names(self.freeze)
        self.require("[1, inf)", "n_epochs", "accumulation_steps")
        self.require("(0, inf]", "learning_rate", "discriminator_learning_rate", "gradient_clip")
        self.require("[0, 1)", "ema_decay")
        self.require("(0, 0.28)", "ema_length")
        self.require("[0, inf)", "min_improvement")
        self.require("(0, 1)", "decay_share")
        self.require("[1, inf)", "patience")
        self.require("[0, inf)", "latent_noise", "sufficient_psnr")
