"""What does a denoiser make of how bright a case is? Its estimates of case means beside the best linear ones.

python benchmarks/fidelity/brightness.py CHECKPOINT COHORT [--n 30]

Latents of unseen cases are noised, and the mean of a channel over the volume is estimated by the denoiser.
With spread s of the means over cases, n latents and noise level l = sigma / alpha, the best linear estimate
of the mean has the spread s^2 / (s^2 + l^2 / n)^(1/2); its correlation with the truth is that divided by s.
Where a denoiser's spread is far below it, sampling gives all volumes one brightness.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medldm import LatentDiffusionSampler
from medldm.conditioning import Conditions
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.latent_diffusion.recorded_split import read_as_trained
from medldm.training import case_transforms

LEVELS = (19.0, 11.5, 7.3, 4.9, 3.0, 1.9, 1.0, 0.4)
BATCH = 6
Estimate = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Brightness:
    """Estimates of the means of a channel at a noise level, beside the best linear ones."""

    level: float
    spread: float
    best_spread: float
    correlation: float
    best_correlation: float


def main() -> None:
    """Read the arguments, measure, print a table of the first channel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", help="latent_diffusion.safetensors of a training with test cases")
    parser.add_argument("cohort", help="that it was trained on; its test cases are taken")
    parser.add_argument("--n", type=int, default=30, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    options = parser.parse_args()
    latents, estimate = read_latents(options.checkpoint, options.cohort, n=options.n)
    write = sys.stdout.write
    write(f"first channel: sd of the means of {len(latents)} cases {spread_of(latents[:, 0]):.3f}\n")
    write("| sigma / alpha | spread | best | correlation | best |\n|---|---|---|---|---|\n")
    for found in measure(latents, estimate, seed=options.seed):
        write(
            f"| {found.level:g} | {found.spread:.3f} | {found.best_spread:.3f} | {found.correlation:.2f} | "
            f"{found.best_correlation:.2f} |\n"
        )


def read_latents(checkpoint: str, cohort: str, *, n: int) -> tuple[Tensor, Estimate]:
    """Return the latents (n, C, x, y, z) of test cases, and what estimates them for their conditions."""
    model, config, _ = load_latent_diffusion(checkpoint)
    split = {"validation_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
    cases = read_as_trained(cohort, checkpoint=checkpoint, **split).test[:n]
    transform = case_transforms(space=model.space, config=model.conditioning_config)
    read = [transform(dict(case)) for case in cases]
    images = torch.stack([torch.as_tensor(np.asarray(case["image"])) for case in read]).float()
    labels = torch.stack([torch.as_tensor(np.asarray(case["label"])) for case in read])
    latents = torch.cat([model.encode(part) for part in images.split(BATCH)])
    sampler = LatentDiffusionSampler(model, config)

    def estimate(latents: Tensor, noise: Tensor, level: float) -> Tensor:
        parts = zip(latents.split(BATCH), noise.split(BATCH), labels.split(BATCH), strict=True)
        return torch.cat(
            [
                sampler.denoise(x, eps, level=level, num_steps=1, conditions=Conditions({"label_map": maps}))
                for x, eps, maps in parts
            ]
        )

    return latents, estimate


def measure(latents: Tensor, estimate: Estimate, *, seed: int = 0) -> list[Brightness]:
    """Measure the first channel at all levels.

    Args:
        latents: (n, C, x, y, z) standardised, of unseen cases.
        estimate: maps (latents, noise, level) to the denoiser's estimate of the latents.
        seed: of the noise.
    """
    generator, truth = torch.Generator().manual_seed(seed), latents[:, 0]
    means, n_latents = truth.flatten(1).mean(1), truth[0].numel()
    own = float(means.var())
    found = []
    for level in LEVELS:
        noise = torch.randn(latents.shape, generator=generator)
        estimated = estimate(latents, noise, level)[:, 0].flatten(1).mean(1)
        gain = own / (own + level**2 / n_latents)
        found.append(
            Brightness(
                level=level,
                spread=float(estimated.std()),
                best_spread=(own * gain) ** 0.5,
                correlation=float(torch.corrcoef(torch.stack([means, estimated]))[0, 1]),
                best_correlation=gain**0.5,
            )
        )
    return found


def spread_of(channel: Tensor) -> float:
    """Return the standard deviation over cases of the means of (n, x, y, z)."""
    return float(channel.flatten(1).mean(1).std())


if __name__ == "__main__":
    main()
