"""Do volumes look as was drawn? What a denoiser is told of each volume as a whole, beside what came out.

python benchmarks/fidelity/appearance.py CHECKPOINT COHORT [--n 30] [--num-steps 24]

Volumes are made for the label maps of unseen cases, encoded again, and measured as training cases are: each
component of what they look like is given as its spread over the volumes, its correlation with what was drawn
and the slope of the line through both. 1 and 1 are perfect; a spread far below that of the unseen cases means
that all volumes look alike in it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medldm import LatentDiffusionModel, LatentDiffusionSampler
from medldm.conditioning import Conditions
from medldm.errors import ConfigError
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.latent_diffusion.recorded_split import read_as_trained
from medldm.seeds import appearance_seed, volume_seed
from medldm.training import case_transforms

BATCH = 6


@dataclass(frozen=True)
class Component:
    """One number of what volumes look like: in unseen cases, as drawn, and as it came out."""

    real_spread: float
    made_spread: float
    correlation: float
    slope: float


def main() -> None:
    """Read the arguments, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", help="latent_diffusion.safetensors of a training with test cases")
    parser.add_argument("cohort", help="that it was trained on; the label maps of its test cases are taken")
    parser.add_argument("--n", type=int, default=30, help="volumes")
    parser.add_argument("--num-steps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, config, _ = load_latent_diffusion(options.checkpoint)
    if model.appearance_basis is None:
        raise ConfigError(f"{options.checkpoint} is not told what a case looks like (appearance_channels 0)")
    images, maps = read_test_cases(model, options.checkpoint, options.cohort, n=options.n)
    sampler = LatentDiffusionSampler(model, config)
    made = make_volumes(sampler, maps, seed=options.seed, num_steps=options.num_steps)
    told = model.draw_appearance([appearance_seed(volume_seed(options.seed, i)) for i in range(len(made))])
    write = sys.stdout.write
    write("| component | sd of unseen cases | sd of volumes | correlation | slope |\n|---|---|---|---|---|\n")
    for number, found in enumerate(compare(told, look_of(model, made), look_of(model, images))):
        write(
            f"| {number} | {found.real_spread:.2f} | {found.made_spread:.2f} | {found.correlation:.2f} | "
            f"{found.slope:.2f} |\n"
        )


def read_test_cases(
    model: LatentDiffusionModel, checkpoint: str, cohort: str, *, n: int
) -> tuple[Tensor, Tensor]:
    """Return volumes and label maps (n, 1, X, Y, Z) of unseen cases, as in training."""
    split = {"validation_fraction": 0.1, "test_fraction": 0.1, "seed": 0}
    cases = read_as_trained(cohort, checkpoint=checkpoint, **split).test[:n]
    transform = case_transforms(space=model.space, config=model.conditioning_config)
    read = [transform(dict(case)) for case in cases]
    images, maps = (
        torch.stack([torch.as_tensor(np.asarray(case[key])) for case in read]) for key in ("image", "label")
    )
    return images.float(), maps


def make_volumes(sampler: LatentDiffusionSampler, maps: Tensor, *, seed: int, num_steps: int) -> Tensor:
    """Return a volume for each label map, without texture."""
    model, size = sampler.model, tuple(maps.shape[2:])
    grid = [-(-n // factor) for n, factor in zip(size, model.autoencoder.downsampling, strict=True)]
    return sampler.sample(
        (len(maps), model.autoencoder.latent_channels, *grid),
        conditions=Conditions({"label_map": maps}),
        size=size,
        batch_size=BATCH,
        seed=seed,
        num_steps=num_steps,
        texture=False,
    )


def look_of(model: LatentDiffusionModel, volumes: Tensor) -> Tensor:
    """Return what volumes look like, (n, components), measured as training cases are."""
    told = [model.appearance_of(model.encode(part)) for part in volumes.split(BATCH)]
    return torch.cat([each for each in told if each is not None])


def compare(told: Tensor, made: Tensor, real: Tensor) -> list[Component]:
    """Compare columns of what was drawn, what came out (n, components), and real cases (m, components)."""
    found = []
    for drawn, came_out, own in zip(told.T.double(), made.T.double(), real.T.double(), strict=True):
        covariance = torch.cov(torch.stack([drawn, came_out]))
        found.append(
            Component(
                real_spread=float(own.std()),
                made_spread=float(came_out.std()),
                correlation=float(covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()),
                slope=float(covariance[0, 1] / covariance[0, 0]),
            )
        )
    return found


if __name__ == "__main__":
    main()
