"""The nearest training volume of each volume, whatever small shift, flip, gain, offset or noise hides it.

Volumes are compared by their normalised cross-correlation (NCC) in a band of spatial frequencies: the slow
part, which all patients share (position, coil shading), and the fast part, which is noise, are left out. The
slow part goes by subtracting a Gaussian blur, so that the jump from one face of a volume to the opposite one
does not leak into the band. For Fourier coefficients X(k), Y(k) in the band, and a shift s of Y,

    NCC(s) = Re sum_k X(k) conj(Y(k)) exp(2 pi i k s) / (|X| |Y|),                                        (1)

and the similarity is the largest NCC over all shifts up to a limit along each axis, and over Y and its
left-right mirror image. Only coefficients in the band are kept, a few thousand for each volume, so that for
one shift all pairs of two sets are one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.fft import rfftn
from scipy.ndimage import gaussian_filter

from medldm.configs import Config
from medldm.errors import ConfigError
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.metrics.checks import Floats, check_volume


@dataclass(kw_only=True)
class NeighbourConfig(Config):
    """What counts as the same volume.

    Args:
        max_shift: along each axis, in voxels.
        wavelengths: shortest wave that is compared, and the one that is halved, in voxels; longer ones fade
            out.
        flips: compare left-right (first axis) mirror images, too.
    """

    max_shift: int = 3
    wavelengths: tuple[float, float] = (4.0, 12.0)
    flips: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, inf)", "max_shift")
        if len(self.wavelengths) != 2 or not 2 <= self.wavelengths[0] < self.wavelengths[1]:
            raise ConfigError(
                f"wavelengths are {self.wavelengths} voxels; "
                "a shortest of at least 2 and a longer one are needed"
            )


class NeighbourIndex:
    """Candidates made ready once, to be compared with queries as they come.

    Args:
        candidates: T volumes (X, Y, Z) of one shape.
        config: shifts, band and flips.

    Raises:
        ValueError: for no volumes or shapes that differ.
        NotMeasurableError: for a volume of one value, or volumes too small for the band.
    """

    def __init__(self, candidates: Sequence[npt.ArrayLike], config: NeighbourConfig | None = None) -> None:
        self.config = config or NeighbourConfig()
        self.shape = _common_shape(candidates)
        self._band = _Band(self.shape, self.config)
        mirrors = (False, True)[: 1 + self.config.flips]
        self._spectra = {
            flipped: _real(
                np.stack([self._band.transform(check_volume(c)[:: -1 if flipped else 1]) for c in candidates])
            )
            for flipped in mirrors
        }

    def search(self, queries: Sequence[npt.ArrayLike]) -> npt.NDArray[np.float32]:
        """Return the similarity (Q, T), Eq. (1), of queries of the candidates' shape to all candidates."""
        if (shape := _common_shape(queries)) != self.shape:
            raise ValueError(
                f"queries of {shape} voxels are compared with candidates of {self.shape}; crop or pad "
                "them to one shape"
            )
        spectra = np.stack([self._band.transform(check_volume(each)) for each in queries])
        steps = range(-self.config.max_shift, self.config.max_shift + 1)
        best = np.full((len(queries), len(self._spectra[False])), -np.inf, dtype=np.float32)
        for shift in product(steps, repeat=3):
            moved = _real(spectra * self._band.phase(shift))
            for fixed in self._spectra.values():
                np.maximum(best, moved @ fixed.T, out=best)
        return best


def cosine_neighbours(queries: npt.ArrayLike, candidates: npt.ArrayLike) -> Floats:
    """Return the cosine similarity (Q, T) of features (Q, D) and (T, D), for the contrastive encoder."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (queries, candidates))
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True).clip(min=1e-12) for each in (a, b))
    return a @ b.T


class _Band:
    """The Fourier coefficients of a band, for volumes of one shape padded by the largest shift."""

    def __init__(self, shape: tuple[int, ...], config: NeighbourConfig) -> None:
        self.pad = config.max_shift
        padded = [size + self.pad for size in shape]
        frequencies = [np.fft.fftfreq(size) for size in padded[:2]] + [np.fft.rfftfreq(padded[2])]
        grid = np.stack(np.meshgrid(*frequencies, indexing="ij"))
        radius = np.sqrt((grid**2).sum(axis=0))
        shortest, longest = config.wavelengths
        self.kept = (radius <= 1 / shortest) & (radius > 0)
        # A Gaussian of this width halves waves of the longest length.
        self.blur = longest * np.sqrt(np.log(2) / 2) / np.pi
        if self.kept.sum() < 32:
            raise NotMeasurableError(
                f"volumes of {shape} voxels have too few waves of {config.wavelengths} voxels to compare"
            )
        self.frequencies = grid[:, self.kept]
        # rfftn leaves out the conjugate half, except on its first plane (and the last of an even axis).
        edge = (self.frequencies[2] == 0) | (self.frequencies[2] == 0.5)
        self.root_count = np.where(edge, 1.0, np.sqrt(2.0))

    def transform(self, volume: Floats) -> npt.NDArray[np.complex64]:
        """Return the coefficients (K,) of a volume, of length 1."""
        detail = volume - gaussian_filter(volume, self.blur, mode="nearest")
        coefficients = rfftn(np.pad(detail, [(0, self.pad)] * 3))[self.kept] * self.root_count
        length = np.linalg.norm(coefficients)
        if length <= 1e-9 * np.abs(volume).max():
            raise NotMeasurableError(
                "a volume has no structure in the compared band; leave volumes of one value out"
            )
        return (coefficients / length).astype(np.complex64)

    def phase(self, shift: tuple[int, ...]) -> npt.NDArray[np.complex64]:
        """Return the factors (K,) that move a volume by `shift` voxels."""
        return np.exp(-2j * np.pi * np.asarray(shift) @ self.frequencies).astype(np.complex64)


def _real(spectra: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """Lay real and imaginary parts side by side, so that a real product gives Re sum X conj(Y)."""
    return np.ascontiguousarray(spectra).view(np.float32)


def _common_shape(volumes: Sequence[npt.ArrayLike]) -> tuple[int, ...]:
    shapes = {np.shape(volume) for volume in volumes}
    if len(shapes) != 1:
        raise ValueError(
            f"volumes of shapes {sorted(shapes)} are given; some of each set, cropped or padded to one "
            "shape, are needed"
        )
    return shapes.pop()
