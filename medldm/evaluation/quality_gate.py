"""The quality gate of generation: is a new volume a copy of a training case, does it follow its label map?

Both limits are those of real cases. A volume is taken for a copy where it is more like a training volume than
99 % of training volumes are like their nearest one of another subject. Its labels are not followed where a
segmenter, trained on the training cases, finds the label map less well in it than in 95 % of real validation
images. So about 1 % and 5 % of good volumes are drawn again for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medldm.configs import Config
from medldm.data.cohort import Cohort
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.evaluation.cases.reading import known_structures, read_case
from medldm.evaluation.cases.sets import Image, Known, LabelledImage, Labels
from medldm.evaluation.errors import NotMeasurableError, TooFewCasesError
from medldm.evaluation.metrics.copy_search import copy_threshold
from medldm.evaluation.metrics.neighbours import NeighbourConfig, NeighbourIndex
from medldm.evaluation.metrics.overlap import choose_column, dice_scores, only_known
from medldm.evaluation.sections.usefulness_trainings import blind_answer
from medldm.evaluation.segmenter import Segmenter, SegmenterConfig, train_segmenter
from medldm.generation.rejection import QualityGate
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.recorded_split import read_as_trained
from medldm.latent_diffusion.volume_space import require_volume_space
from medldm.transforms import IntensityMapping
from medldm.transforms.window import centre_crop_or_pad

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class QualityGateConfig(Config):
    """What is checked, and what happens then.

    Args:
        max_redraws: tries after the first; None leaves the gate out.
        copies: compare each volume with the training cases.
        labels: compare what a segmenter sees in each volume with its label map.
        n_steps: of the segmenter's training.
        refuse: leave out a volume that fails every try, instead of naming it in its sidecar.
        copy_quantile: of real volumes, above which a volume is taken for a copy.
        label_quantile: of real images' Dice, below which labels are not followed.
        neighbours: what counts as the same volume.
        segmenter: network.
        seed: of the segmenter.
    """

    max_redraws: int | None = None
    copies: bool = True
    labels: bool = True
    n_steps: int = 300
    refuse: bool = False
    copy_quantile: float = 0.99
    label_quantile: float = 0.05
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_redraws is not None and not (self.copies or self.labels):
            raise ConfigError(
                "max_redraws is given and neither copies nor labels are checked: check one of them"
            )


class CopyCheck:
    """Check whether a volume is a copy.

    Args:
        train: training images on the networks' spacing.
        subjects: of each.
        config: quantile and neighbours.

    Raises:
        TooFewCasesError: for fewer than 20 training cases or a single subject.
    """

    def __init__(self, train: Sequence[Image], subjects: Sequence[Any], config: QualityGateConfig) -> None:
        median = np.median([image.shape for image in train], axis=0)
        self.shape = tuple(int(size) for size in median)
        boxed = [centre_crop_or_pad(image, self.shape) for image in train]
        self.index = NeighbourIndex(boxed, config.neighbours)
        names = np.asarray([str(subject) for subject in subjects])
        is_other = names[:, None] != names[None, :]
        if not is_other.any():
            raise TooFewCasesError(
                "all training cases are of one subject; copies need at least two to be told"
            )
        others = np.where(is_other, self.index.search(boxed), -1.0)
        self.threshold = copy_threshold(others, quantile=config.copy_quantile)

    def __call__(self, image: Image, labels: Labels | None) -> list[str]:
        """Return the problem, or nothing."""
        best = float(self.index.search([centre_crop_or_pad(image, self.shape)]).max())
        if best <= self.threshold:
            return []
        return [f"like a training volume: similarity {best:.3f}, at most {self.threshold:.3f} is allowed"]


class LabelCheck:
    """Check whether a volume shows its label map.

    Args:
        segmenter: trained on the training cases.
        real: validation images with their maps 0..K.
        n_structures: K.
        quantile: of the real images' Dice.
        blind: answer that looks at no image, which the segmenter must surpass.
        known: which structures the maps of `real` cover; None for all.
        may_be_unknown: (K,) structures that do not count where a label map lacks them; None for none.

    Raises:
        TooFewCasesError: for fewer than 5 validation cases.
        NotMeasurableError: where the segmenter learned too little.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        real: Sequence[LabelledImage],
        *,
        n_structures: int,
        quantile: float,
        blind: Labels,
        known: Known | None = None,
        may_be_unknown: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        if len(real) < 5:
            raise TooFewCasesError(f"{len(real)} validation cases; a limit for labels needs at least 5")
        self.segmenter, self.n_structures = segmenter, n_structures
        self.may_be_unknown = may_be_unknown
        rows = [None] * len(real) if known is None else list(known)
        pairs = list(zip(real, rows, strict=True))
        scores = np.array([self._dice(segmenter.segment(image), y, row) for (image, y), row in pairs])
        of_blind = [self._dice(centre_crop_or_pad(blind, y.shape), y, row) for (_, y), row in pairs]
        if (mean := np.nanmean(scores)) <= (floor := np.nanmean(of_blind)):
            raise NotMeasurableError(
                f"the gate's segmenter reaches a Dice of {mean:.2f} on validation cases, an answer that "
                f"looks at no image {floor:.2f}: give it more steps"
            )
        self.limit = float(np.nanquantile(scores, quantile))

    def __call__(self, image: Image, labels: Labels | None) -> list[str]:
        """Return the problem, or nothing; a volume without a label map has none."""
        if labels is None:
            return []
        covered = None
        if self.may_be_unknown is not None:
            drawn = np.bincount(labels.ravel(), minlength=self.n_structures + 1)[1:] > 0
            covered = drawn | ~self.may_be_unknown
        dice = self._dice(self.segmenter.segment(image), labels, covered)
        if np.isnan(dice) or dice >= self.limit:
            return []
        return [f"label map not followed: Dice {dice:.3f}, at least {self.limit:.3f} is needed"]

    def _dice(self, answer: Labels, labels: Labels, known: npt.NDArray[np.bool_] | None) -> float:
        scores = only_known(dice_scores(answer, labels, n_structures=self.n_structures), known)
        return float(choose_column(scores[None], None)[0])


