"""The cases of an evaluation as the model's training saw them: spacing, size, intensity, conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from medldm.conditioning import ConditioningConfig, Conditions, open_text_encoder
from medldm.data.cohort import Cohort
from medldm.data.listing import Case
from medldm.data.measured_scalars import with_measured_scalars
from medldm.data.split_record import SplitRecord
from medldm.errors import CheckpointError, ConfigError
from medldm.evaluation.cases.reading import number_subjects
from medldm.evaluation.resources import EvaluationResources
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.label_maps import SCHEMA_KEY, schema_of
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.latent_diffusion.recorded_split import split_in
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.runtime.devices import choose_device
from medldm.training import case_transforms, gather_conditions
from medldm.training.label_maps import label_map_case_transforms
from medldm.training.volumes import raw_condition


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A trained model and what its training did to a case.

    Args:
        model: in evaluation mode, on its device.
        config: noise path and prediction type of its training.
        transform: from a cohort's case to the volume and the conditions of the training.
        weights_sha256: says in the report which model it was.
        needs_label: whether it takes a case's label map.
        split: that its training recorded; None where it recorded none.
    """

    model: LatentDiffusionModel
    config: LatentDiffusionConfig
    transform: Callable[[Case], Mapping[Any, Any]]
    weights_sha256: str
    needs_label: bool = False
    split: SplitRecord | None = None

    @property
    def conditioning(self) -> ConditioningConfig:
        """Return the model's conditions."""
        return self.model.conditioning_config

    @property
    def is_augmented(self) -> bool:
        """Whether its training augmented cases, and may have swapped left and right."""
        return self.model.unet_config.augmentation_channels > 0


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """One case as the model takes it.

    Args:
        volume: (1, 1, X, Y, Z) in [-1, 1].
        conditions: of this one case; None for the null of each condition.
    """

    volume: Tensor
    conditions: Conditions | None = None

    def mirrored(self, axis: int = 0) -> ModelCase:
        """Return the mirror image along an axis and its maps: as difficult, but not trained on.

        Of no use where training flipped volumes along this axis.

        Args:
            axis: 0 swaps left and right, 2 top and bottom.
        """
        conditions = self.conditions
        if conditions is not None:
            flipped = {
                name: value.flip(2 + axis) if value.ndim == 5 else value
                for name, value in conditions.values.items()
            }
            conditions = replace(conditions, values=flipped)
        return ModelCase(volume=self.volume.flip(2 + axis), conditions=conditions)


@dataclass(frozen=True, kw_only=True)
class ModelCases:
    """Cases that are loaded one by one when they are needed; all of them would fill the memory.

    Args:
        evaluated: the model that takes them.
        cases: of a cohort.
        subjects: number of each case's subject, from 0.
        n_unknown: cases that were left out because they lack a label map that the model needs, or
            because the training never saw the value of a condition.
    """

    evaluated: EvaluatedModel
    cases: tuple[Case, ...]
    subjects: tuple[int, ...]
    n_unknown: int = 0

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[ModelCase]:
        return map(self.load, range(len(self)))

    def load(self, place: int) -> ModelCase:
        """Load one case."""
        names = self.evaluated.conditioning.names
        batch = default_collate([dict(self.evaluated.transform(self.cases[place]))])
        return ModelCase(volume=batch["image"], conditions=gather_conditions(batch, names) if names else None)


def open_reference_model(
    resources: EvaluationResources, evaluated: EvaluatedModel | None, *, of_label_maps: bool = False
) -> EvaluatedModel | None:
    """Load the second model of an evaluation; None without one.

    Args:
        resources: names the model.
        evaluated: the first one.
        of_label_maps: as in `open_model`.

    Raises:
        ConfigError: where there is no first model, or it is the same.
        CheckpointError: as of `open_model`.
    """
    if resources.reference_model is None:
        if resources.reference_train is not None:
            raise ConfigError("reference_train is given and no reference model: give the model trained on it")
        return None
    if evaluated is None:
        raise ConfigError("a reference model is given and no model: give the one that made the synthetic set")
    found = open_model(resources.copy(model=resources.reference_model), of_label_maps=of_label_maps)
    if found is not None and found.weights_sha256 == evaluated.weights_sha256:
        raise ConfigError(
            "the reference model is the model itself: give one of the same recipe, trained on others"
        )
    return found


