"""Measure how far few-step sampling is from the limit of many steps; draw the curves of sampling.md.

python benchmarks/sampling/steps.py COHORT --models ddpm=OUT_1/latent_diffusion.safetensors
    flow=OUT_2/latent_diffusion.safetensors --picture docs/results/images/sampling_steps.png

The same noise and conditions go through every solver; the error is the root mean square difference of the
standardised latents (whose standard deviation is 1) from DDIM with 1000 steps, the limit of all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import default_collate

from medldm import Conditions, LatentDiffusionSampler
from medldm.conditioning import open_text_encoder
from medldm.networks.downsampling import latent_size
from medldm.sampling.config import SamplingConfig
from medldm.training import case_transforms, gather_conditions, open_cohort

STEPS = (5, 10, 20, 50)
N_REFERENCE = 1000
CURVES = (
    ("ddim", "trailing"),
    ("ddim", "log_snr"),
    ("dpm_solver_2m", "trailing"),
    ("dpm_solver_2m", "log_snr"),
    ("dpm_solver_2m", "karras"),
    ("heun", "trailing"),
)
"""Solver and time grid; Heun evaluates the network twice a step."""


def main() -> None:
    """Read the arguments, measure, print the table, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset_dir")
    parser.add_argument("--models", nargs="*", metavar="NAME=CHECKPOINT", default=[])
    parser.add_argument(
        "--measured", nargs="*", type=Path, default=[], help="JSON files of earlier runs to add"
    )
    parser.add_argument("--num-samples", type=int, default=4)
    parser.add_argument("--validation-fraction", type=float, default=0.25)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = [row for file in options.measured for row in json.loads(file.read_text())]
    for model in options.models:
        name, _, checkpoint = model.partition("=")
        sampler = LatentDiffusionSampler.from_checkpoint(checkpoint)
        conditions = read_conditions(
            sampler, options.dataset_dir, options.validation_fraction, options.num_samples
        )
        rows += measure(name, sampler, conditions)
    sys.stdout.write(format_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.picture:
        draw(rows, options.picture)


def read_conditions(
    sampler: LatentDiffusionSampler, dataset_dir: str, validation_fraction: float, n: int
) -> Conditions:
    """Return the conditions of the first validation cases."""
    model = sampler.model
    config = model.conditioning_config
    encoder = open_text_encoder() if "text" in config.conditioning_type else None
    cohort = open_cohort(dataset_dir, validation_fraction=validation_fraction, seed=0)
    if model.space is None:
        raise ValueError("the model has no space: train it through the bundle")
    transform = case_transforms(model.space, config, text_encoder=encoder)
    batch = default_collate([dict(transform(case)) for case in cohort.validation[:n]])
    return gather_conditions(batch, config.names)


def measure(name: str, sampler: LatentDiffusionSampler, conditions: Conditions) -> list[dict[str, Any]]:
    """Return the error of every curve at every number of steps."""
    model = sampler.model
    n = len(next(iter(conditions.values.values())))
    grid = latent_size(model.space.size, model.autoencoder.downsampling)
    shape = (n, model.autoencoder.latent_channels, *grid)

    def draw_latents(solver: str, time_grid: str, num_steps: int) -> torch.Tensor:
        settings = SamplingConfig(solver=solver, grid=time_grid, num_steps=num_steps)
        return sampler.sample_latents(shape, conditions=conditions, settings=settings)

    reference = draw_latents("ddim", "trailing", N_REFERENCE)
    rows = []
    for solver, time_grid in CURVES:
        for num_steps in STEPS:
            found = draw_latents(solver, time_grid, num_steps)
            error = (found - reference).square().mean().sqrt().item()
            evaluations = 2 * num_steps - 1 if solver == "heun" else num_steps
            rows.append(
                {
                    "path": name,
                    "solver": solver,
                    "grid": time_grid,
                    "steps": num_steps,
                    "evaluations": evaluations,
                    "error": error,
                }
            )
    return rows


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a markdown table with a row for each curve."""
    lines = ["| path | solver | grid | " + " | ".join(f"{n} steps" for n in STEPS) + " |"]
    lines.append("|---" * (3 + len(STEPS)) + "|")
    for path, solver, grid in dict.fromkeys((row["path"], row["solver"], row["grid"]) for row in rows):
        errors = [r["error"] for r in rows if (r["path"], r["solver"], r["grid"]) == (path, solver, grid)]
        lines.append(f"| {path} | {solver} | {grid} | " + " | ".join(f"{e:.4f}" for e in errors) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw error against evaluations of the network, one panel for each path."""
    names = list(dict.fromkeys(row["path"] for row in rows))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for solver, grid in CURVES:
            points = [r for r in rows if (r["path"], r["solver"], r["grid"]) == (name, solver, grid)]
            axes.loglog(
                [p["evaluations"] for p in points],
                [p["error"] for p in points],
                marker="o",
                ms=3,
                label=f"{solver}, {grid}",
            )
        axes.set(title=name, xlabel="evaluations of the network")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel(f"distance to {N_REFERENCE} steps (standard deviations)")
    panels[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