def make_quality_gate(
    model: LatentDiffusionModel,
    dataset_dir: str,
    *,
    validation_fraction: float,
    split_seed: int,
    test_fraction: float = 0.0,
    checkpoint: str | Path | None = None,
    config: QualityGateConfig,
) -> QualityGate | None:
    """Build the gate from the cohort of the training; None where it is left out.

    Args:
        model: that makes the volumes.
        dataset_dir: cohort that it was trained on.
        validation_fraction: as in training.
        split_seed: as in training.
        test_fraction: as in training; test cases set no limit.
        checkpoint: of the model: the split that it recorded is taken before these.
        config: of the gate.

    Raises:
        CohortError: naming each file that cannot be used.
        NotMeasurableError: where the cohort is too small for a limit, or the segmenter learned too little.
    """
    if config.max_redraws is None:
        return None
    space, structures = require_volume_space(model.space), model.conditioning_config.structures
    schema = LabelSchema(structures=structures) if structures else None
    has_labels = config.labels and schema is not None
    cohort = read_as_trained(
        dataset_dir,
        checkpoint=checkpoint,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=split_seed,
        require_labels=False,
        channels=space.channels or None,
        drop_incomplete=True,
    )
    # Of several channels each may be wrong by chance: together they are as often as one.
    own = config.copy(
        copy_quantile=1 - (1 - config.copy_quantile) / space.n_channels,
        label_quantile=config.label_quantile / space.n_channels,
    )
    checks = [
        _channel_checks(
            cohort.with_channels([name]) if space.n_channels > 1 else cohort,
            partial(_read, spacing_mm=space.spacing_mm, intensity=mapping),
            schema=schema if has_labels else None,
            config=config if space.n_channels == 1 else own,
            may_be_unknown=model.conditioning_config.may_be_unknown,
        )
        for name, mapping in zip(space.channels or ("",), space.intensities, strict=True)
    ]

    def check(image: Image, labels: Labels | None) -> list[str]:
        if space.n_channels == 1:
            return [problem for each in checks[0] for problem in each(image, labels)]
        return [
            f"{name}: {problem}"
            for name, channel, own_checks in zip(space.channels, image, checks, strict=True)
            for each in own_checks
            for problem in each(channel, labels)
        ]

    return QualityGate(check=check, max_redraws=config.max_redraws, refuse=config.refuse)


def _channel_checks(
    cohort: Cohort,
    read: Callable[..., LabelledImage],
    *,
    schema: LabelSchema | None,
    config: QualityGateConfig,
    may_be_unknown: Sequence[str] = (),
) -> list[CopyCheck | LabelCheck]:
    """Build the checks of images of one channel."""
    train = [read(case, schema=schema) for case in cohort.training]
    checks: list[CopyCheck | LabelCheck] = []
    if config.copies:
        copies = CopyCheck([image for image, _ in train], [c["subject"] for c in cohort.training], config)
        logger.info("gate: at most %.3f like a training volume", copies.threshold)
        checks.append(copies)
    if schema is not None:
        validated = [case for case in cohort.validation if "label" in case]
        validation = [read(case, schema=schema) for case in validated]
        pairs = zip(train, cohort.training, strict=True)
        with_labels = [each for each, case in pairs if "label" in case]
        known = known_structures([case for case in cohort.training if "label" in case], schema)
        if not with_labels:
            raise TooFewCasesError(
                "no training case has a label map, which gate_labels needs: set it to false"
            )
        k = schema.n_structures
        segmenter = train_segmenter(
            with_labels,
            config.segmenter,
            n_structures=k,
            n_steps=config.n_steps,
            seed=config.seed,
            known=(known, None),
        )
        blind = blind_answer([labels for _, labels in with_labels], n_structures=k, known=known)
        labelled = LabelCheck(
            segmenter,
            validation,
            n_structures=k,
            quantile=config.label_quantile,
            blind=blind,
            known=known_structures(validated, schema),
            may_be_unknown=np.array([name in may_be_unknown for name in schema.names]),
        )
        logger.info("gate: a Dice of at least %.3f with the label map", labelled.limit)
        checks.append(labelled)
    return checks


def _read(
    case: dict[str, Any],
    *,
    spacing_mm: Sequence[float],
    intensity: IntensityMapping,
    schema: LabelSchema | None,
) -> LabelledImage:
    """Return a real case on the networks' spacing and scale, its labels as 0..K; all 0 without a schema."""
    image, labels, _ = read_case(case, spacing_mm)
    scaled = np.asarray(intensity.to_model(image), dtype=np.float32)
    if schema is None or labels is None:
        return scaled, np.zeros(scaled.shape, dtype=np.int64)
    return scaled, schema.index_map(labels).numpy()
