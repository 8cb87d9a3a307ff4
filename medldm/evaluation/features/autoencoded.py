"""Volumes as a model's own autoencoder leaves them, and their latents, to search for copies that blur hides.

A model can only give back what its autoencoder keeps of a patient. Compared with the autoencoded patients
instead of the patients themselves, a copy differs by what the denoiser changed alone. Latents belong to a
grid of cells, in which a shift by a part of a cell looks like another volume: every volume is therefore moved
by whole voxels to where it fits the mean training volume best, before it is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import irfftn, rfftn
from scipy.ndimage import gaussian_filter

from medldm.data.listing import Case
from medldm.evaluation.cases.model_cases import EvaluatedModel
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.metrics.neighbours import NeighbourConfig, NeighbourIndex, cosine_neighbours
from medldm.evaluation.metrics.planted_copies import plant_copies, shift_volume
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.training import volume_transforms

Volume = npt.NDArray[np.float32]
ALIGN_WITHIN = 0.2
"""Share of an axis that a volume may be moved by."""
SLOW = 4.0
"""Standard deviation in voxels of the blur whose result does not count in the alignment."""


@dataclass(frozen=True, kw_only=True)
class OwnAutoencoder:
    """The first stage of a model, volume by volume.

    Args:
        reconstruct: (C, X, Y, Z) to what the latents keep of it.
        encode: (C, X, Y, Z) to standardised latents (c, x, y, z).
    """

    reconstruct: Callable[[Volume], Volume]
    encode: Callable[[Volume], Volume]


def own_autoencoder(evaluated: EvaluatedModel) -> OwnAutoencoder:
    """Return the first stage of a model."""
    model = evaluated.model
    device = model.latent_shift.device

    @torch.no_grad()
    def reconstruct(volume: Volume) -> Volume:
        return np.asarray(model.reconstruct(torch.from_numpy(volume)[None].to(device))[0].cpu().numpy())

    @torch.no_grad()
    def encode(volume: Volume) -> Volume:
        return np.asarray(model.encode(torch.from_numpy(volume)[None].to(device))[0].cpu().numpy())

    return OwnAutoencoder(reconstruct=reconstruct, encode=encode)


class ModelVolumes(Sequence[Volume]):
    """Volumes (C, X, Y, Z) as the model's training saw them, loaded when they are needed.

    Args:
        cases: of a cohort.
        evaluated: the model.
    """

    def __init__(self, cases: Sequence[Case], evaluated: EvaluatedModel) -> None:
        self._cases = cases
        self._transform = volume_transforms(require_volume_space(evaluated.model.space))

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        volume = torch.as_tensor(self._transform({"image": self._cases[place]["image"]})["image"])
        return np.ascontiguousarray(volume.numpy(), dtype=np.float32)


def plant_autoencoded(
    volumes: Sequence[Volume], n: int, autoencoder: OwnAutoencoder, *, seed: int
) -> tuple[list[Volume], npt.NDArray[np.int64]]:
    """Return copies as a model that remembers would make them: disguised, then autoencoded.

    Args:
        volumes: (C, X, Y, Z) training volumes in [-1, 1].
        n: copies.
        autoencoder: of the model.
        seed: of sources and disguises.

    Returns:
        The copies and the place (n,) of each one's source.
    """
    n_channels = len(volumes[0])
    # The same seed moves, mirrors and bends the channels of a volume alike.
    channels = [plant_copies(_Channel(volumes, place), n, seed=seed) for place in range(n_channels)]
    stacks = (
        np.stack(each).astype(np.float32).clip(-1, 1) for each in zip(*(c for c, _ in channels), strict=True)
    )
    return [autoencoder.reconstruct(each) for each in stacks], channels[0][1]


def image_detector(train: Sequence[Volume], config: NeighbourConfig) -> Callable[..., Floats]:
    """Return the detector by cross-correlation with autoencoded volumes, the mean over channels.

    Args:
        train: (C, X, Y, Z) autoencoded training volumes.
        config: what counts as the same volume.
    """
    indices = [NeighbourIndex([each[place] for each in train], config) for place in range(len(train[0]))]

    def similarity(volumes: Sequence[Volume]) -> Floats:
        each = [index.search([v[place] for v in volumes]) for place, index in enumerate(indices)]
        return np.mean(each, axis=0, dtype=np.float64)

    return similarity


def latent_detector(train: Sequence[Volume], autoencoder: OwnAutoencoder) -> Callable[..., Floats]:
    """Return the detector by the cosine of latents, less their mean, of a volume or its mirror image.

    Args:
        train: (C, X, Y, Z) autoencoded training volumes.
        autoencoder: of the model.
    """
    template = np.mean([each.mean(axis=0) for each in train], axis=0)

    def encode(volume: Volume) -> Floats:
        return autoencoder.encode(align(volume, template)).astype(np.float64).ravel()

    latents = np.stack([encode(each) for each in train])
    mean = latents.mean(axis=0)
    known = latents - mean

    def similarity(volumes: Sequence[Volume]) -> Floats:
        plain, mirrored = (
            np.stack([encode(np.ascontiguousarray(v[:, ::step])) for v in volumes]) - mean for step in (1, -1)
        )
        return np.maximum(cosine_neighbours(plain, known), cosine_neighbours(mirrored, known))

    return similarity


def align(volume: Volume, template: npt.ArrayLike) -> Volume:
    """Move a volume by whole voxels to where it fits a template best.

    Args:
        volume: (C, X, Y, Z); the mean of the channels is fitted.
        template: (X, Y, Z).

    Returns:
        The volume, moved by at most a fifth of each axis; its border's values fill what comes in.
    """
    first, second = (
        each - gaussian_filter(each, SLOW, mode="nearest")
        for each in (volume.mean(axis=0).astype(np.float64), np.asarray(template, dtype=np.float64))
    )
    limits = [int(ALIGN_WITHIN * size) for size in first.shape]
    padded = [size + limit for size, limit in zip(first.shape, limits, strict=True)]
    window = np.ix_(*(np.arange(-limit, limit + 1) for limit in limits))

    def correlate(fixed: Floats, moved: Floats) -> Floats:
        """Return the sum of fixed(x + s) moved(x) over the voxels x that stay inside, for each shift s."""
        product = rfftn(fixed, padded) * rfftn(moved, padded).conj()
        return np.asarray(irfftn(product, padded)[window])

    inside = np.ones_like(first)
    energy = correlate(inside, first**2) * correlate(second**2, inside)
    fit = correlate(second, first) / np.sqrt(energy.clip(min=1e-12 * float(energy.max()) + 1e-300))
    best = np.unravel_index(int(fit.argmax()), fit.shape)
    shift = [int(place) - limit for place, limit in zip(best, limits, strict=True)]
    return np.stack([shift_volume(channel, shift) for channel in volume]).astype(np.float32)


class _Channel(Sequence[Volume]):
    """One channel of volumes that are loaded when they are needed."""

    def __init__(self, volumes: Sequence[Volume], channel: int) -> None:
        self._volumes, self._channel = volumes, channel

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        return self._volumes[place][self._channel]
