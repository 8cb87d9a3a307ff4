"""The loss of a latent diffusion model on single cases, for membership inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medldm.diffusion import NoisePath, denoising_losses
from medldm.evaluation.cases.model_cases import ModelCase
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel


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
        appearance = model.appearance_of(latents)
        told = {} if appearance is None else {"appearance": appearance}
        return denoising_loss(
            lambda x_t, t: model.denoiser(x_t, t, conditions, **told),
            latents,
            path=path,
            prediction_type=config.prediction_type,
            spread=model.spread,
            times=times,
            n_noises=n_noises,
            seed=seed,
        )

    return case_loss


@torch.no_grad()
def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    *,
    path: NoisePath,
    prediction_type: str,
    spread: Tensor | float = 1.0,
    times: Sequence[float],
    n_noises: int = 2,
    seed: int = 0,
) -> float:
    """Return a diffusion model's loss on one case, averaged over times and noise that every case shares.

    Args:
        predict: (x_t, network time (1,)) to the network's output; holds the case's conditions.
        x_0: (1, C, X, Y, Z) standardised latents, or a volume for a model of volumes.
        path: noise path of the model.
        prediction_type: of the model.
        spread: standard deviations of the latents, for "edm": of channels (C,) or modes (C, x, y, z).
        times: on the path, such as those of the middle of the schedule, where memory shows best.
        n_noises: draws at each time.
        seed: of the noise.

    Raises:
        ValueError: for no times, fewer than 1 noise, or a batch of other than one case.
    """
    if not times or n_noises < 1 or len(x_0) != 1:
        raise ValueError(
            f"{len(times)} times, {n_noises} noises and {len(x_0)} cases are given; at least 1 time "
            "and noise and one case are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for time in times:
        t = torch.tensor([time], device=x_0.device)
        for _ in range(n_noises):
            noise = torch.randn(x_0.shape, generator=generator).to(x_0)
            losses.append(
                denoising_losses(
                    predict,
                    x_0,
                    t=t,
                    noise=noise,
                    path=path,
                    prediction_type=prediction_type,
                    spread=spread,
                )
            )
    return float(torch.cat(losses).mean())
