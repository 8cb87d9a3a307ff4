"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field

from medldm.configs import Config
from medldm.evaluation.cases.reading import GridConfig
from medldm.evaluation.features.contrastive import ContrastiveConfig
from medldm.evaluation.metrics.neighbours import NeighbourConfig
from medldm.evaluation.sections.classifier_trainings import RealOrSyntheticConfig
from medldm.evaluation.sections.membership import MembershipConfig
from medldm.evaluation.sections.usefulness import UsefulnessConfig


@dataclass(kw_only=True)
class EvaluationConfig(Config):
    """Settings of an evaluation; the defaults serve cohorts of tens to hundreds of cases.

    Args:
        seed: of everything.
        n_resamples: of the bootstrap intervals.
        n_pairs: of volumes for diversity, of each set.
        copy_quantile: of real test volumes' similarity to the training set, above which a volume is called a
            copy.
        n_planted: disguised copies that measure the detectors' power.
        n_shown: real and synthetic cases in the viewer and the overview, of each.
        show_real: put real cases into the page; it is patient data then.
        viewer_max_voxels: of each volume in the viewer.
        grid: common grid and scale.
        contrastive: encoder and its training.
        real_or_synthetic: classifiers that tell the sets apart, and their time budget.
        neighbours: what counts as the same volume.
        membership: how the model is asked whether it knows a case, where it is given.
        usefulness: segmenter trainings and their time budget.
    """

    seed: int = 0
    n_resamples: int = 500
    n_pairs: int = 100
    copy_quantile: float = 0.99
    n_planted: int = 60
    n_shown: int = 4
    show_real: bool = True
    viewer_max_voxels: int = 300_000
    grid: GridConfig = field(default_factory=GridConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    real_or_synthetic: RealOrSyntheticConfig = field(default_factory=RealOrSyntheticConfig)
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    usefulness: UsefulnessConfig = field(default_factory=UsefulnessConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[20, inf)", "n_resamples")
        self.require("[1, inf)", "n_pairs", "n_planted", "n_shown")
        self.require("(0, 1)", "copy_quantile")
