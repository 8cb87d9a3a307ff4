"""Draw the figures and print the tables of docs/results/hippocampus.md from trained models.

python benchmarks/hippocampus/report.py DATASET_DIR --runs vae=DIR monai=DIR vqvae=DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medldm.data.case_checks import only_image
from medldm.data.cohort import read_cohort
from medldm.evaluation.metrics.label_contrast import compare_label_contrast, format_table
from medldm.evaluation.report.overview import draw_overview
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.model_files import space_of
from medldm.transforms import LoadVolume

N_PICTURED = 4
LoadedCase = tuple[np.ndarray, np.ndarray, tuple[float, ...]]


def main() -> None:
    """Read the arguments, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir")
    parser.add_argument("--runs", nargs="+", metavar="NAME=OUTPUT_DIR", required=True)
    parser.add_argument("--images", type=Path, default=Path("docs/results/images"))
    options = parser.parse_args()
    runs = {name: Path(folder) for name, folder in (run.split("=", 1) for run in options.runs)}
    print_autoencoders(runs)
    draw_losses(runs, options.images / "hippocampus_loss.png")
    cohort = read_cohort(options.dataset_dir, validation_fraction=0.1, seed=0)
    real = {"validation": [load(case) for case in cohort.validation]}
    real["all real"] = [*(load(case) for case in cohort.training), *real["validation"]]
    for name, folder in runs.items():
        if not (folder / "synthetic").is_dir():
            continue
        made = [load(case) for case in read_cohort(folder / "synthetic", validation_fraction=0.0).training]
        for which, cases in real.items():
            pairs = to_network_intensities(folder, cases, made)
            rows = compare_label_contrast(*pairs, surroundings="unlabelled", scale="intensity")
            sys.stdout.write(f"\n{name}: {len(made)} synthetic beside {len(cases)} {which} cases\n")
            sys.stdout.write(format_table(rows) + "\n")
        path = options.images / f"hippocampus_{name}.png"
        draw_overview(real["validation"][:N_PICTURED], made[:N_PICTURED], path, max_cases=N_PICTURED)


def read_history(folder: Path, stage: str, split: str) -> list[dict[str, Any]]:
    """Return the epochs of a training's history."""
    file = folder / "logs" / stage / "history.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [line for line in lines if line["stage"] == split]


def to_network_intensities(
    folder: Path, real: Sequence[LoadedCase], made: Sequence[LoadedCase]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[np.ndarray, np.ndarray]]]:
    """Bring real and synthetic images to the scale on which the networks compare them, [-1, 1].

    A real image is scaled by its own percentiles, as in training; a synthetic one by the cohort's, the
    inverse of what gave it its units.
    """
    checkpoint = load_checkpoint(folder / "latent_diffusion.safetensors", kind="latent_diffusion")
    space = space_of(checkpoint)
    if space is None:
        raise ValueError(f"{folder} holds a model without space: train it through the bundle")
    (mapping,) = space.intensities
    cohort_limits = (mapping.lower, mapping.upper)
    return (
        [(np.asarray(mapping.to_model(image)), labels) for image, labels, _ in real],
        [(np.asarray(mapping.to_model(image, limits=cohort_limits)), labels) for image, labels, _ in made],
    )


def print_autoencoders(runs: Mapping[str, Path]) -> None:
    """Print validation PSNR and SSIM of the best epoch of each run."""
    sys.stdout.write(f"{'run':10} {'epoch':>6} {'PSNR dB':>8} {'SSIM':>7}\n")
    for name, folder in runs.items():
        epochs = read_history(folder, "autoencoder", "validation")
        if epochs:
            best = max(epochs, key=lambda line: line["psnr"])
            sys.stdout.write(f"{name:10} {best['epoch']:6d} {best['psnr']:8.2f} {best['ssim']:7.4f}\n")


def draw_losses(runs: Mapping[str, Path], path: Path) -> None:
    """Draw the second stage's training and validation loss of each run."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, folder) in enumerate(runs.items()):
        train = read_history(folder, "diffusion", "train")
        validation = read_history(folder, "diffusion", "validation")
        if not train:
            continue
        colour = f"C{number}"
        axes.plot([e["epoch"] for e in train], [e["loss"] for e in train], color=colour, alpha=0.35, lw=1)
        epochs = [e["epoch"] for e in validation]
        losses = [e["validation_loss"] for e in validation]
        axes.plot(epochs, losses, color=colour, marker="o", ms=3, label=f"{name}: validation (training pale)")
    axes.set(xlabel="epoch", ylabel="mean squared error of v", title="Stage 2 on the hippocampus cohort")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def load(case: Mapping[str, Any]) -> LoadedCase:
    """Return image, labels and spacing of a case."""
    image, label = LoadVolume()(only_image(case)), LoadVolume(is_label=True)(case["label"])
    return image[0].numpy(), label[0].numpy().astype(int), tuple(float(edge) for edge in image.pixdim)


if __name__ == "__main__":
    main()
