"""Draw real and synthetic cases mixed, without names: can one tell which is which?

python benchmarks/fidelity/blind_picture.py REAL_DIR SYNTHETIC_DIR PICTURE.png --n 8 --seed 0

The key, R or S for each panel, is printed and not drawn. Real cases are those of the part of the cohort that
chose nothing. The grey window of each case runs from its 0.5th to its 99.5th percentile, or is --window HU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medldm.data.case_checks import only_image
from medldm.data.cohort import read_cohort
from medldm.files import atomic_file
from medldm.transforms import LoadVolume

COLUMNS = 8
PLANES = ((2, "axial"), (1, "coronal"), (0, "sagittal"))
Volume = tuple[np.ndarray, np.ndarray, tuple[float, ...]]


def main() -> None:
    """Read the arguments, draw, print the key."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("real_dir")
    parser.add_argument("synthetic_dir")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--n", type=int, default=8, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the order")
    parser.add_argument("--part", default="validation", choices=("training", "validation", "test"))
    parser.add_argument("--validation-fraction", type=float, default=0.1, help="as in training")
    parser.add_argument("--split-seed", type=int, default=0, help="as in training")
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="one for all cases")
    options = parser.parse_args()
    split = {"validation_fraction": options.validation_fraction, "seed": options.split_seed}
    real = getattr(read_cohort(options.real_dir, **split), options.part)
    made = read_cohort(options.synthetic_dir, validation_fraction=0.0).training
    rng = np.random.default_rng(options.seed)
    cases = [("R", case) for case in choose(real, options.n, rng)]
    cases += [("S", case) for case in choose(made, options.n, rng)]
    order = rng.permutation(len(cases))
    draw([load(cases[i][1]) for i in order], options.picture, window=options.window)
    sys.stdout.write(" ".join(f"{number + 1}{cases[i][0]}" for number, i in enumerate(order)) + "\n")


def choose(cases: Sequence[Any], n: int, rng: np.random.Generator) -> list[Any]:
    """Return `n` different cases at random.

    Raises:
        SystemExit: if there are fewer.
    """
    if len(cases) < n:
        raise SystemExit(f"error: there are {len(cases)} cases, --n is {n}: give a smaller --n")
    return [cases[i] for i in rng.choice(len(cases), size=n, replace=False)]


def draw(volumes: Sequence[Volume], path: Path, *, window: Sequence[float] | None = None) -> None:
    """Write a PNG: numbered columns of three planes through the middle of the labelled voxels."""
    n_blocks = -(-len(volumes) // COLUMNS)
    figure = Figure(figsize=(1.6 * COLUMNS, 1.7 * len(PLANES) * n_blocks), facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(PLANES) * n_blocks, COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.98, wspace=0.02, hspace=0.06)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (image, labels, spacing_mm) in enumerate(volumes):
        low, high = window or np.percentile(image, [0.5, 99.5])
        for row, (axis, _) in enumerate(PLANES):
            axes = grid[number // COLUMNS * len(PLANES) + row, number % COLUMNS]
            plane, aspect = plane_of(image, middle_of(labels)[axis], axis=axis, spacing_mm=spacing_mm)
            axes.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
            if row == 0:
                axes.set_title(str(number + 1), color="white", fontsize=9, pad=2)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="black")


def plane_of(
    image: np.ndarray, index: int, *, axis: int, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, float]:
    """Return a plane with its second remaining axis upwards, and the aspect of its pixels."""
    across, up = (edge for i, edge in enumerate(spacing_mm) if i != axis)
    return np.take(image, index, axis=axis).T, up / across


def middle_of(labels: np.ndarray) -> tuple[int, ...]:
    """Return the middle of the labelled voxels; of the volume where there are none."""
    found = np.argwhere(labels > 0)
    if not len(found):
        return tuple(n // 2 for n in labels.shape)
    return tuple(int(part) for part in np.round(found.mean(axis=0)))


def load(case: dict[str, Any]) -> Volume:
    """Return image, label map and spacing of a case."""
    image, label = LoadVolume()(only_image(case)), LoadVolume(is_label=True)(case["label"])
    return image[0].numpy(), label[0].numpy().astype(int), tuple(float(edge) for edge in image.pixdim)


if __name__ == "__main__":
    main()
