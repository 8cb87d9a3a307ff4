"""How strongly each structure stands out from its surroundings, in real volumes and in synthetic ones.

For a label map L, a structure s and an image I the contrast is

    mean of I where L = s   -   mean of I in the shell around s,

the shell being the voxels within `radius` voxels of s that are not s. A synthetic volume that follows its
label map has the contrast of real volumes; one that ignores it has a contrast near that of a wrong map, which
the control column shows: the same images measured with another case's label map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from medldm.data.labels import LabelSchema
from medldm.transforms.window import centre_crop_or_pad

Surroundings = Literal["all", "unlabelled", "labelled"]
Scale = Literal["range", "intensity"]
LabelledImage = tuple[npt.ArrayLike, npt.ArrayLike]
"""Image and label map, both (X, Y, Z)."""


def label_contrast(
    image: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    structure: int,
    radius: float = 3.0,
    surroundings: Surroundings = "all",
) -> float:
    """Measure the mean intensity of a structure less that of the shell around it.

    Args:
        image: (X, Y, Z), finite.
        labels: (X, Y, Z), integers.
        structure: the value of the structure, not 0.
        radius: Euclidean width of the shell in voxels, at least 1.
        surroundings: which voxels of the shell count. "all"; "unlabelled" leaves out other structures, for
            organs or parts of one organ; "labelled" leaves out the background, for maps that divide a whole
            (tissues of a brain), where the background says nothing.

    Returns:
        The difference in the image's units; NaN where the structure or its surroundings have no voxel.

    Raises:
        ValueError: for shapes that differ, a structure 0, a radius below 1 or unknown surroundings.
    """
    image, labels = np.asarray(image, dtype=np.float64), np.asarray(labels)
    if image.ndim != 3 or image.shape != labels.shape:
        raise ValueError(
            f"the image has the shape {image.shape} and the labels {labels.shape}; "
            "both must be the same (X, Y, Z)"
        )
    if structure == 0:
        raise ValueError("structure is 0, the background; give the value of a structure")
    if radius < 1:
        raise ValueError(f"radius is {radius} voxels; a shell needs at least 1")
    if surroundings not in get_args(Surroundings):
        raise ValueError(f"surroundings is {surroundings!r}; one of {get_args(Surroundings)} is needed")
    if not (labels == structure).any():
        return math.nan
    margin = math.ceil(radius)
    window = tuple(
        slice(max(int(each.min()) - margin, 0), int(each.max()) + margin + 1)
        for each in np.nonzero(labels == structure)
    )
    image, labels = image[window], labels[window]
    inside = labels == structure
    shell = (distance_transform_edt(~inside) <= radius) & ~inside
    if surroundings != "all":
        shell &= (labels == 0) if surroundings == "unlabelled" else (labels != 0)
    return float(image[inside].mean() - image[shell].mean()) if shell.any() else math.nan


@dataclass(frozen=True, kw_only=True)
class ContrastRow:
    """One structure's contrasts, averaged over the cases that show it.

    Args:
        value: of the structure in the label maps.
        name: of the structure.
        real: mean over real cases.
        synthetic: mean over synthetic cases.
        relative_difference: (synthetic - real) / |real|.
        shuffled: mean over synthetic images measured with another case's label map; the control.
        n_real: cases that the real mean stands on.
        n_synthetic: cases that the synthetic mean stands on.
    """

    value: int
    name: str
    real: float
    synthetic: float
    relative_difference: float
    shuffled: float
    n_real: int
    n_synthetic: int


def compare_label_contrast(
    real: Sequence[LabelledImage],
    synthetic: Sequence[LabelledImage],
    *,
    schema: LabelSchema | None = None,
    radius: float = 3.0,
    surroundings: Surroundings = "all",
    scale: Scale = "range",
) -> list[ContrastRow]:
    """Compare the contrast of each structure between real and synthetic cases.

    Args:
        real: cases as (image, labels).
        synthetic: likewise.
        schema: which structures, and their names; without it those that occur.
        radius: as in `label_contrast`.
        surroundings: as in `label_contrast`.
        scale: "range" divides each case by its own 0.5th to 99.5th percentile range, for MR, whose units
            differ from case to case; "intensity" keeps the units, for CT.

    Returns:
        One row for each structure, by value; NaN stands where there is nothing to measure.

    Raises:
        ValueError: for an unknown scale, or what `label_contrast` refuses.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale is {scale!r}; one of {get_args(Scale)} is needed")
    found = sorted({int(value) for _, labels in (*real, *synthetic) for value in np.unique(labels)} - {0})
    names = {value: f"structure {value}" for value in found} if schema is None else schema.structures
    shuffled = shuffle_labels(synthetic)

    def measure(cases: Sequence[LabelledImage], structure: int) -> list[float]:
        contrasts = [
            label_contrast(*case, structure=structure, radius=radius, surroundings=surroundings)
            / (_intensity_range(case[0]) if scale == "range" else 1.0)
            for case in cases
        ]
        return [contrast for contrast in contrasts if not math.isnan(contrast)]

    rows = []
    for value, name in names.items():
        of_real, of_synthetic = measure(real, value), measure(synthetic, value)
        mean_real, mean_synthetic = _mean(of_real), _mean(of_synthetic)
        rows.append(
            ContrastRow(
                value=value,
                name=name,
                real=mean_real,
                synthetic=mean_synthetic,
                relative_difference=(mean_synthetic - mean_real) / abs(mean_real) if mean_real else math.nan,
                shuffled=_mean(measure(shuffled, value)),
                n_real=len(of_real),
                n_synthetic=len(of_synthetic),
            )
        )
    return rows


def shuffle_labels(cases: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Give each image the next case's label map, cut or padded about its middle to the image's shape.

    Returns:
        As many cases; none where there are fewer than two.
    """
    if len(cases) < 2:
        return []
    shifted = [labels for _, labels in cases[1:]] + [cases[0][1]]
    return [
        (image, centre_crop_or_pad(np.asarray(labels), np.asarray(image).shape, fill=0))
        for (image, _), labels in zip(cases, shifted, strict=True)
    ]


def format_table(rows: Sequence[ContrastRow]) -> str:
    """Write rows as a table of fixed width, to print."""
    header = ("structure", "real", "synthetic", "difference", "shuffled labels")
    body = [
        (
            row.name,
            _format(row.real, "{:+.3g}"),
            _format(row.synthetic, "{:+.3g}"),
            _format(row.relative_difference, "{:+.0%}"),
            _format(row.shuffled, "{:+.3g}"),
        )
        for row in rows
    ]
    return align_columns([header, *body])


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as text of fixed width: the first row is the heading, the first column stands left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _intensity_range(image: npt.ArrayLike) -> float:
    low, high = np.percentile(np.asarray(image, dtype=np.float64), (0.5, 99.5))
    return float(high - low) if high > low else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _format(value: float, pattern: str) -> str:
    return "-" if math.isnan(value) else pattern.format(value)
