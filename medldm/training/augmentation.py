"""How training cases are augmented: the limits, what is drawn for a copy, what the denoiser is told of it.

Copy 0 of a case is the case as it is. What another copy is follows from the seed, what the case holds and the
copy's number alone. The denoiser is told, and sampling tells it of nothing, so that augmented copies teach it
without widening what it makes.

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", Appendix F.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medldm.configs import Config
from medldm.data.measured_scalars import deformed_scalars
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.seeds import augmentation_generator, copy_generator
from medldm.transforms import Deformation, DeformVolumed
from medldm.transforms.deformation import MAX_ELASTIC_SHARE

_LATTICE_CELLS = 4
_N_GEOMETRIC = 12
"""Numbers of a vector before the intensities: is augmented, 3 angles, 3 scales, 3 shifts, elastic, flip."""
_MR_GAMMA = 0.15


@dataclass(kw_only=True)
class AugmentationConfig(Config):
    """Limit how far copies of a case may differ from it; each draw is uniform between minus and plus a limit.

    Args:
        rotation_deg: about each axis.
        scale: natural logarithm of a factor along all axes.
        stretch: the same of a further factor along each axis.
        translation: along each axis, in shares of the field of view.
        elastic: displacement of the control points of a smooth bending, in shares of their spacing, which is
            a quarter of the field of view; up to 0.4, beyond which space may fold.
        gamma: natural logarithm of the exponent of intensities, which run from 0 to 1 for it; images only,
            each channel its own. None takes 0.15 for MR and 0 where intensities have a fixed meaning, as in
            CT.
        flip: mirror left and right in half of the copies; None does where the structures' names say what a
            mirror image shows, see `medldm.data.mirror`. True says that it is sound.
        original_share: probability that an epoch takes the case as it is.
        order: of the splines that interpolate images, 1 to 5. Order 3 loses 0.4 dB of the power from 0.3 to
            0.4 cycles a voxel, linear interpolation 3.1 dB, order 5 0.1 dB at 2.4 times the time of order 3.

    Raises:
        ConfigError: if a value is outside its range.

    Examples:
        >>> AugmentationConfig(rotation_deg=5, gamma=0).scale
        0.1
    """

    rotation_deg: float = 8.0
    scale: float = 0.1
    stretch: float = 0.05
    translation: float = 0.04
    elastic: float = 0.12
    gamma: float | None = None
    flip: bool | None = None
    original_share: float = 0.5
    order: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[0, 180]", "rotation_deg")
        self.require("[0, 1]", "scale", "stretch", "translation", "gamma", "original_share")
        self.require(f"[0, {MAX_ELASTIC_SHARE}]", "elastic")
        self.require("[1, 5]", "order")

    def gamma_of(self, kind: str) -> float:
        """Return the limit for a channel whose intensity mapping is of a kind."""
        if self.gamma is not None:
            return self.gamma
        return _MR_GAMMA if kind == "mr_percentile" else 0.0


@dataclass(frozen=True, kw_only=True)
class AugmentationDraw:
    """What is done to one copy of a case.

    Args:
        deformation: of all its volumes.
        gammas: exponents of the image's channels.
        condition_gamma: exponent of the condition image.
        vector: what the denoiser is told: limits become -1 and 1, what was not done is 0.
    """

    deformation: Deformation
    gammas: tuple[float, ...]
    condition_gamma: float
    vector: tuple[float, ...]


class Augmentation:
    """Draw and make copies of a cohort's cases.

    Args:
        config: the limits.
        spacing_mm: (x, y, z) of the volumes.
        copies: of each case that are encoded, the case itself among them; at least 2.
        seed: of the draws.
        gammas: limits for the image's channels; () for label maps.
        condition_gamma: limit for the condition image.
        mirror: value -> value in the files' label maps of structures that change places.
        mirror_names: the same by name, each pair once.
        flip: whether half of the copies are mirrored.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        *,
        spacing_mm: Sequence[float],
        copies: int,
        seed: int,
        gammas: Sequence[float] = (),
        condition_gamma: float = 0.0,
        mirror: Mapping[int, int] | None = None,
        mirror_names: Mapping[str, str] | None = None,
        flip: bool = False,
    ) -> None:
        self.config = config
        self.spacing_mm = tuple(spacing_mm)
        self.copies = copies
        self.seed = seed
        self.gammas = tuple(gammas)
        self.condition_gamma = condition_gamma
        self.mirror = dict(mirror or {})
        names = dict(mirror_names or {})
        self.mirror_names = names | {other: one for one, other in names.items()}
        self.flip = flip

    @property
    def n_channels(self) -> int:
        """Numbers that the denoiser is told."""
        return _N_GEOMETRIC + len(self.gammas) + 1

    @property
    def nothing(self) -> torch.Tensor:
        """What is told of a case as it is."""
        return torch.zeros(self.n_channels)

    def choose_copy(self, drawn_seed: int) -> int:
        """Return the copy that an epoch takes of a case, by the case's seed in that epoch."""
        generator = copy_generator(drawn_seed)
        is_original = generator.random() < self.config.original_share
        return 0 if is_original else int(generator.integers(1, self.copies))

    def draw(self, content: str, copy: int, *, size: Sequence[int]) -> AugmentationDraw:
        """Draw what is done to a copy.

        Args:
            content: hash of what the case holds.
            copy: from 1.
            size: (X, Y, Z) voxels of the field of view.
        """
        generator = augmentation_generator(self.seed, content=content, copy=copy)
        # All is drawn whatever the limits, so that none of them changes what another one gives.
        turn, stretch, shift = generator.uniform(-1, 1, (3, 3))
        scale, strength, side = generator.uniform(-1, 1), generator.random(), generator.random()
        powers = generator.uniform(-1, 1, len(self.gammas) + 1)
        points = generator.uniform(-1, 1, (3, *(_LATTICE_CELLS + 3,) * 3))
        limits = self.config
        logarithms = limits.scale * scale + limits.stretch * stretch
        is_flipped = self.flip and side < 0.5
        extent = np.asarray(size) * np.asarray(self.spacing_mm)
        exponents = np.exp(powers * np.array([*self.gammas, self.condition_gamma]))
        vector = (
            1.0,
            *turn * (limits.rotation_deg > 0),
            *logarithms / max(limits.scale + limits.stretch, 1e-9),
            *shift * (limits.translation > 0),
            strength * (limits.elastic > 0),
            float(is_flipped),
            *powers * (np.array([*self.gammas, self.condition_gamma]) > 0),
        )
        return AugmentationDraw(
            deformation=Deformation(
                rotation_deg=_floats(limits.rotation_deg * turn),
                scale=_floats(np.exp(logarithms)),
                translation_mm=_floats(limits.translation * shift * extent),
                elastic_shares=limits.elastic * strength * points if limits.elastic else None,
                flip=is_flipped,
            ),
            gammas=tuple(float(value) for value in exponents[:-1]),
            condition_gamma=float(exponents[-1]),
            vector=tuple(float(value) for value in vector),
        )

    def apply(
        self, case: Mapping[Hashable, Any], drawn: AugmentationDraw, *, keys: Sequence[Hashable], crop: Any
    ) -> dict[Hashable, Any]:
        """Make a copy of a loaded case, and crop or pad it.

        Args:
            case: with volumes (C, X, Y, Z), images in [-1, 1] and label maps with the files' values.
            drawn: for the copy.
            keys: of the volumes; those that the case lacks are passed over.
            crop: the `CentreCropOrPadd` whose place this takes.
        """
        deform = DeformVolumed(
            keys,
            drawn.deformation,
            spacing_mm=self.spacing_mm,
            size=crop.of_image.size,
            label_keys=crop.label_keys,
            mirror=self.mirror,
            order=self.config.order,
            allow_missing_keys=True,
        )
        result = deform(case)
        if "scalars" in case:
            result["scalars"] = deformed_scalars(
                case["scalars"],
                factor=math.prod(drawn.deformation.scale),
                mirrored=self.mirror_names if drawn.deformation.flip else {},
            )
        if drawn.deformation.flip and STRUCTURES_IN_MAP in case:
            names = case[STRUCTURES_IN_MAP]
            result[STRUCTURES_IN_MAP] = [self.mirror_names.get(name, name) for name in names]
        for key, exponents in (("image", drawn.gammas), ("condition_image", (drawn.condition_gamma,))):
            if key in keys and key in result:
                result[key] = raise_to_power(result[key], exponents)
        return result


def raise_to_power(volume: Any, exponents: Sequence[float]) -> Any:
    """Return ((v + 1) / 2)^g 2 - 1 of a volume (C, X, Y, Z) in [-1, 1], with a g for each channel."""
    powers = torch.tensor(exponents, dtype=volume.dtype).view(-1, 1, 1, 1)
    return ((volume + 1) / 2).clamp(min=0) ** powers * 2 - 1


def _floats(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
