"""What is said of a subject of the demonstration cohort: its contrast, a text, its age and its fluid.

The volume of fluid is measured in the subject's label map. The words about the ventricles and the age follow
from it, so that each of them, alone, says something about the picture.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Contrast = Literal["t1", "t2"]
CONTRASTS: tuple[Contrast, Contrast] = ("t1", "t2")
"""The classes 0 and 1: fluid dark and white matter bright, and the reverse."""

NARROW_BELOW_ML, ENLARGED_ABOVE_ML = 54.0, 68.0
"""Volumes of fluid at which the words change; about a third of the subjects lie in each range."""

VENTRICLE_WORDS = {
    "narrow": ("narrow ventricles", "small ventricles", "slit-like ventricles"),
    "normal": ("normal ventricles", "ventricles of normal size", "unremarkable ventricles"),
    "enlarged": ("enlarged ventricles", "wide ventricles", "ventricular enlargement"),
}
CONTRAST_WORDS = {
    "t1": ("T1-weighted brain MRI", "T1 MRI of the brain", "brain, T1-weighted MR image"),
    "t2": ("T2-weighted brain MRI", "T2 MRI of the brain", "brain, T2-weighted MR image"),
}


def describe_subject(
    fluid_ml: float, *, contrast: Contrast, generator: np.random.Generator
) -> dict[str, Any]:
    """Return the "class", the "text" and the "scalars" of a subject's entry in cohort.json.

    Args:
        fluid_ml: volume of the label "cerebrospinal fluid".
        contrast: of the image.
        generator: draws the wording and the scatter of the age, 6 years of standard deviation.
    """
    years = 30.0 + 0.5 * (fluid_ml - 40.0) + generator.normal(0.0, 6.0)
    return {
        "class": CONTRASTS.index(contrast),
        "text": make_text(contrast, ventricle_size(fluid_ml), generator=generator),
        "scalars": {"age": round(float(np.clip(years, 18.0, 95.0)), 1), "fluid_ml": round(fluid_ml, 2)},
    }


def ventricle_size(fluid_ml: float) -> str:
    """Return "narrow", "normal" or "enlarged"."""
    if fluid_ml < NARROW_BELOW_ML:
        return "narrow"
    return "enlarged" if fluid_ml > ENLARGED_ABOVE_ML else "normal"


def make_text(contrast: Contrast, size: str, *, generator: np.random.Generator) -> str:
    """Word a contrast and a size of the ventricles in one of 9 ways."""
    first, second = CONTRAST_WORDS[contrast], VENTRICLE_WORDS[size]
    return f"{first[generator.integers(len(first))]}, {second[generator.integers(len(second))]}"
