"""A small 3D encoder that learns to tell the training volumes apart, whatever view of them it is shown.

Two random views of each volume of a batch make a positive pair; all other views are negatives. For embeddings
z of 2 B views, with cosine similarity s and temperature tau, the loss of a positive pair (i, j) is

    l(i, j) = -log( exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) )      Chen et al. 2020, Eq. 1         (1)

averaged over both orders of all pairs. What the encoder learns is what makes a volume this patient's and no
other's: the features for finding copies. They are blind to the contrast changes they were trained on.

Crops of one organ look alike, and an encoder that starts by giving all of them the same features stays at
the loss of chance, log(2 B - 1). Three things lead away from there: the slow part of each volume, which all
patients share, is taken off first; features are normalised over the batch, so that they cannot all be equal;
and the last grid of 2 x 2 x 2 or more is kept, not averaged, since where a detail lies tells patients apart.
Left and right are told apart, too: compare mirror images as well to find mirrored copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.features.augmentation import AugmentationConfig, augment
from medldm.evaluation.metrics.checks import Floats, check_volume


@dataclass(kw_only=True)
class ContrastiveConfig(Config):
    """The encoder and its training.

    Args:
        size: voxels along X, Y, Z that every volume is resized to.
        channels: of the four levels, each half the size of the one before.
        blur: voxels along each axis of the mean that is taken off first; odd.
        n_projected: number of features.
        n_steps: of training. The default takes about two minutes on two CPU cores.
        batch_size: volumes in a step, at most.
        learning_rate: of Adam, falling to 0 on a cosine.
        temperature: tau of Eq. (1).
        augmentation: how far views differ; a mapping is taken for its fields.
        seed: of weights, batches and views.
    """

    size: tuple[int, int, int] = (32, 32, 32)
    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    blur: int = 9
    n_projected: int = 64
    n_steps: int = 250
    batch_size: int = 32
    learning_rate: float = 2e-3
    temperature: float = 0.1
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.size) != 3 or min(self.size) < 8 or len(self.channels) != 4 or min(self.channels) < 1:
            raise ConfigError(
                f"size {self.size} and channels {self.channels} are given; three sizes of at least 8 and "
                "four numbers of at least 1 are needed"
            )
        if self.blur < 3 or self.blur % 2 == 0:
            raise ConfigError(f"blur is {self.blur} voxels; an odd number of at least 3 is needed")
        self.require("[1, inf)", "n_steps")
        self.require("[2, inf)", "batch_size")
        self.require("(0, inf)", "temperature", "learning_rate")


class ContrastiveEncoder(nn.Module):
    """Volume to features, standardised on the training set.

    Args:
        config: size, channels and number of features.

    Examples:
        >>> config = ContrastiveConfig(size=(8, 8, 8), channels=(4, 4, 8, 8), n_steps=1)
        >>> ContrastiveEncoder(config).eval().embed([np.random.rand(9, 12, 7)]).shape
        (1, 64)
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *config.channels)
        self.trunk = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(n, m, 3, stride=2, padding=1), nn.BatchNorm3d(m), nn.ReLU())
                for n, m in pairwise(widths)
            )
        )
        last = config.channels[-1]
        n_cells = math.prod(-(-size // 2 ** len(config.channels)) for size in config.size)
        self.head = nn.Sequential(
            nn.Linear(last * n_cells, last),
            nn.BatchNorm1d(last),
            nn.ReLU(),
            nn.Linear(last, config.n_projected),
        )
        self.register_buffer("centre", torch.zeros(config.n_projected))
        self.register_buffer("scale", torch.ones(config.n_projected))

    def forward(self, volumes: Tensor) -> Tensor:
        """Return features (B, D) of prepared volumes (B, 1, X, Y, Z)."""
        return self.head(self.trunk(take_off_blur(volumes, self.config.blur)).flatten(1))

    def embed(self, volumes: Sequence[npt.ArrayLike], *, batch_size: int = 32) -> Floats:
        """Return standardised features (N, D) of volumes (X, Y, Z) of any shape and unit."""
        features = self._features(prepare_volumes(volumes, self.config.size), batch_size)
        return ((features - self.centre) / self.scale).double().numpy()

    def standardise(self, prepared: Tensor, *, batch_size: int = 32) -> None:
        """Set centre and scale so that these volumes (N, 1, X, Y, Z) have features of mean 0 and variance 1.

        Without it features that differ little between patients would rule the cosine.
        """
        scale, centre = torch.std_mean(self._features(prepared, batch_size), dim=0)
        self.centre, self.scale = centre, torch.where(scale > 1e-6, scale, 1.0)

    @torch.no_grad()
    def _features(self, prepared: Tensor, batch_size: int) -> Tensor:
        return torch.cat([self(part) for part in prepared.split(batch_size)])


def train_contrastive_encoder(
    volumes: Sequence[npt.ArrayLike],
    config: ContrastiveConfig | None = None,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> ContrastiveEncoder:
    """Train an encoder on the real training set.

    Args:
        volumes: each (X, Y, Z); one for each subject, or scans of one subject are pushed apart.
        config: of encoder and training.
        on_step: called with the step, from 1, and its loss; for a progress bar.

    Returns:
        The encoder in evaluation mode. The same seed, volumes and number of threads give the same weights.

    Raises:
        ValueError: for volumes that do not fit.
        TooFewCasesError: for fewer than 4 volumes.
    """
    config = config or ContrastiveConfig()
    if len(volumes) < 4:
        raise TooFewCasesError(f"{len(volumes)} volumes; contrastive training needs at least 4")
    prepared = prepare_volumes(volumes, config.size)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = ContrastiveEncoder(config)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.n_steps)
    batches = _draw_batches(len(prepared), config.batch_size, generator=generator)
    for step in range(1, config.n_steps + 1):
        batch = prepared[next(batches)]
        views = [augment(batch, config.augmentation, generator=generator) for _ in range(2)]
        first, second = encoder(torch.cat(views)).chunk(2)
        loss = nt_xent_loss(first, second, temperature=config.temperature)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    encoder.eval().standardise(prepared)
    return encoder


def nt_xent_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Return the mean of Eq. (1) over both orders of all positive pairs.

    Args:
        first: (B, K) embeddings of one view of each volume; B at least 2.
        second: (B, K) of the other.
        temperature: tau, above 0.

    Source: Chen et al. 2020, Eq. 1 and Algorithm 1.
    """
    z = F.normalize(torch.cat([first, second]), dim=1)
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def prepare_volumes(volumes: Sequence[npt.ArrayLike], size: tuple[int, int, int]) -> Tensor:
    """Resize volumes by averaging and give each mean 0 and standard deviation 1.

    Returns:
        (N, 1, *size) float32.

    Raises:
        ValueError: for no volumes, or one that is not (X, Y, Z) or not finite.
    """
    if not volumes:
        raise ValueError("no volumes are given; at least one is needed")
    rows = []
    for volume in volumes:
        image = torch.from_numpy(np.ascontiguousarray(check_volume(volume)))[None, None]
        resized = F.adaptive_avg_pool3d(image, size)
        rows.append((resized - resized.mean()) / resized.std().clamp(min=1e-6))
    return torch.cat(rows).float()


def take_off_blur(volumes: Tensor, width: int) -> Tensor:
    """Subtract the mean over a box and give each volume mean 0 and standard deviation 1.

    Args:
        volumes: (B, 1, X, Y, Z).
        width: of the box along each axis, odd; beyond the border its value is repeated.
    """
    blurred = F.pad(volumes, (width // 2,) * 6, mode="replicate")
    for box in ((width, 1, 1), (1, width, 1), (1, 1, width)):
        blurred = F.avg_pool3d(blurred, box, stride=1)
    detail = volumes - blurred
    axes = (1, 2, 3, 4)
    return (detail - detail.mean(axes, keepdim=True)) / detail.std(axes, keepdim=True).clamp(min=1e-6)


def _draw_batches(n: int, batch_size: int, *, generator: torch.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Yield batches for ever; each pass shows every volume at most once, in a new order."""
    size = min(batch_size, n)
    while True:
        order = torch.randperm(n, generator=generator).numpy()
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]
