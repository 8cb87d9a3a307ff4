"""Copies of training volumes, disguised as a generative model might: to measure whether a detector finds
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.configs import Config
from medldm.evaluation.metrics.checks import Floats, check_volume


@dataclass(kw_only=True)
class DisguiseConfig(Config):
    """How strongly copies are changed.

    Args:
        max_shift: voxels along each axis, drawn from -max_shift to max_shift.
        noise: standard deviation of added normal noise, in standard deviations of the volume.
        flip_probability: of a left-right mirror image.
        max_log_gamma: contrast is bent by a gamma whose logarithm is drawn from this range, either side of 0.
        max_gain: all intensities are multiplied with 1 + a number up to this, either side of 0.
    """

    max_shift: int = 2
    noise: float = 0.1
    flip_probability: float = 0.5
    max_log_gamma: float = 0.4
    max_gain: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, inf)", "max_shift", "noise", "max_log_gamma")
        self.require("[0, 1)", "max_gain")
        self.require("[0, 1]", "flip_probability")


def plant_copies(
    volumes: Sequence[npt.ArrayLike], n: int, config: DisguiseConfig | None = None, *, seed: int = 0
) -> tuple[list[Floats], npt.NDArray[np.int64]]:
    """Return disguised copies of randomly chosen volumes.

    Args:
        volumes: each (X, Y, Z).
        n: copies; sources repeat only where there are fewer volumes.
        config: how strongly they are changed.
        seed: of sources and changes.

    Returns:
        The copies, of their sources' shapes, and the index (n,) of each one's source.

    Raises:
        ValueError: for no volumes or fewer than 1 copy.
    """
    config = config or DisguiseConfig()
    if not volumes or n < 1:
        raise ValueError(f"{n} copies of {len(volumes)} volumes are asked for; at least 1 of 1 is needed")
    generator = np.random.default_rng(seed)
    rounds = -(-n // len(volumes))
    sources = np.concatenate([generator.permutation(len(volumes)) for _ in range(rounds)])[:n]
    return [disguise(volumes[source], config, generator=generator) for source in sources], sources


def disguise(volume: npt.ArrayLike, config: DisguiseConfig, *, generator: np.random.Generator) -> Floats:
    """Return a copy (X, Y, Z), mirrored perhaps, shifted, re-contrasted and noised, in this order."""
    image = check_volume(volume)
    if generator.random() < config.flip_probability:
        image = image[::-1]
    image = shift_volume(image, generator.integers(-config.max_shift, config.max_shift + 1, size=3))
    low, high = image.min(), image.max()
    gamma = np.exp(generator.uniform(-config.max_log_gamma, config.max_log_gamma))
    bent = low + (high - low) * ((image - low) / max(high - low, 1e-12)) ** gamma
    gain = 1 + generator.uniform(-config.max_gain, config.max_gain)
    return gain * bent + config.noise * image.std() * generator.standard_normal(image.shape)


def shift_volume(volume: Floats, shift: Sequence[int] | npt.NDArray[np.integer]) -> Floats:
    """Move a volume by whole voxels; the border's value fills what comes in."""
    for axis, step in enumerate(shift):
        source = np.clip(np.arange(volume.shape[axis]) - int(step), 0, volume.shape[axis] - 1)
        volume = volume.take(source, axis=axis)
    return volume
