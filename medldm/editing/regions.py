"""Where an edit changes a volume, and how the changed part is put into the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F


def editable_latents(region: Tensor, *, downsampling: Sequence[int], margin: int = 0) -> Tensor:
    """Return which latents may change so that a region of voxels can.

    Args:
        region: (B, 1, X, Y, Z) bool, True where voxels are to change.
        downsampling: voxels of each axis to one latent.
        margin: latents around the touched ones that are free, too, diagonals included.

    Returns:
        (B, 1, x, y, z) bool with x = ceil(X / f): latents with a voxel of the region in their block,
        and those within the margin.
    """
    touched = F.max_pool3d(region.float(), tuple(downsampling), ceil_mode=True)
    return F.max_pool3d(touched, 2 * margin + 1, stride=1, padding=margin) > 0


def feather_weights(region: np.ndarray, *, feather_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return w of `blend_region`, (X, Y, Z) float32: 0 outside, rising to 1 at depth `feather_mm`."""
    if feather_mm == 0 or region.all():
        return region.astype(np.float32)
    depth = ndimage.distance_transform_edt(region, sampling=spacing_mm)
    return np.minimum(depth / feather_mm, 1).astype(np.float32)


def dilate_region(region: np.ndarray, *, margin_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the voxels (X, Y, Z) whose centre is at most `margin_mm` from one of the region."""
    if not region.any():
        return region
    return ndimage.distance_transform_edt(~region, sampling=spacing_mm) <= margin_mm


def blend_region(
    original: np.ndarray,
    redrawn: np.ndarray,
    reconstruction: np.ndarray,
    *,
    region: np.ndarray,
    weights: np.ndarray,
    textured: np.ndarray | None = None,
) -> np.ndarray:
    """Put a redrawn region into the original; outside of it, the original's bits.

    Towards the region's border, the redrawn volume is corrected by what the autoencoder loses there, so that
    no edge is seen:

        edited = redrawn + (1 - w) (original - reconstruction) + sqrt(1 - (1 - w)^2) (textured - redrawn)

    The last term is there where texture is drawn. It is independent of the original's, so that with these
    factors the variance is that of one of them at every depth.

    Args:
        original: (X, Y, Z).
        redrawn: the decoded new volume.
        reconstruction: the original through the autoencoder.
        region: bool, the voxels that change.
        weights: w, of `feather_weights`.
        textured: the redrawn volume with texture; None for none.

    Returns:
        (X, Y, Z) float64 within float64 originals, else float32.
    """
    kind = np.float64 if original.dtype == np.float64 else np.float32
    values = original.astype(kind)
    edited = redrawn.astype(kind) + (1 - weights) * (values - reconstruction)
    if textured is not None:
        edited = edited + np.sqrt(1 - (1 - weights) ** 2) * (textured.astype(kind) - redrawn)
    return np.where(region, edited.astype(kind), values)
