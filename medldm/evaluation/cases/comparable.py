"""Volumes that differ in nothing but what the model is to blame for: what a real-or-synthetic test is shown.

A classifier takes whatever tells two sets apart. Before it sees them, volumes on the common grid and scale
lose what says where a file comes from rather than what is in it:

    field of view   all are cropped about their centre to the smallest of them, so that none is padded
    clipping        values beyond the common range, which an intensity mapping cuts off, are cut off in all
    number type     all are rounded to one step, the coarsest step between neighbouring values of any volume

Rounding is random: x / step goes up with the probability of its fractional part. The mean stays x, and the
comb that rounding integers to another step would leave in the histogram does not arise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.evaluation.cases.sets import CaseSet, Image
from medldm.evaluation.errors import NotMeasurableError
from medldm.files import hash_array
from medldm.seeds import rounding_generator
from medldm.transforms.window import centre_crop_or_pad

STEPS = (1 / 256, 1 / 32)
"""Finest and coarsest rounding, as shares of the range."""

MIN_EDGE = 8
"""Voxels along each axis."""


@dataclass(frozen=True, kw_only=True)
class ComparableSet:
    """The volumes of one set.

    Args:
        volumes: (N, X, Y, Z) in [0, 1].
        keys: a hash of each volume, to sort them by.
        subjects: number of each case's subject within the set.
    """

    volumes: npt.NDArray[np.float32]
    keys: tuple[str, ...]
    subjects: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.subjects)

    def take(self, places: npt.NDArray[np.int64]) -> ComparableSet:
        """Return the cases at some places."""
        return ComparableSet(
            volumes=self.volumes[places],
            keys=tuple(self.keys[place] for place in places),
            subjects=tuple(self.subjects[place] for place in places),
        )

    def draw(self, n: int, *, seed: int) -> npt.NDArray[np.int64]:
        """Return the places of at most n cases; which cases these are does not depend on their order."""
        order = np.argsort(np.array(self.keys), kind="stable")
        return np.sort(order[np.random.default_rng(seed).permutation(len(self))[:n]])


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """Sets of volumes of one shape and one rounding.

    Args:
        sets: by name.
        step: of the rounding, as a share of the range.
        hides_rounding: whether it is as coarse as the coarsest volume's own.
    """

    sets: dict[str, ComparableSet]
    step: float
    hides_rounding: bool

    def describe(self) -> str:
        """Say what was made equal."""
        shape = " x ".join(str(n) for n in next(iter(self.sets.values())).volumes.shape[1:])
        text = (
            f"All volumes are cropped to {shape} voxels, clipped to one range and rounded to 1/"
            f"{round(1 / self.step)} of it."
        )
        if not self.hides_rounding:
            text += " Some volumes have coarser steps of their own, which may give them away."
        return text


def make_comparable(parts: Mapping[str, CaseSet], *, limits: tuple[float, float]) -> Comparable:
    """Bring sets on the common grid and scale to one shape, range and rounding.

    Args:
        parts: the sets by name.
        limits: ends of the range, in the units of the images.

    Raises:
        NotMeasurableError: where the smallest volume has fewer than 8 voxels along an axis.
    """
    shape = np.min([image.shape for part in parts.values() for image in part.images], axis=0)
    if min(shape) < MIN_EDGE:
        raise NotMeasurableError(
            f"the volumes have {' x '.join(map(str, shape))} voxels in common; a real-or-synthetic test "
            f"needs at least {MIN_EDGE} along each axis"
        )
    scaled = {name: [_scale(image, limits) for image in part.images] for name, part in parts.items()}
    coarsest = max(native_step(image) for images in scaled.values() for image in images)
    step = float(np.clip(coarsest, *STEPS))
    sets = {}
    for name, part in parts.items():
        volumes = [
            round_at_random(np.clip(centre_crop_or_pad(image, shape), 0, 1), step) for image in scaled[name]
        ]
        keys = tuple(hash_array(volume) for volume in volumes)
        sets[name] = ComparableSet(volumes=np.stack(volumes), keys=keys, subjects=part.subjects)
    return Comparable(sets=sets, step=step, hides_rounding=coarsest <= STEPS[1])


def native_step(image: npt.ArrayLike) -> float:
    """Return the median difference of neighbouring values that occur: of integers times a factor, the factor.

    Of a volume whose values all differ it is next to nothing; of one value, 0.
    """
    values = np.unique(np.asarray(image, dtype=np.float64))
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def round_at_random(image: Image, step: float) -> Image:
    """Round to multiples of a step, up with the probability of the fractional part.

    The draws follow from the image's own content, so that they depend on no other image.
    """
    draws = rounding_generator(hash_array(image)).random(image.shape)
    return (np.floor(image / step + draws) * step).astype(np.float32)


def _scale(image: Image, limits: tuple[float, float]) -> Image:
    low, high = limits
    return np.asarray((image - low) / max(high - low, 1e-12), dtype=np.float32)
