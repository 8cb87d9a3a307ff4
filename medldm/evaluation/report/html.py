"""The report as one HTML file that requests nothing: every plot, volume and program is inside it."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medldm.evaluation.sections.metric_result import SECTIONS

CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:; font-src data:"
)
"""Tells the browser itself to refuse every request to elsewhere."""

WORDS = {
    "green": "as in real data",
    "amber": "look closer",
    "red": "differs from real data",
    "grey": "not judged",
}

HEADINGS = {
    "synthetic": "Synthetic",
    "real": "Real",
    "noise": "Noise",
    "ceiling": "Autoencoder alone",
}
"""Of the columns of figures; the last stands only where a model was given."""

INTRODUCTIONS = {
    "fidelity": "Do synthetic volumes look like real ones? Each column is compared with the real test set. "
    "Autoencoder alone, where a model was given, is the real test set encoded and decoded again, with the "
    "model's texture: what a perfect denoiser would give. What is lost there no denoiser can bring back.",
    "diversity": "Do they differ from each other as patients do?",
    "anatomy": "Are structures of the right size, in one piece, with the right surface?",
    "agreement": "Does each image show the label map it was made from?",
    "usefulness": "Can a segmenter learn from them? Tested on real subjects that no training saw.",
    "privacy": "Are any of them copies of training patients? A search can only say what it looked for and "
    "how well it would have found it.",
}

FEW_CASES = {"alone": "Dice, real alone", "with_synthetic": "with synthetic added", "gain": "Gain"}
"""Columns of the table of usefulness beside few real cases."""

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid
#d0d7de;padding-bottom:.2rem}
table{border-collapse:collapse;width:100%;font-size:13px}th,td{text-align:left;padding:.3rem
.5rem;vertical-align:top; border-bottom:1px solid
#e4e8ec}td.n,th.n{text-align:right;white-space:nowrap}small{color:#57606a}
.light{display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.4em}
.green{background:#1a9850}.amber{background:#f0a202}.red{background:#d73027}.grey{background:#b0b7be}
.summary{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:.8rem} .card{border:1px
solid #d0d7de;border-radius:6px;padding:.6rem .8rem}.card p{margin:.3rem 0}
.note{background:#fff8e5;border-left:4px solid #f0a202;padding:.5rem .8rem;margin:.6rem 0}
img{max-width:100%}figure{margin:1rem 0}figcaption{font-size:13px;color:#57606a}
#viewer-frame{height:640px;background:#000}#viewer-canvas{width:100%;height:100%} #viewer
label{margin-right:1rem}.swatch{display:inline-block;width:.8em;height:.8em;margin-left:.8em}
"""


def render_report(
    report: Mapping[str, Any],
    *,
    plots: Mapping[str, Sequence[tuple[str, str]]],
    viewer: str,
    n_real_shown: int,
) -> str:
    """Write the page.

    Args:
        report: as in report.json.
        plots: for each section, data URIs with their captions; "cases" stand before all sections.
        viewer: fragment of HTML, or empty.
        n_real_shown: volumes of real patients that the page holds.
    """
    sections = "".join(_section(key, report, plots.get(key, ())) for key in SECTIONS)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of a synthetic cohort</title><style>{STYLE}</style></head><body>
<h1>Evaluation of a synthetic cohort</h1>
{_sets(report)}
{_notes(report, n_real_shown)}
<h2>Summary</h2><div class="summary">{"".join(_card(key, report) for key in SECTIONS)}</div>
{_how_to_read()}
<h2>Cases</h2>{_plots(plots.get("cases", ()))}{viewer}
{sections}
{_settings(report)}
</body></html>
"""


def format_estimate(estimate: Mapping[str, Any] | None) -> str:
    """Return "value [lower, upper]" with three digits, or a dash."""
    if estimate is None or estimate["value"] is None:
        return "&ndash;"
    value, lower, upper = (estimate[name] for name in ("value", "lower", "upper"))
    if lower is None or upper is None or lower == upper:
        return _number(value)
    return f"{_number(value)}<br><small>{_number(lower)} to {_number(upper)}</small>"


def _sets(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}</td><td class=n>{each['n_cases']}</td>"
        f"<td class=n>{each['n_subjects']}</td>"
        f"<td>{' x '.join(_number(edge) for edge in each['file_spacing_mm'])}</td>"
        f"<td>{'yes' if each['has_labels'] else 'no'}</td></tr>"
        for name, each in report["sets"].items()
    )
    return (
        "<table><tr><th>Set</th><th class=n>Cases</th><th class=n>Subjects</th><th>Spacing (mm)</th>"
        f"<th>Label maps</th></tr>{rows}</table>"
    )


def _notes(report: Mapping[str, Any], n_real_shown: int) -> str:
    notes = list(report["findings"])
    missing = [each for each in report["figures"] if each["not_computed"]]
    if missing:
        notes.append(f"{len(missing)} figures were not computed; each row says why.")
    notes += report["left_out"]
    if n_real_shown:
        notes.append(
            f"This file holds pictures of real patients, {n_real_shown} of them as whole volumes: treat it "
            f"as patient data."
        )
    return "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)


def _card(section: str, report: Mapping[str, Any]) -> str:
    summary = report["summary"][section]
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in summary["sentences"])
    return (
        f'<div class="card"><b><span class="light {summary["light"]}"></span>{SECTIONS[section]}</b>: '
        f"{WORDS[summary['light']] if section != 'privacy' else _privacy_word(report)}{lines}</div>"
    )


def _privacy_word(report: Mapping[str, Any]) -> str:
    light = report["summary"]["privacy"]["light"]
    maps = report["republished_label_maps"]
    if light == "red" and maps is not None and maps["n_republished"]:
        images = "copies found" if report["copy_search"]["fails"] else "no copies found by these searches"
        return f"label maps of training patients were published again; among images {images}"
    if light == "red" and not report["copy_search"]["fails"]:
        return "no copies found by these searches, but more of the training patients than chance explains"
    return {**WORDS, "green": "no copies found by these searches", "red": "copies found"}[light]


def _how_to_read() -> str:
    return """<p><small>Every figure stands beside the same figure for real training cases and for noise,
    with 95 % bootstrap
