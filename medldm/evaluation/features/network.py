"""Features of a network that was trained elsewhere, from a file of the user's: published-style distances.

MONAI's networks take strides where MedicalNet's own code dilates, so that figures compare with others made
through MONAI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets import ResNet

from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.features.cache import FeatureCache
from medldm.evaluation.features.space import FeatureKind
from medldm.evaluation.metrics.checks import Floats, check_volume
from medldm.evaluation.metrics.frechet import frechet_distance
from medldm.files import hash_file
from medldm.networks.pretrained.medicalnet import load_medicalnet
from medldm.runtime.distributed import gather_rows

MIN_SIZE = 16
"""Voxels along the shortest axis that the network can halve five times without losing it."""


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A trained network whose last features are averaged over the volume.

    Args:
        network: in evaluation mode, on the CPU.
        name: "resnet10", "resnet18", "resnet34" or "resnet50".
        file_name: of the weights, without its folder.
        sha256: of the file.
    """

    network: ResNet
    name: str
    file_name: str
    sha256: str

    @property
    def kind(self) -> FeatureKind:
        """Return how a report names the features."""
        return FeatureKind(
            key="network",
            name=f"{self.name} of {self.file_name}",
            meaning="The same in features of a network that was trained elsewhere: for comparison with "
            "figures made with the same file.",
            note=f"SHA-256 of the file: {self.sha256}.",
        )

    @torch.no_grad()
    def embed(self, volume: npt.ArrayLike) -> Floats:
        """Return the features (D,) of a volume (X, Y, Z) brought to mean 0 and standard deviation 1.

        Raises:
            ValueError: for another number of axes, or values that are not finite.
            NotMeasurableError: for an axis too short.
        """
        image = check_volume(volume)
        if min(image.shape) < MIN_SIZE:
            raise NotMeasurableError(
                f"a volume has {image.shape} voxels; the feature network needs at least {MIN_SIZE} along "
                "each axis"
            )
        scaled = (image - image.mean()) / max(float(image.std()), 1e-6)
        features = self.network(torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))[None, None])
        return np.asarray(features[0].double().numpy())


def load_feature_network(path: str | Path) -> FeatureNetwork:
    """Load weights into the network that they are of.

    Args:
        path: safetensors file, names as MedicalNet's or MONAI's.

    Raises:
        CheckpointError: for a file that is no safetensors file, or whose weights are of none of the networks,
            naming what does not fit the nearest one.
    """
    name, network = load_medicalnet(path)
    return FeatureNetwork(network=network, name=name, file_name=Path(path).name, sha256=hash_file(path))


def network_features(
    network: FeatureNetwork,
    sets: CaseSets,
    *,
    cache: FeatureCache,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Floats]:
    """Return the features (N, D) of "train", "test", "synthetic" and "noise", on one shape.

    Args:
        network: that sees the volumes.
        sets: the cases.
        cache: of an earlier evaluation.
        progress: told what is being done.

    Raises:
        NotMeasurableError: for volumes that are too small for the network.
    """
    tell = progress or (lambda _: None)
    settings = {"weights": network.sha256}

    def embed_some(images: Sequence[npt.NDArray[Any]]) -> list[Floats]:
        return [cache.recall_row("network", each, settings, partial(network.embed, each)) for each in images]

    found = {}
    for name in ("train", "test", "synthetic", "noise"):
        tell(f"network features of the {name} set")
        found[name] = gather_rows(getattr(sets, name).boxed_images(sets.shape), embed_some)
    return found


def published_style(features: Mapping[str, Floats], *, n_matched: int) -> str:
    """Say the plain Frechet distance on all features, as published figures are computed.

    Args:
        features: (N, D) raw, by set.
        n_matched: cases of each set, the first ones.

    Source: Heusel et al. 2017, Eq. 6, without regard to the number of cases.
    """
    test = features["test"][:n_matched]
    distances = {
        name: frechet_distance(test, features[name][:n_matched], force=True)
        for name in ("synthetic", "train", "noise")
    }
    return (
        f"Published-style, on all {test.shape[1]} features of {n_matched} cases: synthetic "
        f"{distances['synthetic']:.4g}, real {distances['train']:.4g}, noise {distances['noise']:.4g}; this "
        "number grows as cases get fewer and compares only with those of as many."
    )
