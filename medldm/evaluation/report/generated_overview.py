"""One picture of generated volumes with the label maps that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medldm.data.labels import LabelSchema
from medldm.evaluation.report.overview import Case, draw_overview
from medldm.transforms import LoadVolume

OVERVIEW_FILE = "overview.png"


def draw_generated(
    files: Sequence[tuple[Path, Path | None]],
    path: str | Path,
    *,
    schema: LabelSchema | None = None,
    max_cases: int = 8,
) -> Path:
    """Write `draw_overview` of generated volumes.

    Args:
        files: image and label map of each; None for a volume without labels.
        path: of the PNG.
        schema: names of the structures.
        max_cases: volumes drawn at most, the first ones.

    Returns:
        The path.
    """
    return draw_overview([], [_read_case(*each) for each in files[:max_cases]], path, schema=schema)


def _read_case(image_file: Path, label_file: Path | None) -> Case:
    image = LoadVolume()(str(image_file))
    voxels = image[0].numpy()
    labels = np.zeros(voxels.shape, dtype=np.int64)
    if label_file is not None:
        labels = LoadVolume(is_label=True)(str(label_file))[0].numpy().astype(np.int64)
    return voxels, labels, tuple(float(edge) for edge in image.pixdim)
