"""From the results of an evaluation to its page: plots, pictures and viewer."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medldm.evaluation.cases.sets import CaseSet
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.report import plots
from medldm.evaluation.report.html import render_report
from medldm.evaluation.report.overview import draw_overview
from medldm.evaluation.report.viewer import ViewerCase, viewer_html
from medldm.evaluation.results import EvaluationResults
from medldm.evaluation.sections.metric_result import SECTIONS
from medldm.evaluation.sections.privacy import worst_pairs

Plots = dict[str, list[tuple[str, str]]]


def make_page(report: Mapping[str, Any], results: EvaluationResults, config: EvaluationConfig) -> str:
    """Return the HTML of an evaluation."""
    n_real = min(config.n_shown, len(results.sets.test)) if config.show_real else 0
    cases = _viewer_cases(results, n_real=n_real, n_synthetic=config.n_shown)
    viewer = viewer_html(cases, schema=results.sets.schema, max_voxels=config.viewer_max_voxels)
    return render_report(report, plots=_draw_plots(results, config), viewer=viewer, n_real_shown=n_real)


def _viewer_cases(results: EvaluationResults, *, n_real: int, n_synthetic: int) -> list[ViewerCase]:
    sets = results.sets

    def make(part: CaseSet, kind: str, n: int) -> list[ViewerCase]:
        return [
            ViewerCase(
                name=f"{kind} {place + 1}",
                image=part.picture(place),
                labels=None if part.labels is None else part.labels[place],
                spacing_mm=sets.spacing_mm,
            )
            for place in range(min(n, len(part)))
        ]

    return make(sets.synthetic, "synthetic", n_synthetic) + make(sets.test, "real", n_real)


def _draw_plots(results: EvaluationResults, config: EvaluationConfig) -> Plots:
    drawn: Plots = {section: [] for section in ("cases", *SECTIONS)}
    drawn["cases"].append(
        (_draw_cases(results, config), "Real test and synthetic cases, in the order of their files.")
    )
    shown = [each for each in results.metrics if each.description.section == "fidelity"]
    if any(each.synthetic and each.real and each.noise for each in shown):
        caption = "Each figure between the real training set (0) and noise (1)."
        drawn["fidelity"].append((plots.plot_columns(shown), caption))
    if results.features is not None:
        features = results.features
        drawn["fidelity"].append(
            (plots.plot_features(features.radiomics), "Where the cases lie in feature space.")
        )
        drawn["fidelity"].append(
            (
                plots.plot_spectra(features.frequency, features.power),
                "Detail at each scale; intensities have unit variance.",
            )
        )
    names = [] if results.sets.schema is None else list(results.sets.schema.structures.values())
    if results.tables:
        drawn["anatomy"].append(
            (plots.plot_volumes(results.tables, names), "Volumes, one point a case; bars are medians.")
        )
    if results.usefulness is not None:
        caption = "Dice on real test subjects after training on each source, mean over seeds; bars are means."
        drawn["usefulness"].append((plots.plot_usefulness(results.usefulness, names), caption))
    for detector in results.detectors:
        if detector.search is None:
            continue
        uri = plots.plot_similarity(
            detector.best, threshold=detector.search.threshold, title=f"Search by {detector.name}"
        )
        drawn["privacy"].append((uri, "Synthetic volumes right of the threshold are called copies."))
        if config.show_real and detector.name == "correlation":
            pairs = worst_pairs(detector, results.sets)
            caption = "The synthetic volumes most like a training volume, with it and their similarity."
            drawn["privacy"].append((plots.picture_pairs(pairs), caption))
    return drawn


def _draw_cases(results: EvaluationResults, config: EvaluationConfig) -> str:
    sets = results.sets

    def take(part: CaseSet) -> list[Any]:
        shown = range(min(config.n_shown, len(part)))
        return [
            (
                part.picture(place),
                np.zeros(part.images[place].shape, dtype=np.int64)
                if part.labels is None
                else part.labels[place],
                sets.spacing_mm,
            )
            for place in shown
        ]

    with tempfile.TemporaryDirectory() as folder:
        path = draw_overview(
            take(sets.test) if config.show_real else [],
            take(sets.synthetic),
            Path(folder) / "overview.png",
            schema=sets.schema,
            max_cases=config.n_shown,
        )
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
