"""From a cohort to batches of volumes: the transforms both stages share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.transforms import (
    Compose,
    EnsureTyped,
    MapTransform,
    RandomizableTransform,
    SelectItemsd,
    Transform,
)

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.conditioning.config import SPATIAL_TYPES
from medldm.conditioning.values import EncodesText, blank_value, condition_value
from medldm.configs import read_switch
from medldm.data.checks import require_sound
from medldm.data.cohort import Cohort, read_cohort, with_whole_maps
from medldm.data.contents import require_same_cohort, with_contents
from medldm.data.labels import LabelSchema
from medldm.data.measured_scalars import with_measured_scalars
from medldm.data.partly_labelled import STRUCTURES_IN_MAP, unknown_structures
from medldm.data.split_record import record_split
from medldm.errors import ConfigError
from medldm.latent_diffusion.model_files import agree_on_channels, require_channels_of
from medldm.latent_diffusion.recorded_split import require_untrained
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.transforms import (
    CentreCropOrPadd,
    IntensityMapping,
    LoadVolumed,
    NormaliseIntensityd,
    ResampleToSpacingd,
)

SPATIAL_KEYS = {"label_map": "label", "image": "condition_image"}
ABSENT = "absent:"
"""Prefix of a batch's key that says which samples lack a condition."""
UNKNOWN = "unknown:"
"""Prefix of a batch's key that says which structures a sample's label map does not cover."""


