"""Compare synthetic anatomy and its images with the real cohort, for docs/results/conditions.md.

python benchmarks/paired/report.py COHORT SYNTHETIC --asked ml.json --picture docs/results/images/paired.png

SYNTHETIC is the folder that `inference.yaml --labels synthetic` wrote. Volumes are in ml, mean and standard
deviation; KS is the largest difference of the two distribution functions and p how often two samples of one
distribution differ as much. The chance row takes as many real maps as there are synthetic ones out of the
cohort and compares them with the rest: what a perfect model would score.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress
from volumes import compare_volumes, format_volume_table

from medldm.data.case_checks import only_image
from medldm.data.cohort import read_cohort
from medldm.evaluation.metrics.anatomy import volumes_ml
from medldm.evaluation.metrics.label_contrast import compare_label_contrast, format_table
from medldm.evaluation.report.overview import draw_overview
from medldm.transforms import LoadVolume

N_PICTURED = 4
LoadedCase = tuple[np.ndarray, np.ndarray, tuple[float, ...]]


def main() -> None:
    """Read the arguments, compare, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", help="the real cohort")
    parser.add_argument("synthetic", help="images/ and labels/ of new anatomy")
    parser.add_argument("--asked", type=Path, help="list of volumes that was given as labelmap_conditions")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    cohort = read_cohort(options.cohort, validation_fraction=0.0)
    if cohort.schema is None:
        parser.error(f"{options.cohort} has no label maps")
    made_cohort = read_cohort(options.synthetic, validation_fraction=0.0)
    real, made = ([load(case) for case in each.training] for each in (cohort, made_cohort))
    order = np.random.default_rng(0).permutation(len(real))
    drawn, rest = ([real[i] for i in part] for part in np.split(order, [len(made)]))
    for title, others, cases in (("synthetic", real, made), ("chance: real", rest, drawn)):
        rows = compare_volumes(maps_of(others), maps_of(cases), schema=cohort.schema)
        sys.stdout.write(f"\n{len(cases)} {title} beside {len(others)} real maps\n")
        sys.stdout.write(format_volume_table(rows) + "\n")
    if options.asked:
        print_asked(json.loads(options.asked.read_text()), made, names=cohort.schema.structures)
    pairs = ([case[:2] for case in real], [case[:2] for case in made])
    contrast = compare_label_contrast(*pairs, schema=cohort.schema, surroundings="labelled")
    sys.stdout.write("\nContrast of the images in their own maps\n" + format_table(contrast) + "\n")
    if options.picture:
        draw_overview(
            real[:N_PICTURED],
            made[:N_PICTURED],
            options.picture,
            schema=cohort.schema,
            max_cases=N_PICTURED,
        )


def print_asked(
    conditions: Sequence[Mapping[str, Any]], made: Sequence[LoadedCase], *, names: Mapping[int, str]
) -> None:
    """Print how the volumes that were asked for, used in turn, are followed."""
    for value, name in names.items():
        key = f"volume_ml:{name}"
        if any(key not in each for each in conditions):
            continue
        asked = [conditions[i % len(conditions)][key] for i in range(len(made))]
        found = [float(volumes_ml(labels, edges, values=[value])[0]) for _, labels, edges in made]
        line = linregress(asked, found)
        sys.stdout.write(
            f"\n{name}: volume asked against found, r {line.rvalue:+.2f}, slope {line.slope:+.2f}\n"
        )


def maps_of(cases: Sequence[LoadedCase]) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    """Return label maps with their spacing."""
    return [(labels, spacing_mm) for _, labels, spacing_mm in cases]


def load(case: Mapping[str, Any]) -> LoadedCase:
    """Return image, labels and spacing of a case."""
    image, label = LoadVolume()(only_image(case)), LoadVolume(is_label=True)(case["label"])
    return image[0].numpy(), label[0].numpy().astype(int), tuple(float(edge) for edge in image.pixdim)


if __name__ == "__main__":
    main()
