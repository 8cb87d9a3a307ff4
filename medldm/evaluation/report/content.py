"""What a report says: results as JSON can hold them, with a light and some sentences for each section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.copy_rule import RULE
from medldm.evaluation.metrics.copy_search import CopySearch
from medldm.evaluation.results import EvaluationResults
from medldm.evaluation.sections.metric_result import SECTIONS, MetricResult
from medldm.evaluation.sections.privacy import joint_power
from medldm.version import __version__

NOT_ASKED = "Not asked for."

HEADLINES = {
    "fidelity": (
        "fidelity.c2st_",
        "fidelity.mmd",
        "fidelity.kid_contrastive",
        "fidelity.coverage",
        "fidelity.spectrum",
    ),
    "diversity": ("diversity.ms_ssim", "diversity.feature_distance", "diversity.spread_"),
    "anatomy": ("anatomy.volume_ml_", "anatomy.seen_volume_ml_", "anatomy.n_components_"),
    "agreement": ("agreement.mean",),
    "usefulness": ("usefulness.ratio_synthetic", "usefulness.gain_"),
    "privacy": (
        "privacy.republished_maps",
        "privacy.copies_",
        "privacy.data_copying",
        "privacy.membership_auc_",
    ),
}
"""Keys, or their beginnings, of the figures that make a section's light."""


def make_report(results: EvaluationResults, config: EvaluationConfig) -> dict[str, Any]:
    """Return the report as JSON can hold it."""
    sets = results.sets
    named = {"real_training": sets.train, "real_test": sets.test, "synthetic": sets.synthetic}
    return {
        "medldm_version": __version__,
        "sets": {
            name: {
                "n_cases": len(part),
                "n_subjects": len(set(part.subjects)),
                "file_spacing_mm": list(part.file_spacing_mm),
                "has_labels": part.labels is not None,
            }
            for name, part in named.items()
        },
        "grid": {"spacing_mm": list(sets.spacing_mm), "shape": list(sets.shape), "is_ct": sets.is_ct},
        "findings": list(sets.issues),
        "summary": {section: summarise(section, results.metrics) for section in SECTIONS},
        "figures": [result.to_dict() for result in results.metrics],
        "copies": {each.name: each.search and _describe_search(each.search) for each in results.detectors},
        "copy_search": {
            "rule": RULE,
            "joint_power": _power(joint_power(results.detectors)),
            "fails": any(each.search is not None and each.search.fails for each in results.detectors),
        },
        "republished_label_maps": results.republished and results.republished.to_dict(),
        "few_cases": [each.to_dict() for each in results.few_cases],
        "left_out": list(results.left_out),
        "model_sha256": results.model_sha256,
        "settings": config.to_dict(),
        "seconds": {name: round(seconds, 1) for name, seconds in results.seconds.items()},
    }


def _describe_search(search: CopySearch) -> dict[str, Any]:
    return {
        "n_copies": len(search.copies),
        "n_synthetic": search.n_synthetic,
        "n_memorised_subjects": search.n_memorised_subjects,
        "threshold": search.threshold,
        "p_value": search.p_value,
        "n_beyond": len(search.beyond),
        "lone_threshold": search.lone_threshold,
        "fails": search.fails,
        "power": _power(search.power),
        "lone_power": _power(search.lone_power),
        "synthetic_indices": list(search.copies),
        "sentence": search.sentence(),
    }


def _power(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    return {name: getattr(estimate, name) for name in ("value", "lower", "upper")}


def summarise(section: str, metrics: Sequence[MetricResult]) -> dict[str, Any]:
    """Return the light of a section and the sentences that stand for it."""
    own = [result for result in metrics if result.description.section == section]
    headlines = [result for result in own if result.description.key.startswith(HEADLINES[section])]
    lights = [result.light for result in headlines]
    light = next((each for each in ("red", "amber", "green") if each in lights), "grey")
    sentences = [_sentence(result) for result in headlines[:10]] or [
        f"Not computed: {result.not_computed}" for result in own if result.not_computed
    ]
    return {"light": light, "sentences": sentences or [NOT_ASKED]}


def _sentence(result: MetricResult) -> str:
    title = result.description.title
    if result.synthetic is None:
        return f"{title}: not computed: {result.not_computed}"
    if result.description.key.startswith(("privacy.copies", "privacy.republished")):
        return result.note
    if result.description.key.startswith("usefulness.gain_"):
        gain = result.synthetic
        return f"{title}: {gain.value:+.3f} Dice ({gain.lower:+.3f} to {gain.upper:+.3f})."
    unit = f" {result.description.unit}" if result.description.unit else ""
    real = f"; real {result.real.value:.3g}" if result.real else ""
    noise = f", noise {result.noise.value:.3g}" if result.noise else ""
    ceiling = f", autoencoder alone {result.ceiling.value:.3g}" if result.ceiling else ""
    return f"{title}: {result.synthetic.value:.3g}{unit}{real}{noise}{ceiling}."
