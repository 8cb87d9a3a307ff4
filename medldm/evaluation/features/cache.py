"""Remember features and encoder weights between evaluations.

An entry's name is a hash of the volume as it lies on the common grid and scale, of the settings and of the
versions that the result depends on: another file, grid, scale, setting or version is another entry. Entries
are safetensors with the hash of their own content; one that is damaged, or not the one of its name, is
computed again. They hold numbers and hashes, no names and no paths. The weights of an encoder that was
trained on patients are as confidential as a model of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medldm.errors import CheckpointError
from medldm.evaluation.metrics.checks import Floats
from medldm.files import hash_array
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.version import __version__

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
FEATURES = "features"


def entry_key(volumes: Sequence[npt.NDArray[Any]], settings: Mapping[str, Any]) -> str:
    """Return the name of what is computed from volumes, in their order, with settings.

    Args:
        volumes: on the common grid and scale.
        settings: JSON-able; everything else that the result depends on.
    """
    content = {
        "volumes": [hash_array(volume) for volume in volumes],
        "settings": dict(settings),
        "versions": {"medldm": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """Keep what was computed in a folder.

    Args:
        directory: is made where it is missing; None keeps nothing.

    Examples:
        >>> cache = FeatureCache(None)
        >>> cache.recall("radiomics", "0" * 64, lambda: {"features": torch.zeros(2)})
        {'features': tensor([0., 0.])}
    """

    def __init__(self, directory: str | Path | None) -> None:
        self.directory = None if directory is None else Path(directory)

    def recall(
        self,
        kind: str,
        key: str,
        compute: Callable[[], Tensors],
        *,
        check: Callable[[Tensors], None] | None = None,
    ) -> Tensors:
        """Return an entry, computed where there is none that is whole.

        Args:
            kind: of the entry.
            key: from `entry_key`.
            compute: called where the entry is missing, damaged, another one or refused by `check`.
            check: raises `CheckpointError` for tensors that are not of the form that is needed.
        """
        if self.directory is None:
            return compute()
        path = self.directory / f"{kind}-{key}.safetensors"
        found = _read(path, kind=kind, key=key, check=check)
        if found is None:
            found = compute()
            _write(path, found, kind=kind, key=key)
        return found

    def recall_row(
        self,
        kind: str,
        volume: npt.NDArray[Any],
        settings: Mapping[str, Any],
        compute: Callable[[], npt.ArrayLike],
    ) -> Floats:
        """Return the features (D,) of one volume, computed where they are not known.

        Args:
            kind: of the features.
            volume: (X, Y, Z) on the common grid and scale.
            settings: JSON-able; everything else that the features depend on.
            compute: returns the features.
        """
        entry = self.recall(
            kind,
            entry_key([volume], settings),
            lambda: {FEATURES: torch.from_numpy(np.array(compute(), dtype=np.float64))},
            check=_check_row,
        )
        return np.asarray(entry[FEATURES].numpy())


def _check_row(entry: Tensors) -> None:
    if list(entry) != [FEATURES] or entry[FEATURES].ndim != 1 or not bool(entry[FEATURES].isfinite().all()):
        raise CheckpointError(f"it holds {list(entry)}; one row of finite features is needed")


def _read(path: Path, *, kind: str, key: str, check: Callable[[Tensors], None] | None) -> Tensors | None:
    if not path.exists():
        return None
    try:
        entry = load_checkpoint(path, kind=kind)
        if entry.card.get("key") != key:
            raise CheckpointError("it is the entry of other volumes or settings")
        if check is not None:
            check(entry.weights)
    except (CheckpointError, OSError) as error:
        logger.warning("an entry of the feature cache is computed again: %s", error)
        return None
    return entry.weights


def _write(path: Path, tensors: Tensors, *, kind: str, key: str) -> None:
    try:
        save_checkpoint(path, tensors, {"kind": kind, "key": key})
    except (CheckpointError, OSError) as error:
        logger.warning("the features cannot be remembered for the next evaluation: %s", error)