intervals that resample subjects. Green: no worse than the worse end of the real column's interval. Amber:
worse, but its own interval reaches it. Red: worse than that. A small test set makes wide
intervals and easy greens: read the numbers. Copies are judged by their own rule: red where there are more, or
nearer ones, than chance explains, amber where the search has too little power, green otherwise. Membership
inference is red where it recognises training patients beyond chance (at most 1 of 100 models that remember
nobody and are judged on patients of one kind), amber where the cases are too few to say, green otherwise.
Green never means that the data are free of personal information.</small></p>"""


def _section(section: str, report: Mapping[str, Any], plots: Sequence[tuple[str, str]]) -> str:
    figures = [each for each in report["figures"] if each["key"].split(".")[0] == section]
    if not figures:
        return ""
    columns = [name for name in HEADINGS if name != "ceiling" or any(map(_has_ceiling, figures))]
    heads = "".join(f"<th class=n>{HEADINGS[name]}</th>" for name in columns)
    rows = "".join(_row(each, columns) for each in figures)
    rule = _copy_rule(report) if section == "privacy" else ""
    few = _few_cases(report) if section == "usefulness" else ""
    return f"""<h2>{SECTIONS[section]}</h2><p>{INTRODUCTIONS[section]}</p>{rule}
<table><tr><th>Figure</th>{heads}<th>Better</th><th>Meaning</th></tr>{rows}</table>{few}{_plots(plots)}"""


def _few_cases(report: Mapping[str, Any]) -> str:
    """Tabulate Dice and gain beside few real cases; empty where they were not measured."""
    rows = "".join(
        f"<tr><td class=n>{each['n_real']}</td>"
        + "".join(f"<td class=n>{format_estimate(each[name])}</td>" for name in FEW_CASES)
        + f"<td class=n>{each['n_synthetic']}</td><td class=n>{each['n_foreign']:.0f}</td></tr>"
        for each in report["few_cases"]
    )
    if not rows:
        return ""
    heads = "".join(f"<th class=n>{title}</th>" for title in FEW_CASES.values())
    return f"""<h3>Do synthetic cases help who has few?</h3>
<table><tr><th class=n>Real cases</th>{heads}<th class=n>Synthetic cases</th>
<th class=n>of them, label maps of other training cases</th></tr>{rows}</table>
<p><small>Dice on real test subjects, mean over structures, with 95 % intervals over draws of the real cases
and test subjects. The generator learned from all training cases: this is what its volumes give to somebody
else, who has so few cases of the same kind.</small></p>"""


def _copy_rule(report: Mapping[str, Any]) -> str:
    """State when copies fail the cohort, whether they do, and how many planted copies were found."""
    search = report["copy_search"]
    power = search["joint_power"]
    planted = "No copies were planted: the power of the searches is unknown."
    if power is not None:
        planted = (
            f"Of disguised copies planted for the purpose, {power['value']:.0%} were found by at least one "
            f"search (95 % interval {power['lower']:.0%} to {power['upper']:.0%})."
        )
    verdict = "This cohort fails." if search["fails"] else "This cohort does not fail."
    return f"<p>{html.escape(search['rule'])} <b>{verdict}</b> {html.escape(planted)}</p>"


def _has_ceiling(figure: Mapping[str, Any]) -> bool:
    return figure.get("ceiling") is not None


def _row(figure: Mapping[str, Any], names: Sequence[str]) -> str:
    """Write a figure.

    Args:
        figure: as in report.json.
        names: of the columns.
    """
    unit = f" ({html.escape(figure['unit'])})" if figure["unit"] else ""
    light = f'<span class="light {figure["light"]}" title="{WORDS[figure["light"]]}"></span>'
    head = f"<td>{light}{html.escape(figure['title'])}{unit}</td>"
    if figure["not_computed"]:
        return (
            f"<tr>{head}<td colspan={len(names) + 2}>not computed: {html.escape(figure['not_computed'])}</td>"
            "</tr>"
        )
    columns = "".join(f"<td class=n>{format_estimate(figure.get(name))}</td>" for name in names)
    target = "real" if figure.get("target") is None else _number(figure["target"])
    better = f"near {target}" if figure["better"] == "near" else figure["better"]
    note = f"<br><small>{html.escape(figure['note'])}</small>" if figure["note"] else ""
    return f"<tr>{head}{columns}<td>{better}</td><td>{html.escape(figure['meaning'])}{note}</td></tr>"


def _plots(plots: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<figure><img src="{uri}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for uri, caption in plots
    )


def _settings(report: Mapping[str, Any]) -> str:
    times = ", ".join(f"{html.escape(name)} {seconds:.0f} s" for name, seconds in report["seconds"].items())
    return (
        f"<h2>How it was made</h2><p><small>medldm {html.escape(report['medldm_version'])}, seed "
        f"{report['settings']['seed']}. Time: {times}. All settings and numbers are in report.json. The "
        "interactive viewer is NiiVue (BSD-2-Clause, Copyright (c) 2021, Niivue).</small></p>"
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "&ndash;"
    if value != 0 and abs(value) < 5e-4:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
