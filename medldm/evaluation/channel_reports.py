"""Evaluate the channels of a synthetic cohort one by one: a report for each, and one of them all.

What is measured in images stands in both, once for each channel. The label maps are the same for all channels
and stand in the common report once. The model takes all channels together: its latents and membership
inference stand in the common report alone.
"""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from medldm.evaluation.cases.ceiling import AutoencodedCases
from medldm.evaluation.cases.channels import of_channel
from medldm.evaluation.cases.model_cases import open_model, require_channels
from medldm.evaluation.cases.reading import Cohorts
from medldm.evaluation.collect import OF_ALL_CHANNELS, collect_model_results, collect_results
from medldm.evaluation.config import EvaluationConfig
from medldm.evaluation.report.content import NOT_ASKED, make_report
from medldm.evaluation.report.files import write_report
from medldm.evaluation.report.html import render_report
from medldm.evaluation.report.page import make_page
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.sections.classifier_trainings import RealOrSyntheticConfig
from medldm.evaluation.sections.metric_result import SECTIONS
from medldm.evaluation.sections.usefulness import UsefulnessConfig

logger = logging.getLogger(__name__)

Report = dict[str, Any]
Timed = TypeVar("Timed", UsefulnessConfig, RealOrSyntheticConfig)
FOLDER = "channels"
LIGHTS = ("red", "amber", "green", "grey")
ALL = ""
"""Stands for what is said of all channels together."""


def evaluate_channels(
    cohorts: Cohorts, output_dir: Path, config: EvaluationConfig, *, resources: EvaluationResources | None
) -> Report:
    """Evaluate each channel and write its report to channels/<name>/, and the common one to the folder.

    Args:
        cohorts: sound ones, with the same channels in one order.
        output_dir: receives the reports.
        config: settings; the time budget is shared among the channels.
        resources: the model, and whatever else is used beside the cohorts.

    Returns:
        The common report: as of one channel, with the name of the channel in each figure's key and title.
    """
    names = cohorts.synthetic.channels
    own = config.copy(
        usefulness=_share_time(config.usefulness, len(names)),
        real_or_synthetic=_share_time(config.real_or_synthetic, len(names)),
    )
    autoencoded = _open_autoencoded(cohorts, config, resources)
    reports: dict[str, Report] = {}
    for place, name in enumerate(names):
        logger.info("channel %s: %d of %d", name, len(reports) + 1, len(names))
        results = collect_results(
            of_channel(cohorts, name),
            config=own,
            resources=resources,
            n_channels=len(names),
            autoencoded=autoencoded,
            channel=place,
        )
        reports[name] = make_report(results, own)
        draw = functools.partial(make_page, reports[name], results, own)
        write_report(output_dir / FOLDER / name, reports[name], draw)
    of_model = collect_model_results(cohorts, results.sets, config=config, resources=resources)
    report = join_reports({**reports, ALL: make_report(of_model, config)}, config)
    draw = functools.partial(render_report, report, plots={}, viewer=_links(reports), n_real_shown=0)
    write_report(output_dir, report, draw)
    return report


def _open_autoencoded(
    cohorts: Cohorts, config: EvaluationConfig, resources: EvaluationResources | None
) -> AutoencodedCases | None:
    """Return the test cases through the model's autoencoder, all channels at once; None without a model."""
    evaluated = open_model(resources) if resources is not None else None
    if evaluated is None:
        return None
    require_channels(evaluated, cohorts.synthetic.channels)
    return AutoencodedCases(evaluated, cohorts.test, seed=config.seed)


def _share_time(config: Timed, n: int) -> Timed:
    return config.copy(time_budget_s=config.time_budget_s / n)


