"""Evaluate a synthetic cohort: fidelity, diversity, anatomy, usefulness and privacy, in one report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.data.cohort import Cohort
from medldm.errors import MedldmError
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.metrics.bootstrap import Estimate
from medldm.evaluation.metrics.copy_rule import RULE
from medldm.evaluation.metrics.copy_search import CopySearch
from medldm.evaluation.report.page import make_page
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.results import EvaluationResults, collect_results
from medldm.evaluation.sections.metric_result import SECTIONS, MetricResult
from medldm.evaluation.sections.privacy import joint_power
from medldm.files import write_atomically
from medldm.runtime.distributed import is_main_process
from medldm.version import __version__

EXIT_NOT_COMPUTED = 3
"""Exit code where a figure could not be computed."""

EXIT_COPIES = 4
"""Exit code where copies were found and were to fail the run."""

HEADLINES = {
    "fidelity": ("fidelity.mmd", "fidelity.kid_contrastive", "fidelity.coverage", "fidelity.spectrum"),
    "diversity": ("diversity.ms_ssim", "diversity.feature_distance"),
    "anatomy": ("anatomy.volume_ml_", "anatomy.seen_volume_ml_", "anatomy.n_components_"),
    "agreement": ("agreement.mean",),
    "usefulness": ("usefulness.ratio_synthetic",),
    "privacy": ("privacy.copies_", "privacy.data_copying", "privacy.membership_auc_"),
}
"""Keys, or their beginnings, of the figures that make a section's light."""


def evaluate(
    real_train: str | Path | Cohort,
    real_test: str | Path | Cohort,
    synthetic: str | Path | Cohort,
    output_dir: str | Path,
    config: EvaluationConfig | None = None,
    *,
    resources: EvaluationResources | None = None,
) -> dict[str, Any]:
    """Evaluate a synthetic cohort and write report.json and report.html.

    Of several processes each extracts features of its part of the cases, trains its part of the segmenters
    and asks the model about its part; the first one writes what one alone would.

    Args:
        real_train: cohort that the model was trained on: a folder with images/ and labels/, or a datalist.
        real_test: cohort of subjects that the model never saw.
        synthetic: cohort that the model made.
        output_dir: receives report.json and report.html; each appears whole or not at all.
        config: settings.
        resources: the model, and whatever else is used beside the cohorts.

    Returns:
        The report, as in report.json: "sets", "findings", "summary", "figures", "copies", "copy_search",
        "left_out", "model_sha256", "settings", "seconds". It holds counts and indices, no identifier and no
        path.

    Raises:
        CohortError: naming each file that cannot be used.
        CheckpointError: for a model file that cannot be used.
        NotMeasurableError: where the sets cannot be compared at all.
    """
    config = config or EvaluationConfig()
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = collect_results(real_train, real_test, synthetic, config=config, resources=resources)
    report = make_report(results, config)
    page = make_page(report, results, config)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if is_main_process():
        write_atomically(output_dir / "report.json", text.encode())
        write_atomically(output_dir / "report.html", page.encode())
    return report


class ReportError(MedldmError):
    """Report that the figures have gaps, or that copies were found and are a failure.

    Args:
        message: what, and where to look.
        exit_code: `EXIT_NOT_COMPUTED` or `EXIT_COPIES`.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def require_clean(report: Mapping[str, Any], *, fail_on_copies: bool = False) -> None:
    """Refuse a report that has gaps or, where that is a failure, copies.

    Args:
        report: of `evaluate`.
        fail_on_copies: as in `exit_code`.

    Raises:
        ReportError: with the code of `exit_code`.
    """
    code = exit_code(report, fail_on_copies=fail_on_copies)
    if code == EXIT_COPIES:
        raise ReportError("copies of real volumes were found; report.html says which", exit_code=code)
    if code:
        raise ReportError("some figures could not be computed; report.html says why", exit_code=code)


def exit_code(report: Mapping[str, Any], *, fail_on_copies: bool = False) -> int:
    """Return 0, `EXIT_NOT_COMPUTED` or, before that, `EXIT_COPIES`.

    Args:
        report: of `evaluate`.
        fail_on_copies: whether copies are a failure, by `copy_rule.RULE`, and having searched for none, as in
            an evaluation of label maps alone, is a gap. A search takes about 1 -
            `copy_quantile` of innocent volumes for copies, so that one above the threshold is no failure yet.
    """
    if fail_on_copies and any(each is not None and each["fails"] for each in report["copies"].values()):
        return EXIT_COPIES
    is_unsearched = fail_on_copies and not report["copies"]
    has_gaps = any(each["not_computed"] for each in report["figures"])
    return EXIT_NOT_COMPUTED if is_unsearched or has_gaps else 0


def summary_text(report: Mapping[str, Any]) -> str:
    """Return the report's summary as lines of text, for a terminal."""
    lines = [*report["findings"], *report["left_out"]]
    for section, title in SECTIONS.items():
        summary = report["summary"][section]
        lines += [f"{title}: {summary['light']}", *(f"  {sentence}" for sentence in summary["sentences"])]
    return "\n".join(lines)


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
        "summary": {section: _summarise(section, results.metrics) for section in SECTIONS},
        "figures": [result.to_dict() for result in results.metrics],
        "copies": {each.name: each.search and _describe_search(each.search) for each in results.detectors},
        "copy_search": {
            "rule": RULE,
            "joint_power": _power(joint_power(results.detectors)),
            "fails": any(each.search is not None and each.search.fails for each in results.detectors),
        },
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


def _summarise(section: str, metrics: Sequence[MetricResult]) -> dict[str, Any]:
    own = [result for result in metrics if result.description.section == section]
    headlines = [result for result in own if result.description.key.startswith(HEADLINES[section])]
    lights = [result.light for result in headlines]
    light = next((each for each in ("red", "amber", "green") if each in lights), "grey")
    sentences = [_sentence(result) for result in headlines[:6]] or [
        f"Not computed: {result.not_computed}" for result in own if result.not_computed
    ]
    return {"light": light, "sentences": sentences or ["Not asked for."]}


def _sentence(result: MetricResult) -> str:
    title = result.description.title
    if result.synthetic is None:
        return f"{title}: not computed: {result.not_computed}"
    if result.description.key.startswith("privacy.copies"):
        return result.note
    unit = f" {result.description.unit}" if result.description.unit else ""
    real = f"; real {result.real.value:.3g}" if result.real else ""
    noise = f", noise {result.noise.value:.3g}" if result.noise else ""
    return f"{title}: {result.synthetic.value:.3g}{unit}{real}{noise}."
