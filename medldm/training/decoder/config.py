"""How long and at which rates the decoder is adapted to the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medldm.configs import Config

N_PARTS = 10
"""Parts of the training, after each of which is validated and a line logged."""


@dataclass(kw_only=True)
class DecoderConfig(Config):
    """Set the training of the decoder on denoised latents.

    Args:
        n_steps: of this training, rounded up to a multiple of `N_PARTS` above it; 0 for none.
        batch_size: cases of a batch, of all processes together.
        patch_size: voxels of the random patch that is decoded of each case, rounded up to whole latents; None
            for whole volumes.
        denoising_steps: of the solver, from the noise that is put on latents to none; 1 takes the denoiser's
            estimate at once, which is smoother than what sampling gives.
        noise_level: largest sigma / alpha of that noise; None to measure it, see `measure_level`.
        learning_rate: of the decoder's AdamW, reached after the warm-up; it falls along a cosine.
        discriminator_learning_rate: constant.
        adversarial_share: last share of the steps in which the discriminator takes part; 0 for none.
        adversarial_weight: of the adversarial term, while `adaptive_weight` is 0.
        adaptive_weight: of the adversarial term, see `AutoencoderLossConfig`; 0 takes `adversarial_weight`.
        warmup_steps: of linear learning-rate increase.
        gradient_clip: largest gradient norm.
        ema_decay: of the averaged weights, which are kept.
        precision: "float32", "bfloat16", "float16" (CUDA only) or "auto", see `choose_precision`.
        seed: of all randomness.

    Raises:
        ConfigError: if a value is outside its range.

    Examples:
        >>> DecoderConfig(n_steps=995).n_batches
        1000
    """

    n_steps: int = 0
    batch_size: int = 1
    patch_size: tuple[int, int, int] | None = None
    denoising_steps: int = 4
    noise_level: float | None = None
    learning_rate: float = 2e-4
    discriminator_learning_rate: float = 1e-4
    adversarial_share: float = 0.5
    adversarial_weight: float = 0.005
    adaptive_weight: float = 0.0
    warmup_steps: int = 50
    gradient_clip: float = 1.0
    ema_decay: float = 0.99
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, inf)", "n_steps", "adversarial_weight", "adaptive_weight")
        self.require("[1, inf)", "batch_size", "denoising_steps")
        self.require("(0, inf)", "learning_rate", "discriminator_learning_rate")
        self.require("(0, inf]", "gradient_clip")
        self.require("(0, inf)", "noise_level")
        self.require("[0, 1]", "adversarial_share")
        self.require("[0, 1)", "ema_decay")

    @property
    def n_epochs(self) -> int:
        """Parts of the training."""
        return min(N_PARTS, max(1, self.n_steps))

    @property
    def n_batches(self) -> int:
        """Batches of the whole training, as many as there are steps."""
        return self.n_epochs * -(-self.n_steps // self.n_epochs)
