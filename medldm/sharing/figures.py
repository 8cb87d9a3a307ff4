"""The figures of a report.json that a model card shows, each with its interval, or with "not measured"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.errors import ConfigError, MissingFileError
from medldm.runtime.json_files import read_json

NOT_MEASURED = "not measured"
WANTED = (
    ("Fidelity", "fidelity.spectrum", "Difference of the power spectrum"),
    ("Fidelity", "fidelity.c2st_network", "Real or synthetic: AUC of a network"),
    ("Fidelity", "fidelity.c2st_radiomics", "Real or synthetic: AUC of radiomics"),
    ("Fidelity", "fidelity.recall", "Recall"),
    ("Fidelity", "fidelity.coverage", "Coverage"),
    (
        "Label agreement",
        "agreement.mean",
        "Dice of a segmenter of real cases, less its Dice on real test cases",
    ),
    ("Usefulness", "usefulness.ratio_synthetic", "Dice after training on synthetic cases alone, over real"),
    ("Usefulness", "usefulness.gain_", "Gain in Dice beside few real cases"),
    ("Privacy", "privacy.membership_auc_", "Membership inference: AUC (0.5 is guessing)"),
    ("Privacy", "privacy.copies_", "Copies of training cases"),
    ("Privacy", "privacy.republished_maps", "Label maps of training patients among the synthetic ones"),
    ("Privacy", "privacy.data_copying", "Data-copying test"),
)
"""Section of the card, key or its beginning in the report, and its title where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of a card.

    Args:
        section: of the card.
        title: of the figure.
        synthetic: with unit and interval; `NOT_MEASURED` where there is none.
        real: the same of real cases, "" where there is none.
    """

    section: str
    title: str
    synthetic: str = NOT_MEASURED
    real: str = ""


def read_report(path: str | Path, *, weights_sha256: str) -> dict[str, Any]:
    """Read a report.json.

    Args:
        path: written by an evaluation.
        weights_sha256: of the model that the figures must be of.

    Raises:
        MissingFileError: if there is none.
        ConfigError: if it is no report, or one of other weights.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"no report at {path}: medldm evaluate --checkpoint writes report.json")
    try:
        report = read_json(path)
        found = report["model_sha256"]
        _ = [each["key"] for each in report["figures"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no report.json of medldm evaluate ({error!r})") from error
    if found is None:
        raise ConfigError(
            f"{path} does not say of which weights it is: evaluate with --checkpoint, so that the figures "
            "are those of this model"
        )
    if found != weights_sha256:
        raise ConfigError(
            f"{path} is of the weights {found[:12]}, the checkpoint holds {weights_sha256[:12]}: give the "
            "report of this model"
        )
    return report


def list_figures(report: Mapping[str, Any] | None) -> list[Figure]:
    """Return the lines of a card; without a report all of them say that nothing was measured."""
    lines: list[Figure] = []
    measured = {} if report is None else {each["key"]: each for each in report["figures"]}
    for section, beginning, title in WANTED:
        found = [each for key, each in measured.items() if key.startswith(beginning) and each["synthetic"]]
        lines += [_make_figure(section, each, report or {}) for each in found]
        if not found:
            lines.append(Figure(section=section, title=title))
    return lines


def _make_figure(section: str, figure: Mapping[str, Any], report: Mapping[str, Any]) -> Figure:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    text = _word(figure["synthetic"], unit)
    if figure["key"].startswith("privacy.copies_"):
        text += _power_of(figure["key"].removeprefix("privacy.copies_"), report)
    real = _word(figure["real"], unit) if figure.get("real") else ""
    return Figure(section=section, title=figure["title"], synthetic=text, real=real)


def _word(estimate: Mapping[str, float], unit: str) -> str:
    return f"{estimate['value']:.3g}{unit} ({estimate['lower']:.3g} to {estimate['upper']:.3g})"


def _power_of(detector: str, report: Mapping[str, Any]) -> str:
    search = report.get("copies", {}).get(detector)
    power = search and search.get("power")
    return f"; finds {power['value']:.2f} of planted copies" if power else ""
