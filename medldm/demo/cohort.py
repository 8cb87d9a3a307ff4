"""A cohort for demonstrations, of brains that are all made from one.

One anatomy varied 32 times is not 32 anatomies: good for a first run, not for conclusions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.labels import LabelSchema
from medldm.data.listing import COHORT_FILE
from medldm.demo.brain import VENTRICLE_PULL_MM, WIDE_VENTRICLE_PULL_MM, load_template, make_subject
from medldm.demo.conditions import CONTRASTS, Contrast, describe_subject
from medldm.errors import ConfigError
from medldm.files import write_atomically
from medldm.seeds import demo_text_generator
from medldm.transforms.write_nifti import write_nifti

DEMO_SCHEMA = LabelSchema(
    structures={1: "grey matter", 2: "white matter", 3: "cerebrospinal fluid"},
    colours={1: "#e69f00", 2: "#56b4e9", 3: "#cc79a7"},
)
FLUID_LABEL = 3


def make_demo_cohort(
    output_dir: str | Path,
    *,
    n_subjects: int = 32,
    spacing_mm: float = 4.0,
    seed: int = 0,
    conditions: bool = False,
) -> Path:
    """Write images/, labels/ and labels.json of an embedded cohort of brains.

    A subject follows from `seed` and its index alone, whatever `n_subjects` is.

    Args:
        output_dir: is made where it is missing; files of the same names are replaced.
        n_subjects: at least 1.
        spacing_mm: isotropic voxel edge, 2 to 8 mm; 4 mm gives 40 x 48 x 40 voxels.
        seed: of everything that varies, 0 or more.
        conditions: makes every second subject T2-like, varies the ventricles more, and writes a cohort.json
            with the "class", "text" and "scalars" of each subject; see `describe_subject`.

    Returns:
        The folder, which `medldm.data.read_cohort` reads.

    Raises:
        ConfigError: for a number outside these limits.
        ImportError: without nilearn, which the extra `demo` installs.
    """
    if n_subjects < 1:
        raise ConfigError(f"n_subjects is {n_subjects}; a cohort needs at least 1")
    if not 2.0 <= spacing_mm <= 8.0:
        raise ConfigError(f"spacing_mm is {spacing_mm}; the template can show 2 to 8 mm")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more")
    output_dir = Path(output_dir)
    template = load_template(spacing_mm)
    entries = []
    for index in range(n_subjects):
        contrast: Contrast = CONTRASTS[index % 2] if conditions else "t1"
        pull_mm = WIDE_VENTRICLE_PULL_MM if conditions else VENTRICLE_PULL_MM
        image, labels = make_subject(
            template, seed=seed, index=index, contrast=contrast, ventricle_pull_mm=pull_mm
        )
        name = f"brain_{index:03d}.nii.gz"
        write_nifti(output_dir / "images" / name, image, template.affine, dtype=np.int16)
        write_nifti(output_dir / "labels" / name, labels, template.affine, dtype=np.uint8)
        described = describe_subject(
            float(spacing_mm**3 / 1000 * (labels == FLUID_LABEL).sum()),
            contrast=contrast,
            generator=demo_text_generator(seed, index),
        )
        entries.append({"image": f"images/{name}", "label": f"labels/{name}", **described})
    _write_json(output_dir / "labels.json", DEMO_SCHEMA.to_dict())
    if conditions:
        _write_json(output_dir / COHORT_FILE, {"training": entries})
    return output_dir


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, f"{json.dumps(content, indent=2)}\n".encode())
