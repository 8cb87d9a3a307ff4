"""Copies of cases on their way to the latent cache, and which of them an epoch takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Transform
from safetensors.torch import load_file
from torch import Tensor

from medldm.errors import ConfigError
from medldm.training.augmentation import Augmentation, AugmentationDraw
from medldm.training.quarantine import BadCase, GuardedTransforms, name_error
from medldm.transforms import CentreCropOrPadd

VECTOR = "augmentation"
"""Key of an entry and of a batch: what the denoiser is told of a sample's augmentation."""


class CopyTransforms:
    """Load a case once and make copies of it: deformed where the transforms crop it, in one resampling.

    What lies beyond the crop is still there for a copy that is turned or moved.

    Args:
        transform: from a case's files to tensors; a `CentreCropOrPadd` is among its steps.
        augmentation: makes the copies.
        is_guarded: give a `BadCase` for a copy that cannot be made, see `GuardedTransforms`.

    Raises:
        ConfigError: if no step crops.
    """

    def __init__(self, transform: Any, augmentation: Augmentation, *, is_guarded: bool = False) -> None:
        steps = list(transform.flatten().transforms) if isinstance(transform, Compose) else [transform]
        places = [place for place, step in enumerate(steps) if isinstance(step, CentreCropOrPadd)]
        if not places:
            raise ConfigError(
                "augmentation deforms a case where it is cropped, but its transforms have no "
                "CentreCropOrPadd: make them with medldm.training.case_transforms"
            )
        self.augmentation = augmentation
        self.crop = steps[places[0]]
        self._compose = GuardedTransforms if is_guarded else Compose
        self._is_guarded = is_guarded
        self._before, self._after = Compose(steps[: places[0]]), steps[places[0] + 1 :]

    def draw(self, content: str, copy: int) -> AugmentationDraw | None:
        """Return what is done to a copy of the case with this hash; None for copy 0."""
        if copy == 0:
            return None
        return self.augmentation.draw(content, copy, size=self.crop.of_image.size)

    def told(self, content: str, copy: int) -> dict[str, Tensor]:
        """Return what an entry of a copy says of its augmentation; nothing for copy 0."""
        drawn = self.draw(content, copy)
        return {} if drawn is None else {VECTOR: torch.tensor(drawn.vector)}

    def __call__(self, job: Mapping[str, Any]) -> list[Any]:
        """Return the volumes and conditions of each copy.

        Args:
            job: "case", and "draws" of its copies, None for the case as it is.
        """
        try:
            loaded = self._before(job["case"])
        except (ValueError, OSError, RuntimeError) as error:
            if not self._is_guarded:
                raise
            return [BadCase(f"cannot be loaded ({name_error(error)})") for _ in job["draws"]]
        return [self._finish(loaded, drawn) for drawn in job["draws"]]

    def _finish(self, loaded: Any, drawn: AugmentationDraw | None) -> Any:
        step = self.crop if drawn is None else _Deform(self.augmentation, drawn, crop=self.crop)
        return self._compose(Compose([step, *self._after]))(loaded)


class _Deform(Transform):
    """Crop a case and deform it as drawn: nothing is random in it, so that what follows is guarded too."""

    def __init__(self, augmentation: Augmentation, drawn: AugmentationDraw, *, crop: Any) -> None:
        self.augmentation, self.drawn, self.crop = augmentation, drawn, crop

    def __call__(self, case: Any) -> Any:
        return self.augmentation.apply(case, self.drawn, keys=self.crop.keys, crop=self.crop)


def load_entry(entry: Any) -> Any:
    """Return an entry of the latent cache from memory or from its file."""
    return load_file(entry) if isinstance(entry, Path) else entry


def pick_copy(copies: Sequence[Any], augmentation: Augmentation, index: int) -> dict[str, Tensor] | BadCase:
    """Return one copy of a case's latents, with what the denoiser is told of it.

    Args:
        copies: of the case, entries or files; itself first.
        augmentation: that made them.
        index: a `DrawnCase` of a training, whose seed says which copy; any other number takes the case as it
            is.
    """
    seed = getattr(index, "seed", None)
    number = 0 if seed is None else augmentation.choose_copy(seed)
    if isinstance(copies[0], BadCase):
        return copies[0]
    entry = load_entry(copies[number])
    return entry if isinstance(entry, BadCase) else {VECTOR: augmentation.nothing, **entry}
