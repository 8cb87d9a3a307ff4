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


def _draw_plots(results: EvaluationResults, config: EvaluationConfig) -> dict[str, list[tuple[str, str]]]:
    drawn: dict[str, list[tuple[str, str]]] = {section: [] for section in ("cases", *SECTIONS)}

    def add(section: str, uri: str, caption: str) -> None:
        drawn[section].append((uri, caption))

    cases = _draw_cases(results, config)
    add("cases", cases, "Real test and synthetic cases, in the order of their files.")
    shown = [each for each in results.metrics if each.description.section == "fidelity"]
    if told := [each for each in shown if "c2st_" in each.description.key and each.synthetic]:
        add(
            "fidelity", plots.plot_aucs(told), "How well classifiers tell real from synthetic, with controls."
        )
    if any(each.synthetic and each.real and each.noise for each in shown):
        caption = "Each figure between the real training set (0) and noise (1)."
        add("fidelity", plots.plot_columns(shown), caption)
    if results.features is not None:
        features = results.features
        add("fidelity", plots.plot_features(features.radiomics), "Where the cases lie in feature space.")
        spectra = plots.plot_spectra(features.frequency, features.power)
        add("fidelity", spectra, "Detail at each scale; intensities have unit variance.")
    names = [] if results.sets.schema is None else list(results.sets.schema.structures.values())
    if results.tables:
        volumes = plots.plot_volumes(results.tables, names)
        add("anatomy", volumes, "Volumes, one point a case; bars are medians.")
    if results.usefulness is not None:
        caption = "Dice on real test subjects after training on each source, mean over seeds; bars are means."
        add("usefulness", plots.plot_usefulness(results.usefulness, names), caption)
    if results.few_cases:
        top = None if results.usefulness is None else results.usefulness.mean("real").value
        caption = (
            "Dice on real test subjects with few real cases; small points are draws, bars 95 % intervals."
        )
        add("usefulness", plots.plot_few_cases(results.few_cases, all_real=top), caption)
    for detector in results.detectors:
        if detector.search is None:
            continue
        uri = plots.plot_similarity(
            detector.best, threshold=detector.search.threshold, title=f"Search by {detector.name}"
        )
        add("privacy", uri, "Synthetic volumes right of the threshold are called copies.")
        if config.show_real and detector.name == "correlation":
            sets = results.sets
            made, train = (each.boxed_images(sets.shape) for each in (sets.synthetic, sets.train))
            worst = detector.search.worst[:4]
            pairs = [(made[pair.synthetic], train[pair.train], pair.similarity) for pair in worst]
            caption = "The synthetic volumes most like a training volume, with it and their similarity."
            add("privacy", plots.picture_pairs(pairs), caption)
    return drawn


def _draw_cases(results: EvaluationResults, config: EvaluationConfig) -> str:
    sets = results.sets

    def take(part: CaseSet) -> list[Any]:
        images = [part.picture(place) for place in range(min(config.n_shown, len(part)))]
        labels = part.labels or [np.zeros(image.shape, dtype=np.int64) for image in images]
        return [(image, labels[place], sets.spacing_mm) for place, image in enumerate(images)]

    with tempfile.TemporaryDirectory() as folder:
        path = draw_overview(
            take(sets.test) if config.show_real else [],
            take(sets.synthetic),
            Path(folder) / "overview.png",
            schema=sets.schema,
            max_cases=config.n_shown,
        )
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
