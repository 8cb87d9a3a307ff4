"""How a latent diffusion model is trained and sampled, apart from the networks themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from medldm.conditioning.config import read_names
from medldm.configs import Config
from medldm.diffusion import NoisePath, make_path
from medldm.diffusion.paths import MAX_TIMESTEPS, PATHS
from medldm.errors import ConfigError

FLOW = "flow"
LATENT_SCALING_FACTOR = 0.18215
"""Scale of latents whose statistics are not known (Rombach et al. 2022, Appendix G)."""
_RENAMED = {"schedule": "noise_schedule", "shift": "time_shift"}
NOISE_PATH_FIELDS = {
    kind: {field.name: _RENAMED.get(field.name, field.name) for field in fields(path)}
    for kind, path in PATHS.items()
}
"""For each kind of noise path: its arguments, and the fields of `LatentDiffusionConfig` that set them."""


@dataclass(kw_only=True)
class LatentDiffusionConfig(Config):
    """Set the noise path and the training of the denoiser.

    Args:
        autoencoder_type: "vae" or "vqvae"; a checkpoint of the other type is refused.
        autoencoder_path: checkpoint of the first stage, or a `.pth` file of its weights; None if the model
            already holds a trained autoencoder.
        latent_scaling_factor: scale of the latents where no statistics are measured; a training measures
            them.
        latent_scaling: "unit" gives each channel of the latents unit variance; "spectral" also scales the
            channel of component i of a linear path by (variance_i / variance_1)^(1/4), so that channels that
            carry little, and much noise, count less; "auto" is "spectral" where there is a linear path.
        noise_schedule: "linear" (Ho et al. 2020), "scaled_linear" (Rombach et al. 2022), "cosine", "sigmoid",
            or "flow" for a rectified flow (Liu et al. 2023).
        n_timesteps: T of the schedule.
        beta_start: first noise variance; ignored by "cosine".
        beta_end: last noise variance; ignored by "cosine".
        zero_terminal_snr: rescale the schedule so that nothing of the data is left at T (Lin et al. 2023).
        time_distribution: of the training times of "flow", before the shift: "logit_normal" (Esser et al.
            2024, Eq. 19) or "uniform".
        logit_mean: of "logit_normal": mean of logit(t); above 0 trains more on noise.
        logit_std: of "logit_normal": standard deviation of logit(t).
        time_shift: of "flow": above 1 trains and samples more at high noise, as large volumes need.
        prediction_type: "epsilon", "sample", "v_prediction" (Salimans and Ho 2022), "velocity", or "edm"
            (Karras et al. 2022, Table 1): what each channel's Wiener filter leaves, so that an untrained
            network is that filter. It pays most where channels differ in spread.
        edm_spread: of "edm": whether it is told the spread of "channels", or of "modes", the cosine modes of
            the latents, so that brightness and coarse anatomy, which a network's normalisations take away,
            pass by the network.
        loss_weighting: of the error at each noise level: "plain", "min_snr" (Hang et al. 2023) or "p2" (Choi
            et al. 2022).
        region_weights: of the loss in structures, by name, such as {"hippocampus": 3.0}; "background" is one,
            those left out have 1. "inverse_volume" measures them; None for 1 everywhere. The model must be
            told label maps. See `medldm.training.region_weights`.
        learning_rate: of AdamW, reached after `warmup_steps` of linear increase; it falls along a cosine.
        n_epochs: passes over the training cohort.
        weight_decay: of AdamW.
        warmup_steps: optimiser steps of linear learning-rate increase.
        patience: validations without improvement after which the learning rate falls and the training ends;
            None falls along a cosine over all steps and trains to the end.
        min_improvement: with patience: what counts as improvement, relative to the value to beat.
        decay_share: with patience: share of the steps, the last ones, in which the learning rate falls.
        accumulation_steps: batches whose gradients are added up before a step.
        gradient_clip: largest gradient norm.
        ema_decay: of the averaged weights that are validated and saved; 0 turns averaging off.
        ema_length: width of a power-function average in its place, as a share of the training, see
            `average_weights`; None for `ema_decay`.
        precision: "float32", "bfloat16" or "float16" (CUDA only) for autocast; "auto" is bfloat16 where the
            device computes in it natively, else float32.
        freeze: parts that are left as they are: "conditioner", "embeddings", "input", "level_0" (the
            finest), ..., "middle" and "output"; None for none.
        adapter_rank: of low-rank adapters that are trained in the place of the weights of the denoiser's
            levels; None trains these.
        seed: of all randomness in the training.

    Raises:
        ValueError: if a value is outside its range.

    Examples:
        >>> config = LatentDiffusionConfig(noise_schedule="flow", prediction_type="velocity", n_epochs=50)
        >>> LatentDiffusionConfig.from_dict(config.to_dict()) == config
        True
    """

    autoencoder_type: Literal["vae", "vqvae"] = "vae"
    autoencoder_path: str | None = None
    latent_scaling_factor: float = LATENT_SCALING_FACTOR
    latent_scaling: Literal["auto", "unit", "spectral"] = "unit"
    noise_schedule: str = "linear"
    n_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    zero_terminal_snr: bool = False
    time_distribution: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    time_shift: float = 1.0
    prediction_type: Literal["epsilon", "sample", "v_prediction", "velocity", "edm"] = "epsilon"
    edm_spread: Literal["channels", "modes"] = "channels"
    loss_weighting: Literal["plain", "min_snr", "p2"] = "plain"
    region_weights: dict[str, float] | Literal["inverse_volume"] | None = None
    learning_rate: float = 1e-4
    n_epochs: int = 100
    weight_decay: float = 0.01
    warmup_steps: int = 100
    patience: int | None = None
    min_improvement: float = 0.002
    decay_share: float = 0.2
    accumulation_steps: int = 1
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    ema_length: float | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    freeze: tuple[str, ...] | str | None = None
    adapter_rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.freeze, str):
            self.freeze = read_names(self.freeze)
        self.require("[1, inf)", "n_timesteps", "n_epochs", "accumulation_steps")
        self.require(f"[1, {MAX_TIMESTEPS}]", "n_timesteps")
        self.require("(0, inf]", "learning_rate", "gradient_clip", "latent_scaling_factor")
        self.require("[0, 1)", "ema_decay")
        self.require("(0, 0.28)", "ema_length")
        self.require("[0, inf)", "min_improvement")
        self.require("(0, 1)", "decay_share")
        self.require("[1, inf)", "patience", "adapter_rank")
        self.noise_path().check_prediction_type(self.prediction_type)
        if isinstance(self.region_weights, dict):
            for name, weight in self.region_weights.items():
                if not 0 < weight < math.inf:
                    raise ConfigError(f"region_weights.{name} is {weight}: a number above 0 is needed")

    def noise_path(self) -> NoisePath:
        """Build the noise path; its tables are float64."""
        kind = FLOW if self.noise_schedule == FLOW else "ddpm"
        arguments = {argument: getattr(self, name) for argument, name in NOISE_PATH_FIELDS[kind].items()}
        return make_path({"kind": kind, **arguments})

    def describe_diffusion(self) -> dict[str, Any]:
        """Return what sampling needs to know; it goes into the checkpoint's card."""
        return {"noise_path": self.noise_path().to_dict(), "prediction_type": self.prediction_type}


def read_diffusion(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration from what `describe_diffusion` put into a card.

    Raises:
        ConfigError: if the noise path is not one.
        KeyError: if there is no prediction type.
    """
    if "noise_path" not in description:
        return dict(description)  # version 0.1.0 wrote the fields themselves
    path = make_path(description["noise_path"])
    found = {name: getattr(path, argument) for argument, name in NOISE_PATH_FIELDS[path.kind].items()}
    return {"noise_schedule": FLOW, **found, "prediction_type": description["prediction_type"]}
