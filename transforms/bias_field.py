"""Correct the bias field of MR images with N4, as an option before normalisation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from medldm.errors import ConfigError
from medldm.transforms.errors import VolumeError
from medldm.transforms.intensity_mapping import foreground_mask
from medldm.transforms.raw_volume import spacing_of


class N4BiasCorrection(Transform):
    """Divide an MR image by its N4 bias field.

    The field is fitted on a coarser copy inside the foreground and evaluated on the full grid. Voxels of the
    background are left as they are.

    Args:
        shrink_factor: voxels per axis that make one of the coarser copy.
        n_iterations: iterations per fitting level; its length is the number of levels.

    Examples:
        >>> volume = MetaTensor(torch.ones(1, 16, 16, 16))
        >>> volume[:, 4:12, 4:12, 4:12] = 100.0
        >>> N4BiasCorrection(shrink_factor=2, n_iterations=(2,))(volume).shape
        torch.Size([1, 16, 16, 16])

    Source: Tustison et al., N4ITK: improved N3 bias correction, IEEE TMI 29 (2010).
    """

    def __init__(self, *, shrink_factor: int = 4, n_iterations: Sequence[int] = (50, 50, 50, 50)) -> None:
        if shrink_factor < 1:
            raise ConfigError(f"shrink_factor is {shrink_factor}; 1 or more is needed")
        if not n_iterations or any(count < 1 for count in n_iterations):
            raise ConfigError(f"n_iterations is {n_iterations}; one positive number for each level is needed")
        self.shrink_factor = shrink_factor
        self.n_iterations = tuple(int(count) for count in n_iterations)

    def __call__(self, volume: MetaTensor) -> MetaTensor:
        """Correct (C, X, Y, Z) float32, channel by channel.

        Raises:
            ValueError: where the foreground holds values of 0 or less, whose logarithm N4 cannot take.
        """
        spacing = spacing_of(volume.affine.cpu().numpy())
        channels = [self._corrected(channel, spacing=spacing) for channel in volume.as_tensor().cpu()]
        return MetaTensor(torch.stack(channels)).copy_meta_from(volume)

    def _corrected(self, channel: torch.Tensor, *, spacing: np.ndarray) -> torch.Tensor:
        mask = foreground_mask(channel)
        if not mask.any():
            return channel.clone()
        if float(channel[mask].min()) <= 0:
            raise VolumeError(
                f"the foreground's smallest value is {float(channel[mask].min()):g}; N4 takes "
                "logarithms and needs positive intensities; leave N4 out for normalised images"
            )
        image = _as_image(channel.numpy(), spacing=spacing)
        factors = [min(self.shrink_factor, size) for size in channel.shape]
        coarse_mask = sitk.Shrink(_as_image(mask.numpy().astype(np.uint8), spacing=spacing), factors)
        corrector = sitk.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations(self.n_iterations)
        corrector.Execute(sitk.Shrink(image, factors), coarse_mask)
        log_field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T
        field = torch.from_numpy(np.exp(np.ascontiguousarray(log_field, dtype=np.float32)))
        return torch.where(mask, channel / field, channel)


class N4BiasCorrectiond(MapTransform):
    """Dictionary form of N4BiasCorrection; give it image keys only."""

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        *,
        shrink_factor: int = 4,
        n_iterations: Sequence[int] = (50, 50, 50, 50),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.correct = N4BiasCorrection(shrink_factor=shrink_factor, n_iterations=n_iterations)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct every key."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.correct(case[key])
        return case


def _as_image(array: np.ndarray, *, spacing: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing([float(value) for value in spacing])
    return image
