"""A small 3D network that tells the volumes of two sets apart, by their texture and by what they show.

It looks at whole crops at full resolution, as they are and less a blur of themselves. After each convolution
it takes the mean and the spread of every channel over the volume, so that fine texture (first maps) and
larger forms (later ones) reach the answer alike, and the answer needs few cases to learn.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.metrics.checks import Floats

Volumes = npt.NDArray[np.float32]


@dataclass(kw_only=True)
class ClassifierConfig(Config):
    """Network and training.

    Args:
        channels: of the convolutions; each after the first halves the grid.
        patch_size: largest crop along X, Y, Z; larger volumes are seen in parts.
        max_shift: voxels that a crop is smaller than the volume, and may lie elsewhere.
        batch_size: crops in a step, half of each set.
        n_steps: of a training; None lets the caller fit them into a time budget.
        max_steps: of a fitted training.
        learning_rate: highest of AdamW, falling to 0 on a cosine.
    """

    channels: tuple[int, int, int] = (12, 24, 24)
    patch_size: tuple[int, int, int] = (48, 48, 48)
    max_shift: int = 4
    batch_size: int = 16
    n_steps: int | None = None
    max_steps: int = 60
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.patch_size) != 3 or min(self.patch_size) < 8 or min(self.channels, default=0) < 1:
            raise ConfigError(
                f"channels {self.channels} and patch_size {self.patch_size} are given; at least one channel "
                "and three sizes of at least 8 are needed"
            )
        self.require("[0, inf)", "max_shift")
        self.require("[2, inf)", "batch_size")
        self.require("[1, inf)", "n_steps", "max_steps")


class VolumeClassifier(nn.Module):
    """Volumes in [0, 1] to one number each; higher means more likely of the second set.

    Args:
        config: channels and crops.

    Examples:
        >>> VolumeClassifier(ClassifierConfig()).eval()(torch.rand(2, 1, 9, 12, 10)).shape
        torch.Size([2])
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(n, m, 3, stride=1 if place == 0 else 2, padding=1),
                nn.BatchNorm3d(m),
                nn.LeakyReLU(0.1),
            )
            for place, (n, m) in enumerate(pairwise((2, *config.channels)))
        )
        n_features = 2 * sum(config.channels)
        self.head = nn.Sequential(nn.BatchNorm1d(n_features), nn.Dropout(0.2), nn.Linear(n_features, 1))

    def forward(self, volumes: Tensor) -> Tensor:
        """Return (B,) of volumes (B, 1, X, Y, Z)."""
        blurred = F.avg_pool3d(F.pad(volumes, (1,) * 6, mode="replicate"), 3, stride=1)
        # About as large as each other: detail is a tenth of the range.
        maps = torch.cat([2 * volumes - 1, 10 * (volumes - blurred)], dim=1)
        features = []
        for block in self.blocks:
            maps = block(maps)
            features += [maps.mean((2, 3, 4)), (maps.var((2, 3, 4)) + 1e-4).sqrt()]
        return self.head(torch.cat(features, dim=1))[:, 0]

    @torch.no_grad()
    def score(self, volumes: Volumes) -> Floats:
        """Return the mean answer (N,) to volumes (N, X, Y, Z) and their left-right mirror images."""
        whole = torch.from_numpy(volumes)[:, None]
        answers = torch.zeros(len(volumes), dtype=torch.float64)
        tiles = list(_tiles(volumes.shape[1:], self.config.patch_size))
        for tile, flip in product(tiles, (False, True)):
            part = whole[(slice(None), slice(None), *tile)]
            part = part.flip(2) if flip else part
            answers += torch.cat([self(each).double() for each in part.split(16)])
        return np.asarray((answers / (2 * len(tiles))).numpy())


def train_volume_classifier(
    volumes: Volumes,
    is_second: npt.NDArray[np.bool_],
    config: ClassifierConfig | None = None,
    *,
    n_steps: int,
    seed: int = 0,
) -> VolumeClassifier:
    """Train a classifier.

    Args:
        volumes: (N, X, Y, Z) in [0, 1].
        is_second: (N,) which set each is of; both must occur. Sets of unequal size are seen as often.
        config: of network and training.
        n_steps: of the optimiser.
        seed: of weights, batches, crops and flips; with the same number of threads the same seed and volumes
            give the same classifier.

    Raises:
        ValueError: for no volume of one of the sets.
    """
    config = config or ClassifierConfig()
    groups = [np.flatnonzero(is_second == flag) for flag in (False, True)]
    if not all(map(len, groups)):
        raise ValueError(f"{len(groups[0])} and {len(groups[1])} volumes are given; some of both are needed")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = VolumeClassifier(config)
        optimiser = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.learning_rate, total_steps=max(n_steps, 2)
        )
        half = config.batch_size // 2
        queues = [_Queue(group, generator) for group in groups]
        truth = torch.cat([torch.zeros(half), torch.ones(half)])
        for _ in range(n_steps):
            places = np.concatenate([queue.take(half) for queue in queues])
            answers = classifier(_draw_views(volumes[places], config, generator=generator))
            loss = F.binary_cross_entropy_with_logits(answers, truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()


def seconds_per_step(volumes: Volumes, config: ClassifierConfig, *, n_steps: int = 3) -> float:
    """Time a few steps of a training on this machine."""
    is_second = np.arange(len(volumes)) % 2 == 1
    train_volume_classifier(volumes, is_second, config, n_steps=1)
    start = time.monotonic()
    train_volume_classifier(volumes, is_second, config, n_steps=n_steps)
    return (time.monotonic() - start) / n_steps


class _Queue:
    """Hand out cases in a random order, each once before any comes again."""

    def __init__(self, places: npt.NDArray[np.int64], generator: torch.Generator) -> None:
        self._places, self._generator = places, generator
        self._waiting = np.zeros(0, dtype=np.int64)

    def take(self, n: int) -> npt.NDArray[np.int64]:
        while len(self._waiting) < n:
            order = torch.randperm(len(self._places), generator=self._generator).numpy()
            self._waiting = np.concatenate([self._waiting, self._places[order]])
        taken, self._waiting = self._waiting[:n], self._waiting[n:]
        return taken


def _draw_views(volumes: Volumes, config: ClassifierConfig, *, generator: torch.Generator) -> Tensor:
    """Return crops (B, 1, X, Y, Z) from one random place, flipped along random axes."""
    batch = torch.from_numpy(volumes)[:, None]
    for axis, most in enumerate(config.patch_size, start=2):
        size = min(max(batch.shape[axis] - config.max_shift, min(batch.shape[axis], 8)), most)
        start = int(torch.randint(batch.shape[axis] - size + 1, (1,), generator=generator))
        batch = batch.narrow(axis, start, size)
        if torch.rand(1, generator=generator) < 0.5:
            batch = batch.flip(axis)
    return batch


def _tiles(shape: tuple[int, ...], most: tuple[int, ...]) -> product[tuple[slice, ...]]:
    """Return parts of at most a size that cover a shape, evenly spread."""
    axes = []
    for n, size in zip(shape, most, strict=True):
        count = math.ceil(n / size)
        starts = np.linspace(0, max(n - size, 0), count).round().astype(int)
        axes.append([slice(int(start), int(start) + min(n, size)) for start in starts])
    return product(*axes)
