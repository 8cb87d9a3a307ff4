"""Weights that must fit a network: by every name and every shape."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medldm.errors import CheckpointError


def load_weights(module: torch.nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights strictly, with an error that names what does not fit.

    Raises:
        CheckpointError: if a name is missing or surplus, or a shape differs.
    """
    require_fit(module.state_dict(), weights, source=source)
    module.load_state_dict(dict(weights))


def require_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse weights that are not a model's, by their names and shapes.

    Raises:
        CheckpointError: if a name is missing or surplus, or a shape differs.
    """
    missing, surplus = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [
        f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if missing or surplus or shapes:
        raise CheckpointError(
            f"the weights of {source} do not fit this model (another configuration?): "
            f"{len(missing)} missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}, "
            f"{len(shapes)} of another shape {shapes[:3]}"
        )
