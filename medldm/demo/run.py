"""From nothing to labelled synthetic brains: the bundle's three workflows on an embedded cohort."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from monai.bundle import run as run_bundle

import medldm
from medldm.data.case_checks import only_image
from medldm.data.cohort import read_cohort
from medldm.demo.cohort import make_demo_cohort
from medldm.errors import OutputExistsError
from medldm.evaluation.metrics.label_contrast import compare_label_contrast, format_table
from medldm.evaluation.report.overview import draw_overview
from medldm.transforms import LoadVolume

logger = logging.getLogger(__name__)

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
N_SUBJECTS = 36
N_SYNTHETIC = 8
N_VALIDATION = 4

SPLIT: dict[str, Any] = {
    "validation_fraction": N_VALIDATION / N_SUBJECTS,
    "test_fraction": N_SYNTHETIC / N_SUBJECTS,
}
COMMON: dict[str, Any] = {**SPLIT, "precision": "auto"}
STAGE_1: dict[str, Any] = {
    **COMMON,
    "spacing_mm": [4.0, 4.0, 4.0],
    "size": [40, 48, 40],
    "linear_path": False,
    "down_channels": [16, 32],
    "latent_channels": 4,
    "n_groups": 8,
    "n_epochs": 20,
    "batch_size": 1,
    "learning_rate": 0.001,
    "adversarial_start": 0.75,
    "val_interval": 10,
}
STAGE_2: dict[str, Any] = {
    **COMMON,
    "down_channels": [32, 64, 128],
    "attention_levels": [False, False, True],
    "n_heads": 4,
    "n_groups": 16,
    "n_epochs": 60,
    "batch_size": 4,
    "learning_rate": 0.001,
    "noise_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "input_statistics": False,
    "val_interval": 20,
}
INFERENCE: dict[str, Any] = {
    **SPLIT,
    "num_samples": N_SYNTHETIC,
    "num_steps": 30,
    "guidance_scale": 1.0,
}


def run_demo(output_dir: str | Path, *, seed: int = 0) -> str:
    """Make a cohort, train both stages, generate, and draw `overview.png`.

    Args:
        output_dir: receives cohort/, the checkpoints, synthetic/ and overview.png.
        seed: of everything.

    Returns:
        A table of how the synthetic volumes follow their label maps, and how long each part took.

    Raises:
        OutputExistsError: if the folder holds a demonstration already.
    """
    output_dir = Path(output_dir).resolve()
    if output_dir.exists() and any(output_dir.iterdir()):
        raise OutputExistsError(f"{output_dir} is not empty: remove it or choose another --output-dir")
    moments = [time.monotonic()]
    dataset_dir = make_demo_cohort(output_dir / "cohort", n_subjects=N_SUBJECTS, seed=seed)
    moments.append(time.monotonic())
    knobs = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "seed": seed}
    stages = {"train_autoencoder": STAGE_1, "train_diffusion": STAGE_2, "inference": INFERENCE}
    for workflow, own in stages.items():
        _run(workflow, {**knobs, **own})
        moments.append(time.monotonic())
    table = _compare(dataset_dir, output_dir)
    moments.append(time.monotonic())
    parts = zip(
        ("cohort", "autoencoder", "diffusion", "inference", "picture"), pairwise(moments), strict=True
    )
    seconds = ", ".join(f"{name} {end - start:.0f}" for name, (start, end) in parts)
    return f"{table}\n\nseconds: {seconds}\n\nlook at {output_dir / 'overview.png'}"


def _run(workflow: str, knobs: Mapping[str, Any]) -> None:
    """Run one of the bundle's workflows, as `python -m monai.bundle run` does."""
    run_bundle(
        config_file=str(BUNDLE / "configs" / f"{workflow}.yaml"),
        workflow_type="infer" if workflow == "inference" else "train",
        bundle_root=str(BUNDLE),
        **knobs,
    )


def _compare(dataset_dir: Path, output_dir: Path) -> str:
    cohort = read_cohort(dataset_dir, **SPLIT, seed=0)
    synthetic = read_cohort(output_dir / "synthetic", validation_fraction=0.0)
    real_cases = [_load(case) for case in cohort.test]
    synthetic_cases = [_load(case) for case in synthetic.training]
    draw_overview(real_cases, synthetic_cases, output_dir / "overview.png", schema=cohort.schema)
    rows = compare_label_contrast(
        [case[:2] for case in real_cases],
        [case[:2] for case in synthetic_cases],
        schema=cohort.schema,
        surroundings="labelled",
    )
    return format_table(rows)


def _load(case: Mapping[str, Any]) -> tuple[Any, Any, tuple[float, ...]]:
    image, label = LoadVolume()(only_image(case)), LoadVolume(is_label=True)(case["label"])
    return image[0].numpy(), label[0].numpy().astype(int), tuple(float(edge) for edge in image.pixdim)
