"""The loss of a latent diffusion model on single cases, for membership inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.conditioning import Conditions
from medldm.evaluation.metrics.membership import denoising_loss
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """One case as the model takes it.

    Args:
        volume: (1, 1, X, Y, Z) in [-1, 1].
        conditions: of this one case; None for the null of each condition.
    """

    volume: Tensor
    conditions: Conditions | None = None


def make_case_loss(
    model: LatentDiffusionModel,
    config: LatentDiffusionConfig,
    *,
    half_log_snrs: Sequence[float] = (1.0, 0.0, -1.0),
    n_noises: int = 2,
    seed: int = 0,
) -> Callable[[ModelCase], float]:
    """Return a function from a case to the model's denoising loss on it.

    Args:
        model: in evaluation mode from here on.
        config: noise path and prediction type of the model.
        half_log_snrs: levels log(alpha / sigma) at which the loss is taken: about as much noise as signal,
            where what a model remembers of a case helps it most.
        n_noises: draws at each level.
        seed: of the noise, which is the same for all cases of a shape.
    """
    path = config.noise_path()
    times = [path.time_at(level) for level in half_log_snrs]
    model.eval()

    @torch.no_grad()
    def case_loss(case: ModelCase) -> float:
        device = model.latent_shift.device
        latents = model.encode(case.volume.to(device))
        conditions = None if case.conditions is None else case.conditions.to(device)
        return denoising_loss(
            lambda x_t, t: model.denoiser(x_t, t, conditions),
            latents,
            path=path,
            prediction_type=config.prediction_type,
            times=times,
            n_noises=n_noises,
            seed=seed,
        )

    return case_loss


def mirror_case(case: ModelCase) -> list[ModelCase]:
    """Return the left-right mirror image of a case and its maps: as difficult, but not trained on.

    For `score_cases(..., references=mirror_case)`; of no use where training flipped volumes.
    """
    conditions = case.conditions
    if conditions is not None:
        values = {
            name: value.flip(2) if value.ndim == 5 else value for name, value in conditions.values.items()
        }
        conditions = Conditions(values, conditions.absent)
    return [ModelCase(volume=case.volume.flip(2), conditions=conditions)]
