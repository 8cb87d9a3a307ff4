"""The plots of a report, as data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from medldm.evaluation.metrics.anatomy import AnatomyTable
from medldm.evaluation.metrics.checks import Floats
from medldm.evaluation.report.drawing import save_figure
from medldm.evaluation.sections.few_cases import FewCases
from medldm.evaluation.sections.metric_result import MetricResult
from medldm.evaluation.sections.usefulness import Usefulness

COLOURS = {
    "train": "#0072b2",
    "test": "#56b4e9",
    "synthetic": "#d55e00",
    "noise": "#999999",
    "ceiling": "#cc79a7",
    "both": "#009e73",
    "blind": "#999999",
    "real": "#0072b2",
}
NAMES = {
    "train": "real training",
    "test": "real test",
    "synthetic": "synthetic",
    "noise": "noise",
    "ceiling": "real test, autoencoded",
}
MAX_STRUCTURES = 12


def to_data_uri(canvas: Canvas) -> str:
    """Return a drawn figure as a PNG in a data URI."""
    buffer = io.BytesIO()
    save_figure(canvas, buffer)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def plot_features(features: dict[str, Floats]) -> str:
    """Draw each set's cases on two principal axes of the real training set.

    Args:
        features: (N, D) by set.
    """
    centre = features["train"].mean(axis=0)
    _, _, axes = np.linalg.svd(features["train"] - centre, full_matrices=False)
    canvas, (panel,) = _make_canvas(1, width=5.2)
    limits = []
    for name in ("noise", "train", "test", "ceiling", "synthetic"):
        if name not in features:
            continue
        x, y = (
            ((features[name] - centre) @ axes[:2].T).T
            if len(axes) > 1
            else np.zeros((2, len(features[name])))
        )
        panel.scatter(x, y, s=14, alpha=0.75, color=COLOURS[name], label=NAMES[name], edgecolors="none")
        if name != "noise":
            limits.append((x, y))
    for set_limits, values in zip((panel.set_xlim, panel.set_ylim), zip(*limits, strict=True), strict=True):
        pooled = np.concatenate(values)
        margin = 0.15 * max(float(np.ptp(pooled)), 1e-6)
        set_limits(pooled.min() - margin, pooled.max() + margin)
    panel.set(xlabel="first principal axis, in sd of features", ylabel="second")
    return _finish(canvas, "Radiomics features (noise may lie outside)")


def plot_spectra(frequency: Floats, power: dict[str, Floats]) -> str:
    """Draw each set's mean spectrum with the band from its 10th to 90th percentile.

    Args:
        frequency: (K,) in cycles per mm.
        power: (N, K) by set.
    """
    canvas, (panel,) = _make_canvas(1, width=5.2)
    for name, each in power.items():
        decibels = 10 * np.log10(each)
        low, high = np.percentile(decibels, (10, 90), axis=0)
        panel.fill_between(frequency, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        panel.plot(frequency, decibels.mean(axis=0), color=COLOURS[name], label=NAMES[name], linewidth=1.4)
    panel.set(xlabel="spatial frequency (cycles per mm)", ylabel="power (dB)")
    return _finish(canvas, "Power spectrum: mean, and 10th to 90th percentile of cases")


def plot_volumes(tables: dict[str, AnatomyTable], names: Sequence[str]) -> str:
    """Draw each structure's volumes, one point a case.

    Args:
        tables: by set.
        names: of the structures.
    """
    shown = list(names)[:MAX_STRUCTURES]
    kinds = {**NAMES, "seen_test": "test, segmented", "seen_synthetic": "synthetic, segmented"}
    kinds = {name: text for name, text in kinds.items() if name in tables and name != "noise"}
    canvas, panels = _make_canvas(len(shown), width=3.1)
    for place, (panel, structure) in enumerate(zip(panels, shown, strict=True)):
        for row, name in enumerate(kinds):
            volumes = tables[name].volume_ml[:, place]
            _draw_strip(panel, row, volumes, np.median(volumes), COLOURS[name.removeprefix("seen_")])
        panel.set_xticks(range(len(kinds)), list(kinds.values()), fontsize=6, rotation=25, ha="right")
        panel.set_title(structure, fontsize=9)
        panel.set_ylabel("ml", fontsize=8)
    return to_data_uri(canvas)


def plot_usefulness(usefulness: Usefulness, names: Sequence[str]) -> str:
    """Draw Dice on the real test subjects after each training, one point a subject (mean over seeds).

    Args:
        usefulness: scores of all regimes.
        names: of the structures.
    """
    shown = list(names)[:MAX_STRUCTURES]
    canvas, panels = _make_canvas(len(shown), width=3.1)
    scores = {name: each.dice for name, each in usefulness.regimes.items()}
    for place, (panel, structure) in enumerate(zip(panels, shown, strict=True)):
        for row, (name, dice) in enumerate(scores.items()):
            of_cases = dice[:, :, place].mean(axis=0)
            _draw_strip(panel, row, of_cases, np.nanmean(of_cases), COLOURS[name])
        labels = ["real", "synthetic", "both", "no image"]
        panel.set_xticks(range(len(scores)), labels, fontsize=7)
        panel.set_ylim(0, 1)
        panel.set_title(f"{structure}, trained on", fontsize=9)
        panel.set_ylabel("Dice on real test subjects", fontsize=8)
    return to_data_uri(canvas)


def plot_few_cases(found: Sequence[FewCases], *, all_real: float | None) -> str:
    """Draw Dice against the number of real cases, alone and with the synthetic ones, beside their gain.

    Args:
        found: for each number of real cases.
        all_real: mean Dice after training on all real cases.
    """
    canvas, (panel, gains) = _make_canvas(2, width=4.2)
    places = np.arange(len(found))
    for arm, name, shift in (("alone", "real", -0.08), ("with_synthetic", "both", 0.08)):
        means = [each.mean(arm).value for each in found]
        label = "real alone" if arm == "alone" else "with synthetic"
        panel.plot(places + shift, means, "o-", color=COLOURS[name], markersize=5, linewidth=1.2, label=label)
        for place, each in zip(places, found, strict=True):
            draws = np.nanmean(getattr(each, arm), axis=1)
            panel.scatter(np.full(len(draws), place + shift), draws, s=7, color=COLOURS[name], alpha=0.6)
    if all_real is not None:
        panel.axhline(all_real, color="black", linewidth=0.8, linestyle=":", label="all real cases")
    panel.set(ylabel="Dice on real test subjects", title="Beside few real cases")
    panel.legend(fontsize=7, frameon=False)
    for place, each in zip(places, found, strict=True):
        gain = each.gain()
        gains.plot([place] * 2, [gain.lower, gain.upper], color=COLOURS["both"], linewidth=1.6)
        gains.plot(place, gain.value, "o", color=COLOURS["both"], markersize=5)
    gains.axhline(0, color="black", linewidth=0.8, linestyle=":")
    gains.set(ylabel="gain in Dice", title="Gain from the synthetic cases")
    for each in (panel, gains):
        each.set_xticks(places, [str(one.n_real) for one in found])
        each.set_xlabel("real cases")
        each.set_xlim(-0.5, len(found) - 0.5)
    return to_data_uri(canvas)


def plot_similarity(best: dict[str, Floats], *, threshold: float, title: str) -> str:
    """Draw how similar each case is to its nearest training volume, with the threshold.

    Args:
        best: (N,) by set.
        threshold: above it a synthetic volume is called a copy.
        title: of the plot.
    """
    canvas, (panel,) = _make_canvas(1, width=5.2)
    low = min(float(each.min()) for each in best.values())
    bins = np.linspace(min(low, threshold), max(1.0, threshold), 41)
    for name in (each for each in ("noise", "test", "synthetic") if each in best):
        share = np.full(len(best[name]), 1 / len(best[name]))
        panel.hist(best[name], bins=bins, weights=share, alpha=0.55, color=COLOURS[name], label=NAMES[name])
    panel.axvline(threshold, color="black", linewidth=1, linestyle="--", label=f"threshold {threshold:.3f}")
    panel.set(xlabel="similarity to the nearest training volume", ylabel="share of cases")
    return _finish(canvas, title)


def picture_pairs(pairs: Sequence[tuple[npt.NDArray, npt.NDArray, float]]) -> str:
    """Picture synthetic volumes beside their nearest training volumes, middle planes.

    Args:
        pairs: synthetic and training volume (X, Y, Z), and their similarity.
    """
    canvas = _open_canvas(6.2, 1.25 * len(pairs) + 0.3)
    panels = np.atleast_2d(canvas.subplots(len(pairs), 6, squeeze=False))
    for row, (synthetic, train, similarity) in zip(panels, pairs, strict=True):
        for column, (volume, axis) in enumerate([(v, a) for a in range(3) for v in (synthetic, train)]):
            plane = np.take(volume, volume.shape[axis] // 2, axis=axis).T
            low, high = np.percentile(volume, (0.5, 99.5))
            row[column].imshow(plane, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6))
            row[column].set_axis_off()
            row[column].set_title(
                f"synthetic {similarity:.3f}" if column % 2 == 0 else "training", fontsize=6
            )
    return to_data_uri(canvas)


def plot_columns(results: Sequence[MetricResult]) -> str:
    """Draw results of one section with their intervals, each scaled so that noise stands at 1 and real at 0.

    Args:
        results: with all three columns; others are left out.
    """
    shown = [
        (each.description.title, each.synthetic, each.ceiling, each.real, each.noise.value - each.real.value)
        for each in reversed(results)
        if each.synthetic and each.real and each.noise and each.noise.value != each.real.value
    ]
    canvas = _open_canvas(6.4, 0.24 * len(shown) + 0.9)
    panel = canvas.subplots()
    for row, (_, synthetic, ceiling, real, way) in enumerate(shown):
        base = real.value
        columns = [(real, "train", 0.22), (ceiling, "ceiling", 0.0), (synthetic, "synthetic", -0.22)]
        for estimate, name, shift in columns:
            if estimate is None:
                continue
            ends = sorted(((estimate.lower - base) / way, (estimate.upper - base) / way))
            panel.plot(ends, [row + shift] * 2, color=COLOURS[name], linewidth=1.6, alpha=0.6)
            panel.plot((estimate.value - base) / way, row + shift, "o", color=COLOURS[name], markersize=4)
    panel.axvline(0, color=COLOURS["train"], linewidth=0.8, linestyle=":")
    panel.axvline(1, color=COLOURS["noise"], linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(shown)), [title for title, *_ in shown], fontsize=7)
    panel.set_xlabel(
        "0: real training set (blue), 1: noise\nsynthetic set in red"
        + (", autoencoded real test cases in pink" if any(each[2] for each in shown) else "")
        + ", with 95 % intervals",
        fontsize=7,
    )
    panel.set_xlim(-0.6, 1.2)
    panel.tick_params(labelsize=7)
    return to_data_uri(canvas)


def plot_aucs(results: Sequence[MetricResult]) -> str:
    """Draw how well each classifier tells the sets from the real test set, with intervals.

    Args:
        results: AUCs.
    """
    canvas = _open_canvas(6.4, 0.9 * len(results) + 0.9)
    panel = canvas.subplots()
    columns = {"real": "train", "ceiling": "ceiling", "synthetic": "synthetic"}
    known: set[str] = set()
    for row, result in enumerate(reversed(results)):
        for place, (column, name) in enumerate(columns.items()):
            estimate = getattr(result, column)
            if estimate is None:
                continue
            y = row + 0.25 * (1 - place)
            panel.plot(
                (estimate.lower, estimate.upper), (y, y), color=COLOURS[name], linewidth=1.6, alpha=0.6
            )
            label = None if name in known else NAMES[name]
            panel.plot(estimate.value, y, "o", color=COLOURS[name], markersize=5, label=label)
            known.add(name)
    panel.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(results)), [each.description.title for each in reversed(results)], fontsize=7)
    panel.set(xlim=(0, 1.02), ylim=(-0.6, len(results) - 0.4))
    panel.set_xlabel("AUC against the real test set; 0.5 is guessing, 1 always right", fontsize=7)
    panel.tick_params(labelsize=7)
    panel.legend(fontsize=7, frameon=False, loc="lower left")
    return to_data_uri(canvas)


def _finish(canvas: Canvas, title: str) -> str:
    """Give a plot of one panel its legend and title."""
    (panel,) = canvas.axes
    panel.legend(fontsize=7, frameon=False)
    panel.set_title(title, fontsize=9)
    return to_data_uri(canvas)


def _draw_strip(panel: Axes, row: int, values: Floats, middle: float, colour: str) -> None:
    """Draw one point a case, spread a little to the sides, and a bar at their middle."""
    jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(values))
    panel.scatter(row + jitter, values, s=9, alpha=0.7, color=colour, edgecolors="none")
    panel.hlines(middle, row - 0.3, row + 0.3, color="black", linewidth=1)


def _open_canvas(width: float, height: float) -> Canvas:
    canvas = Canvas(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas


def _make_canvas(n_panels: int, *, width: float) -> tuple[Canvas, list]:
    n_columns = min(n_panels, 4)
    n_rows = -(-n_panels // n_columns)
    canvas = _open_canvas(width * n_columns, 2.9 * n_rows)
    panels = list(np.atleast_1d(canvas.subplots(n_rows, n_columns)).ravel())
    for panel in panels:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[n_panels:]:
        panel.set_visible(False)
    return canvas, panels[:n_panels]
