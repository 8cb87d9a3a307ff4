"""Evaluate a synthetic cohort: fidelity, diversity, anatomy, usefulness and privacy, in one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.data.cohort import Cohort
from medldm.data.contents import require_same_cohort, with_contents
from medldm.errors import MedldmError
from medldm.evaluation.cases.channels import align_channels
from medldm.evaluation.cases.reading import Cohorts, open_cohort
from medldm.evaluation.cases.unseen import require_unseen
from medldm.evaluation.channel_reports import FOLDER as CHANNELS_FOLDER
from medldm.evaluation.channel_reports import evaluate_channels
from medldm.evaluation.collect import collect_results
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.report.content import make_report
from medldm.evaluation.report.files import write_report
from medldm.evaluation.report.page import make_page
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.sections.metric_result import SECTIONS
from medldm.files import require_writable
from medldm.latent_diffusion.recorded_split import split_of
from medldm.runtime.distributed import world_size

EXIT_NOT_COMPUTED = 3
"""Exit code where a figure could not be computed."""

EXIT_COPIES = 4
"""Exit code where copies were found and were to fail the run."""


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

    Each of several channels has a report of its own, below one of them all, see `evaluate_channels`.

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
        NotMeasurableError: where the sets cannot be compared at all, or the model was trained on test cases.
    """
    config = config or EvaluationConfig()
    output_dir = Path(output_dir)
    require_writable(output_dir, parts=(CHANNELS_FOLDER,))
    output_dir.mkdir(parents=True, exist_ok=True)
    cohorts = align_channels(Cohorts(*(open_cohort(each) for each in (real_train, real_test, synthetic))))
    if world_size() > 1:
        for each, what in zip(cohorts, ("training set", "test set", "synthetic set"), strict=True):
            require_same_cohort(with_contents(each), what=what)
    if resources is not None and resources.model is not None:
        cohorts = require_unseen(cohorts, split_of(resources.model))
    if len(cohorts.synthetic.channels) > 1:
        return evaluate_channels(cohorts, output_dir, config, resources=resources)
    results = collect_results(cohorts, config=config, resources=resources)
    report = make_report(results, config)
    write_report(output_dir, report, lambda: make_page(report, results, config))
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
