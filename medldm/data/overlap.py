"""How far two label maps agree: the counts that Dice coefficients and volume ratios follow from."""

from __future__ import annotations

import torch
from torch import Tensor


def count_overlap(prediction: Tensor, truth: Tensor, n_classes: int) -> Tensor:
    """Count each class's voxels in both maps, in the prediction, in the truth: (n_classes, 3) float64.

    Args:
        prediction: integers 0..n_classes - 1, of any shape.
        truth: of the same shape.
        n_classes: the background included.
    """
    prediction, truth = prediction.flatten().long(), truth.flatten().long()
    parts = (truth[prediction == truth], prediction, truth)
    return torch.stack([torch.bincount(part, minlength=n_classes) for part in parts], dim=1).double()


def dice_coefficients(counts: Tensor) -> Tensor:
    """Return the Dice coefficient (n_classes,) of counts, from `count_overlap`; NaN where both are empty.

    Source: Dice 1945: 2 |A and B| / (|A| + |B|).
    """
    return 2 * counts[:, 0] / (counts[:, 1] + counts[:, 2])
