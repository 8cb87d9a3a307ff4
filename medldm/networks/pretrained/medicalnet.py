"""Read MedicalNet's weights into MONAI's residual networks.

The weights (Chen et al. 2019) fit MONAI's residual networks of 10, 18, 34 or 50 layers; which of them a file
holds follows from its names and shapes. Nothing is fetched, and no pickle is read. MONAI's networks take
strides where MedicalNet's own code dilates.

Source: Chen et al. 2019, "Med3D: Transfer Learning for 3D Medical Image Analysis".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import ResNet, resnet10, resnet18, resnet34, resnet50
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medldm.errors import CheckpointError
from medldm.networks.weights import require_fit

NETWORKS: Mapping[str, Callable[..., ResNet]] = {
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
}
SHAPE = {"spatial_dims": 3, "n_input_channels": 1, "conv1_t_stride": 2, "feed_forward": False}
SHORTCUTS: tuple[dict[str, Any], ...] = (
    {"shortcut_type": "A"},
    {"shortcut_type": "B", "bias_downsample": False},
    {"shortcut_type": "B", "bias_downsample": True},
)
_PREFIX = "module."


def load_medicalnet(path: str | Path, *, names: Collection[str] = tuple(NETWORKS)) -> tuple[str, ResNet]:
    """Load weights into the network that they are of.

    Args:
        path: safetensors file, names as MedicalNet's or MONAI's.
        names: of the networks that may be in it, of `NETWORKS`.

    Returns:
        The name of the network, and the network in evaluation mode, which is not trained further.

    Raises:
        CheckpointError: for a file that is no safetensors file, or whose weights are of none of the networks,
            naming what does not fit the nearest one.
    """
    weights = _read_weights(path)
    with torch.device("meta"):
        candidates = [
            (name, NETWORKS[name](**SHAPE, **options)) for name, options in product(names, SHORTCUTS)
        ]
    name, network = min(candidates, key=lambda each: _n_misfits(each[1].state_dict(), weights))
    nearest = f" (nearest network: {name})" if len(names) > 1 else ""
    require_fit(network.state_dict(), weights, source=f"{path}{nearest}")
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False)
    return name, network.eval()


def _read_weights(path: str | Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); pickled weights (.pth) are not read: see "
            "docs/how-to/foreign_files.md for how to convert a file that you trust"
        ) from error
    return {
        name.removeprefix(_PREFIX): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def _n_misfits(outline: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> int:
    shared = outline.keys() & weights.keys()
    n_shapes = sum(outline[name].shape != weights[name].shape for name in shared)
    return len(outline.keys() ^ weights.keys()) + n_shapes
