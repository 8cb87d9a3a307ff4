"""Volumes of structures in millilitres: those of synthetic label maps beside the real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import ks_2samp

from medldm.data.labels import LabelSchema
from medldm.evaluation.metrics.anatomy import volumes_ml
from medldm.evaluation.metrics.label_contrast import align_columns

LabelledGrid = tuple[npt.ArrayLike, Sequence[float]]
"""A label map (X, Y, Z) and its spacing in mm."""


@dataclass(frozen=True, kw_only=True)
class VolumeRow:
    """One structure's volumes in real and in synthetic label maps.

    Args:
        value: of the structure in the label maps.
        name: of the structure.
        real_mean: in ml.
        real_sd: sample standard deviation in ml; NaN for fewer than two maps.
        synthetic_mean: in ml.
        synthetic_sd: as `real_sd`.
        ks: two-sample Kolmogorov-Smirnov statistic, the largest difference of the two empirical distribution
            functions, 0 to 1.
        p_value: probability of a statistic at least as large if both were drawn from one distribution.
        in_range: share of the synthetic volumes that lie between the smallest and the largest real one.
    """

    value: int
    name: str
    real_mean: float
    real_sd: float
    synthetic_mean: float
    synthetic_sd: float
    ks: float
    p_value: float
    in_range: float


def compare_volumes(
    real: Sequence[LabelledGrid], synthetic: Sequence[LabelledGrid], *, schema: LabelSchema
) -> list[VolumeRow]:
    """Compare the distributions of each structure's volume.

    Args:
        real: label maps with the schema's values, each with its spacing in mm.
        synthetic: likewise.
        schema: which structures, and their names.

    Returns:
        One row for each structure, in the order of its values.

    Raises:
        ValueError: if either side has no label map.
    """
    if not real or not synthetic:
        raise ValueError(
            f"there are {len(real)} real and {len(synthetic)} synthetic label maps; at least 1 each is needed"
        )
    of_real, of_synthetic = (
        np.stack([volumes_ml(labels, spacing, values=schema.values) for labels, spacing in side])
        for side in (real, synthetic)
    )
    return [
        _make_row(value, name, of_real[:, column], of_synthetic[:, column])
        for column, (value, name) in enumerate(schema.structures.items())
    ]


def format_volume_table(rows: Sequence[VolumeRow]) -> str:
    """Write rows as a table of fixed width, to print."""
    header = ("structure", "real ml", "synthetic ml", "KS", "p", "in range")
    body = [
        (
            row.name,
            f"{row.real_mean:.4g} +- {row.real_sd:.3g}",
            f"{row.synthetic_mean:.4g} +- {row.synthetic_sd:.3g}",
            f"{row.ks:.2f}",
            f"{row.p_value:.2g}",
            f"{row.in_range:.0%}",
        )
        for row in rows
    ]
    return align_columns([header, *body])


def _make_row(
    value: int, name: str, real: npt.NDArray[np.float64], synthetic: npt.NDArray[np.float64]
) -> VolumeRow:
    test = ks_2samp(real, synthetic)
    return VolumeRow(
        value=value,
        name=name,
        real_mean=float(real.mean()),
        real_sd=_sd(real),
        synthetic_mean=float(synthetic.mean()),
        synthetic_sd=_sd(synthetic),
        ks=float(test.statistic),
        p_value=float(test.pvalue),
        in_range=float(((synthetic >= real.min()) & (synthetic <= real.max())).mean()),
    )


def _sd(volumes: npt.NDArray[np.float64]) -> float:
    return float(volumes.std(ddof=1)) if len(volumes) > 1 else math.nan
