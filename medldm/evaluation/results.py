"""All that the report and the plots of an evaluation stand on."""

from __future__ import annotations

from dataclasses import dataclass, field

from medldm.evaluation.cases.sets import CaseSets
from medldm.evaluation.features.extraction import SetFeatures
from medldm.evaluation.metrics.anatomy import AnatomyTable
from medldm.evaluation.sections import privacy
from medldm.evaluation.sections.agreement import LabelAgreement
from medldm.evaluation.sections.few_cases import FewCases
from medldm.evaluation.sections.metric_result import MetricResult
from medldm.evaluation.sections.republished import RepublishedMaps
from medldm.evaluation.sections.usefulness import Usefulness


@dataclass(kw_only=True)
class EvaluationResults:
    """All that the report and the plots of an evaluation stand on.

    Args:
        sets: the cases.
        metrics: in the order of the report.
        features: of the sets; None where they could not be extracted.
        tables: anatomy by set; empty without label maps.
        agreement: None where it could not be measured.
        usefulness: None where it could not be measured.
        few_cases: usefulness beside few real cases; empty where it was not measured.
        detectors: searches for copies.
        republished: label maps of training cases among the synthetic ones; None where there are no maps.
        left_out: what was not asked for, in sentences.
        seconds: by stage.
        model_sha256: of the weights of the model that was asked; None where none was given.
    """

    sets: CaseSets
    metrics: list[MetricResult] = field(default_factory=list)
    features: SetFeatures | None = None
    tables: dict[str, AnatomyTable] = field(default_factory=dict)
    agreement: LabelAgreement | None = None
    usefulness: Usefulness | None = None
    few_cases: list[FewCases] = field(default_factory=list)
    detectors: list[privacy.DetectorResult] = field(default_factory=list)
    republished: RepublishedMaps | None = None
    left_out: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    model_sha256: str | None = None
