"""From a cohort to batches of volumes: the transforms both stages share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose, EnsureTyped, MapTransform, RandomizableTransform

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.data.checks import require_sound
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.labels import LabelSchema
from medldm.transforms import (
    CentreCropOrPadd,
    LoadVolumed,
    NormaliseIntensityd,
    ResampleToSpacingd,
    measure_intensity_mapping,
)
from medldm.volume_space import VolumeSpace

CONDITION_KEYS = {"label_map": "label", "class": "class", "text": "text"}


class IndexLabelsd(MapTransform):
    """Map the values of label maps to the contiguous 0..K of a schema.

    Args:
        keys: of the label maps.
        schema: refuses values it does not know.
    """

    def __init__(self, keys: Sequence[Hashable], *, schema: LabelSchema) -> None:
        super().__init__(keys)
        self.schema = schema

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map every key."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.schema.index_map(case[key])
        return case


class RandomPatchd(RandomizableTransform, MapTransform):
    """Crop the same random patch from every key; the place is drawn from MONAI's `self.R`.

    Args:
        keys: of tensors (C, X, Y, Z).
        size: voxels (X, Y, Z) of the patch.
    """

    def __init__(self, keys: Sequence[Hashable], size: Sequence[int]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        case = dict(data)
        shape = case[self.keys[0]].shape[1:]
        if any(n < part for n, part in zip(shape, self.size, strict=True)):
            raise ValueError(
                f"patch_size is {self.size}, larger than the volume's {tuple(shape)}: make it smaller"
            )
        starts = [self.R.randint(n - part + 1) for n, part in zip(shape, self.size, strict=True)]
        x, y, z = (slice(start, start + part) for start, part in zip(starts, self.size, strict=True))
        for key in self.key_iterator(case):
            case[key] = case[key][:, x, y, z]
        return case


def volume_transforms(
    space: VolumeSpace,
    *,
    schema: LabelSchema | None = None,
    patch_size: Sequence[int] | None = None,
    seed: int = 0,
) -> Compose:
    """Return the transforms from a case's files to tensors in the space of the networks.

    Args:
        space: spacing, size and intensity to bring the volumes to.
        schema: if given, the case's label map is loaded too, and its values become the contiguous 0..K.
        patch_size: voxels of a random crop, taken last; None keeps the whole volume.
        seed: of the crops.

    Returns:
        A transform of {"image": file, "label": file, ...} to {"image": (1, X, Y, Z) float32 in [-1, 1],
        "label": (1, X, Y, Z) integers}.
    """
    keys = ("image",) if schema is None else ("image", "label")
    steps: list[Any] = [
        LoadVolumed(keys, label_keys=("label",)),
        ResampleToSpacingd(keys, space.spacing_mm, label_keys=("label",)),
        NormaliseIntensityd(("image",), space.intensity),
        CentreCropOrPadd(keys, space.size, label_keys=("label",), fill=-1.0),
    ]
    if schema is not None:
        steps.append(IndexLabelsd(("label",), schema=schema))
    steps.append(EnsureTyped(keys=keys, track_meta=False))
    if patch_size is not None:
        steps.append(RandomPatchd(keys, patch_size))
    return Compose(steps).set_random_state(seed)


def gather_conditions(batch: dict[str, Any], names: Sequence[str]) -> Conditions:
    """Collect the conditions of a batch of a data loader.

    Args:
        batch: of the loader; "label" holds (B, 1, X, Y, Z), "class" (B,), "text" (B, N, D).
        names: the conditions of the model; those that the batch lacks are absent.
    """
    found = {name: batch[CONDITION_KEYS[name]] for name in names if CONDITION_KEYS[name] in batch}
    return Conditions({name: torch.as_tensor(value) for name, value in found.items()})


def open_cohort(dataset_dir: str, *, validation_fraction: float, seed: int) -> Cohort:
    """Read a cohort and refuse it, listing every offending file, if it is not sound.

    Raises:
        CohortError: naming each file, what is wrong and what to do.
    """
    cohort = read_cohort(dataset_dir, validation_fraction=validation_fraction, seed=seed, strict=False)
    require_sound(cohort)
    return cohort


def measure_space(
    cohort: Cohort, *, spacing_mm: Sequence[float], size: Sequence[int], intensity: str
) -> VolumeSpace:
    """Return the space to train in; the intensity mapping is measured on the training cases.

    Args:
        cohort: its training cases are read for `mr_percentile`.
        spacing_mm: of the networks' grid.
        size: voxels of the networks' grid.
        intensity: kind of the mapping, "mr_percentile" or "ct_window".
    """
    mapping = measure_intensity_mapping(cohort.training, kind=intensity)  # type: ignore[arg-type]
    return VolumeSpace(spacing_mm=tuple(spacing_mm), size=tuple(size), intensity=mapping)  # type: ignore[arg-type]


def conditioning_of(
    cohort: Cohort, *, conditioning_type: Sequence[str], conditioning_dropout: float = 0.1, **options: Any
) -> ConditioningConfig:
    """Describe conditions, with the structures and the number of classes of a cohort.

    Args:
        cohort: what is conditioned on must be in it.
        conditioning_type: any of "label_map" and "class".
        conditioning_dropout: see `ConditioningConfig`.
        options: further fields of `ConditioningConfig`.

    Raises:
        ValueError: if the cohort lacks what a condition needs.
    """
    if "label_map" in conditioning_type and cohort.schema is None:
        raise ValueError(
            "conditions name 'label_map', but the cohort has no label maps: add labels/ or leave it out"
        )
    if "label_map" in conditioning_type:
        options["structures"] = dict(cohort.schema.structures)  # type: ignore[union-attr]
    if "class" in conditioning_type:
        without = [case["id"] for case in cohort.cases if "class" not in case]
        if without:
            raise ValueError(
                f"conditions name 'class', but these cases have none in the datalist: {without[:10]}"
            )
        options["num_classes"] = 1 + max(int(case["class"]) for case in cohort.cases)
    return ConditioningConfig(
        conditioning_type=tuple(conditioning_type), conditioning_dropout=conditioning_dropout, **options
    )