class IndexLabelsd(MapTransform):
    """Map the values of label maps to the contiguous 0..K of a schema.

    Args:
        keys: of the label maps.
        schema: refuses values it does not know.
        allow_missing_keys: pass over maps that a case does not have.
    """

    def __init__(
        self, keys: Sequence[Hashable], *, schema: LabelSchema, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
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
        allow_missing_keys: pass over keys that a case does not have, but for the first.
    """

    def __init__(
        self, keys: Sequence[Hashable], size: Sequence[int], *, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        case = dict(data)
        shape = case[self.keys[0]].shape[1:]
        _check_patch(self.size, shape)
        starts = [self.R.randint(n - part + 1) for n, part in zip(shape, self.size, strict=True)]
        x, y, z = (slice(start, start + part) for start, part in zip(starts, self.size, strict=True))
        for key in self.key_iterator(case):
            case[key] = case[key][:, x, y, z]
        return case


class ConditionValuesd(Transform):
    """Turn a case's classes, scalars and text into tensors, and say which conditions it lacks.

    Args:
        config: the conditions of the model.
        text_encoder: for "text".
    """

    def __init__(self, config: ConditioningConfig, *, text_encoder: EncodesText | None = None) -> None:
        self.config = config
        self.text_encoder = text_encoder

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the loaded volumes, and for each condition its value and "absent:<name>".

        Where the model may be told of unknown structures, "unknown:label_map" (K,) bool joins them.
        """
        volumes = ("image", *(SPATIAL_KEYS[name] for name in self.config.names if name in SPATIAL_TYPES))
        case: dict[Hashable, Any] = {key: data[key] for key in volumes if key in data}
        for name in self.config.names:
            if name in SPATIAL_TYPES:
                key = SPATIAL_KEYS[name]
                case[ABSENT + name] = torch.tensor(key not in data)
                case.setdefault(key, torch.zeros_like(case["image"][:1]))
                if name == "label_map" and self.config.may_be_unknown:
                    case[UNKNOWN + name] = self._unknown(data.get(STRUCTURES_IN_MAP))
                continue
            raw = raw_condition(data, name)
            case[ABSENT + name] = torch.tensor(raw is None)
            case[name] = (
                blank_value(self.config, name)
                if raw is None
                else condition_value(self.config, name, raw, text_encoder=self.text_encoder)
            )
        return case

    def _unknown(self, covered: Sequence[str] | None) -> torch.Tensor:
        """Return (K,) bool; what the training never tells as unknown stays background where it is absent."""
        always = set(self.config.structure_names) - set(self.config.may_be_unknown)
        named = None if covered is None else [*covered, *always]
        return unknown_structures(named, self.config.structures)


def raw_condition(case: Mapping[Any, Any], name: str) -> Any:
    """Return what a cohort's list says of a condition that is not spatial; None where it says nothing."""
    if name in ("class", "text"):
        return case.get(name)
    classes, scalars = case.get("classes", {}), case.get("scalars", {})
    return classes[name] if name in classes else scalars.get(name)


def volume_transforms(
    space: VolumeSpace,
    *,
    schema: LabelSchema | None = None,
    image_intensity: IntensityMapping | None = None,
    patch_size: Sequence[int] | None = None,
    seed: int = 0,
) -> Compose:
    """Return the transforms from a case's files to tensors in the space of the networks.

    Args:
        space: spacing, size and intensity to bring the volumes to.
        schema: if given, the case's label map is loaded too, and its values become the contiguous 0..K.
        image_intensity: if given, the case's condition image is loaded too, if it has one.
        patch_size: voxels of a random crop, taken last; None keeps the whole volume.
        seed: of the crops.

    Returns:
        A transform of {"image": file or files, "label": file, ...} to {"image": (C, X, Y, Z) float32 in
        [-1, 1], "label": (1, X, Y, Z) integers}, without "label" where the
        case has no label map.

    Raises:
        ConfigError: if the crop is larger than the volumes.
    """
    keys, steps = _volume_steps(space, schema=schema, image_intensity=image_intensity)
    # Cases differ in what else they say; a batch takes what all of them have.
    steps.append(SelectItemsd(keys, allow_missing_keys=True))
    if patch_size is not None:
        _check_patch(patch_size, space.size)
        steps.append(RandomPatchd(keys, patch_size, allow_missing_keys=True))
    return Compose(steps).set_random_state(seed)


def _volume_steps(
    space: VolumeSpace, *, schema: LabelSchema | None, image_intensity: IntensityMapping | None
) -> tuple[list[str], list[Any]]:
    """Return the keys of the volumes that are loaded, and the steps from their files to tensors."""
    keys = ["image"] + (["label"] if schema is not None else [])
    keys += ["condition_image"] if image_intensity is not None else []
    labels = ("label",)
    may_miss: dict[str, Any] = {"allow_missing_keys": len(keys) > 1}
    steps: list[Any] = [
        LoadVolumed(keys, label_keys=labels, **may_miss),
        ResampleToSpacingd(keys, space.spacing_mm, label_keys=labels, **may_miss),
        NormaliseIntensityd(("image",), space.intensities),
    ]
    if image_intensity is not None:
        steps.append(NormaliseIntensityd(("condition_image",), image_intensity, **may_miss))
    steps.append(CentreCropOrPadd(keys, space.size, label_keys=labels, fill=-1.0, **may_miss))
    if schema is not None:
        steps.append(IndexLabelsd(labels, schema=schema, **may_miss))
    steps.append(EnsureTyped(keys=keys, track_meta=False, **may_miss))
    return keys, steps


def _check_patch(patch_size: Sequence[int], size: Sequence[int]) -> None:
    if len(patch_size) != 3 or any(part > n for n, part in zip(size, patch_size, strict=True)):
        raise ConfigError(
            f"patch_size is {tuple(patch_size)}: three numbers no larger than the volume's {tuple(size)} are "
            "needed"
        )


def case_transforms(
    space: VolumeSpace, config: ConditioningConfig, *, text_encoder: EncodesText | None = None
) -> Compose:
    """Return the transforms from a case to its volumes and conditions, for the second stage.

    Args:
        space: of the networks.
        config: the conditions of the model.
        text_encoder: for "text".
    """
    schema = LabelSchema(structures=config.structures) if "label_map" in config.conditioning_type else None
    intensity = None
    if "image" in config.conditioning_type and config.image_intensity is not None:
        intensity = IntensityMapping.from_dict(config.image_intensity)
    _, steps = _volume_steps(space, schema=schema, image_intensity=intensity)
    return Compose([*steps, ConditionValuesd(config, text_encoder=text_encoder)])


def gather_conditions(batch: Mapping[str, Any], names: Sequence[str]) -> Conditions:
    """Collect the conditions of a batch of a data loader.

    Args:
        batch: of the loader: each condition under its name, but "label" for "label_map" and
            "condition_image" for "image"; "absent:<name>" (B,) bool where some samples lack it;
            "unknown:label_map" (B, K) bool where maps may leave structures uncovered.
        names: the conditions of the model; those that the batch lacks are absent.
    """
    keys = {name: SPATIAL_KEYS.get(name, name) for name in names}
    return Conditions(
        {name: torch.as_tensor(batch[key]) for name, key in keys.items() if key in batch},
        {name: torch.as_tensor(batch[ABSENT + name]) for name in names if ABSENT + name in batch},
        {name: torch.as_tensor(batch[UNKNOWN + name]) for name in names if UNKNOWN + name in batch},
    )


def open_cohort(
    dataset_dir: str,
    *,
    validation_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    channels: Sequence[str] | None = None,
    drop_incomplete: bool = False,
    autoencoder_path: str | None = None,
    require_labels: bool = False,
) -> Cohort:
    """Read a cohort, refuse it, listing every offending file, if it is not sound, and measure its scalars.

    Args:
        dataset_dir: folder or datalist.
        validation_fraction: share of the subjects kept for validation.
        seed: of the split.
        test_fraction: share of the subjects that choose nothing, see `split_by_subject`.
        channels: contrasts to take, in the order to take them; None for all that the cohort names.
        drop_incomplete: leave out cases that lack one of them.
        autoencoder_path: of a first stage, whose channels are then taken, in its order.
        require_labels: refuse cases without a label map, and leave out training and validation cases whose
            map does not cover every structure: what learns maps learns them whole.

    Raises:
        CohortError: naming each file, what is wrong and what to do.
        CheckpointError: where the channels are not those of the first stage.
        ConfigError: where the first stage was trained on cases that are held out here.
        DistributedError: where the processes of one training have copies that differ.
    """
    if autoencoder_path is not None:
        channels = agree_on_channels(autoencoder_path, channels)
    shares: dict[str, Any] = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    cohort = read_cohort(
        dataset_dir,
        **shares,
        seed=seed,
        channels=channels,
        drop_incomplete=read_switch(drop_incomplete, name="drop_incomplete"),
        require_labels=require_labels,
        strict=False,
    )
    require_sound(cohort)
    cohort = with_contents(with_measured_scalars(cohort))
    require_same_cohort(cohort)
    if require_labels:
        cohort = with_whole_maps(cohort)
    if autoencoder_path is not None:
        require_channels_of(autoencoder_path, cohort.channels)
        require_untrained(autoencoder_path, cohort, what="the first stage")
    return replace(cohort, split_record=record_split(cohort.splits, **shares, seed=seed))
