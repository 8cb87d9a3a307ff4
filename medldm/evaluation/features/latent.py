"""Features of volumes in the latents of the model's own autoencoder: internal to this model.

The autoencoder saw the real training set and made every synthetic volume, so that these features show what
the denoiser adds to it, and nothing that the autoencoder itself cannot show. They compare models that share
an autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.evaluation.cases.reading import Cohorts
from medldm.evaluation.features.space import FeatureKind
from medldm.evaluation.metrics.checks import Floats
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.training import volume_transforms

LATENTS = FeatureKind(
    key="latents",
    name="own autoencoder's latents, internal",
    meaning="The same in the latents of the model's own autoencoder: internal, for comparing models that "
    "share it; what the autoencoder loses does not show.",
)


def pool_latents(latents: Tensor, *, grid: int = 2) -> Floats:
    """Return mean and standard deviation of each channel in each cell of a coarse grid.

    Args:
        latents: (1, C, x, y, z).
        grid: cells along each axis, fewer where an axis is shorter.

    Returns:
        (2 C cells,): all means, then all standard deviations.

    Raises:
        ValueError: for a batch of other than one case, or fewer than 1 cell.
    """
    if latents.ndim != 5 or len(latents) != 1 or grid < 1:
        raise ValueError(
            f"latents of shape {tuple(latents.shape)} and grid {grid} are given; (1, C, x, y, z) and at "
            "least 1 are needed"
        )
    exact = latents.double()
    x, y, z = (min(grid, size) for size in latents.shape[2:])
    mean = F.adaptive_avg_pool3d(exact, (x, y, z))
    variance = F.adaptive_avg_pool3d(exact.square(), (x, y, z)) - mean.square()
    pooled = torch.cat([mean.flatten(), variance.clamp(min=0).sqrt().flatten()])
    return np.asarray(pooled.cpu().numpy(), dtype=np.float64)


@torch.no_grad()
def latent_features(
    model: LatentDiffusionModel,
    cohorts: Cohorts,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Floats]:
    """Encode every case of an evaluation as the training encoded its cases.

    Args:
        model: with a space.
        cohorts: of the evaluation.
        seed: of the noise.
        progress: told what is being encoded.

    Returns:
        (N, D) by "train", "test", "synthetic" and "noise", rows in the order of the cohorts' cases; the noise
        is white, with mean and standard deviation of each channel of a test volume.

    Raises:
        CheckpointError: for a model without a space.
    """
    transform = volume_transforms(require_volume_space(model.space))
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, cohort in (*cohorts._asdict().items(), ("noise", cohorts.test)):
        if progress is not None:
            progress(f"latents of the {name} set")
        rows = []
        for case in cohort.cases:
            volume = torch.as_tensor(transform({"image": case["image"]})["image"])[None]
            if name == "noise":
                drawn = torch.randn(volume.shape, generator=generator)
                pairs = zip(volume.split(1, dim=1), drawn.split(1, dim=1), strict=True)
                channels = [(own.mean() + own.std() * noise).clamp(-1, 1) for own, noise in pairs]
                volume = torch.cat(channels, dim=1)
            rows.append(pool_latents(model.encode(volume.to(model.latent_shift.device))))
        found[name] = np.stack(rows)
    return found