def join_reports(reports: Mapping[str, Report], config: EvaluationConfig) -> Report:
    """Make one report of those of the channels and, under ALL, that of the model."""
    names = [name for name in reports if name != ALL]
    first = reports[names[0]]
    return {
        **first,
        "channels": names,
        "grid": {**first["grid"], "is_ct": {name: reports[name]["grid"]["is_ct"] for name in names}},
        "findings": _join_lines(reports, "findings"),
        "summary": {section: _join_summaries(reports, section) for section in SECTIONS},
        "figures": [figure for section in SECTIONS for figure in _figures(reports, section)],
        "copies": {
            f"{detector}, {name}" if name != ALL else detector: search
            for name, report in reports.items()
            for detector, search in report["copies"].items()
        },
        "copy_search": {
            "rule": first["copy_search"]["rule"],
            "joint_power": _least([reports[name]["copy_search"]["joint_power"] for name in names]),
            "fails": any(report["copy_search"]["fails"] for report in reports.values()),
        },
        # Each channel's own report has its table; the gains stand among the figures.
        "few_cases": [],
        "left_out": [
            *(line for line in _join_lines(reports, "left_out") if line != OF_ALL_CHANNELS),
            *reports[ALL]["left_out"],
        ],
        "model_sha256": reports[ALL]["model_sha256"],
        "settings": config.to_dict(),
        "seconds": {
            f"{stage}, {name}" if name else stage: value
            for name, report in reports.items()
            for stage, value in report["seconds"].items()
        },
    }


def _figures(reports: Mapping[str, Report], section: str) -> list[Report]:
    """Return the figures of a section; those of label maps, the same for all channels, once."""
    found = []
    for place, (name, report) in enumerate(reports.items()):
        for figure in report["figures"]:
            base = figure["key"]
            if base.split(".")[0] != section or (place > 0 and _is_of_labels(base)):
                continue
            if name == ALL or _is_of_labels(base):
                found.append((base, figure))
            else:
                named = {"key": f"{base}@{name}", "title": f"{figure['title']}, {name}", "channel": name}
                found.append((base, {**figure, **named}))
    order = list(dict.fromkeys(base for base, _ in found))
    return [figure for _, figure in sorted(found, key=lambda each: order.index(each[0]))]


def _is_of_labels(key: str) -> bool:
    if key == "privacy.republished_maps":
        return True
    return key.startswith("anatomy.") and not key.startswith("anatomy.seen_")


def _join_summaries(reports: Mapping[str, Report], section: str) -> Report:
    """Return the worst light of a section and the sentences of each channel."""
    summaries = {name: report["summary"][section] for name, report in reports.items()}
    lights = [each["light"] for each in summaries.values()]
    of_channels = {name: each["sentences"] for name, each in summaries.items() if name != ALL}
    sentences = [*_name_lines(of_channels), *summaries[ALL]["sentences"]]
    asked = [sentence for sentence in sentences if sentence != NOT_ASKED]
    return {"light": min(lights, key=LIGHTS.index), "sentences": asked or [NOT_ASKED]}


def _join_lines(reports: Mapping[str, Report], key: str) -> list[str]:
    return _name_lines({name: report[key] for name, report in reports.items() if name != ALL})


def _name_lines(of_channels: Mapping[str, list[str]]) -> list[str]:
    """Return what is said of every channel once, and the rest with the name of its channel."""
    first = next(iter(of_channels.values()))
    common = [line for line in first if all(line in lines for lines in of_channels.values())]
    own = [f"{name}: {line}" for name, lines in of_channels.items() for line in lines if line not in common]
    return [*common, *own]


def _least(powers: list[dict[str, float] | None]) -> dict[str, float] | None:
    """Return the lowest power of a channel's searches; None where one is unknown."""
    known = [power for power in powers if power is not None]
    return min(known, key=lambda power: power["value"]) if len(known) == len(powers) else None


def _links(reports: Mapping[str, Report]) -> str:
    items = "".join(
        f'<li><a href="{FOLDER}/{html.escape(name)}/report.html">{html.escape(name)}</a></li>'
        for name in reports
    )
    return f"<p>Cases and plots of each channel:</p><ul>{items}</ul>"