def open_model(resources: EvaluationResources, *, of_label_maps: bool = False) -> EvaluatedModel | None:
    """Load the model of an evaluation and set up its training's way of preparing a case; None without one.

    Args:
        resources: names the model.
        of_label_maps: whether label maps alone are evaluated, which only a model of label maps makes.

    Raises:
        CheckpointError: for a file that is missing, damaged or of another kind, or a model without a space.
        ValueError: for another text encoder than that of the training.
    """
    if resources.model is None:
        return None
    model, config, checkpoint = load_latent_diffusion(resources.model)
    makes = "label maps" if SCHEMA_KEY in checkpoint.card else "images"
    if (makes == "label maps") != of_label_maps:
        wanted = "label maps" if of_label_maps else "images"
        raise CheckpointError(
            f"the model makes {makes}, the evaluation is of {wanted}: give the model that made the synthetic "
            f"{wanted}, or none"
        )
    conditioning, space = model.conditioning_config, require_volume_space(model.space)
    if of_label_maps:
        transform = label_map_case_transforms(space, conditioning, schema=schema_of(checkpoint))
    else:
        encoder = None
        if "text" in conditioning.names:
            encoder = open_text_encoder(resources.text_encoder, identity=conditioning.text_encoder)
        transform = case_transforms(space, conditioning, text_encoder=encoder)
    return EvaluatedModel(
        model=model.to(choose_device(resources.device)).eval(),
        config=config,
        transform=transform,
        weights_sha256=checkpoint.card["weights_sha256"],
        needs_label=of_label_maps or "label_map" in conditioning.names,
        split=split_in(checkpoint.card),
    )


def require_channels(evaluated: EvaluatedModel, channels: Sequence[str]) -> None:
    """Refuse cohorts of other channels than the model makes, or in another order.

    Raises:
        CheckpointError: naming both.
    """
    made = require_volume_space(evaluated.model.space).channels
    if made != tuple(channels) and (made or len(channels) > 1):
        raise CheckpointError(
            f"the model makes the channels {list(made)}, the synthetic set has {list(channels)}: give the "
            "model that made it, or none"
        )


def choose_model_cases(
    cohort: Cohort, evaluated: EvaluatedModel, *, n_max: int, seed: int, also: EvaluatedModel | None = None
) -> ModelCases:
    """Choose the cases of a cohort that a model can be asked about.

    A case whose class, category or scalar the training never saw is left out, not given the null condition:
    that would change its loss, and members have no such values.

    Args:
        cohort: a sound one.
        evaluated: the model.
        n_max: cases at most; more are drawn from.
        seed: of the draw.
        also: another model that must be able to take them, too.
    """
    models = [evaluated] if also is None else [evaluated, also]
    own = with_measured_scalars(cohort) if any(each.conditioning.scalars for each in models) else cohort
    known = [
        case
        for case in own.cases
        if all(
            ("label" in case or not each.needs_label) and is_known(case, each.conditioning) for each in models
        )
    ]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(known))[:n_max])
    taken = [known[place] for place in chosen]
    return ModelCases(
        evaluated=evaluated,
        cases=tuple(taken),
        subjects=number_subjects(taken),
        n_unknown=len(own.cases) - len(known),
    )


def is_known(case: Case, config: ConditioningConfig) -> bool:
    """Whether the training had a place for each of a case's values."""
    for name in config.names:
        raw = raw_condition(case, name)
        if raw is None:
            continue
        if name in config.classes and str(raw) not in config.classes[name]:
            return False
        if name in config.scalars and not _is_between(raw, *config.scalars[name]):
            return False
        if name == "class" and not _is_between(raw, 0, (config.num_classes or 0) - 1):
            return False
    return True


def _is_between(raw: Any, low: float, high: float) -> bool:
    try:
        return low <= float(raw) <= high
    except (TypeError, ValueError):
        return False
