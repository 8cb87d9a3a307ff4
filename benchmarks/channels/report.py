"""Do synthetic channels keep the function that ties the real ones, and follow the label map in both?

For docs/results/channels.md.

python benchmarks/channels/report.py COHORT SYNTHETIC

COHORT is of cohort.py, SYNTHETIC what a model of both channels made from label maps. r of a volume is the
correlation, over its voxels, of the second channel with `second_channel` of the first. Swapped: the first
channel of one volume with the second of the next. Contrast: a structure's mean less that of the voxels around
it, divided by the volume's range, see `medldm.evaluation.metrics.label_contrast`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cohort import Array, second_channel

from medldm.data.cohort import Cohort, read_cohort
from medldm.evaluation.metrics.label_contrast import align_columns, compare_label_contrast, format_table
from medldm.transforms import LoadVolume
from medldm.transforms.window import centre_crop_or_pad

Pair = tuple[Array, Array]


def read_pairs(cohort: Cohort) -> tuple[list[Pair], list[np.ndarray]]:
    """Return the two channels (X, Y, Z) of each case, and its label map."""
    pairs, maps = [], []
    for case in cohort.cases:
        first, second = LoadVolume()(case["image"]).numpy().astype(np.float64)
        pairs.append((first, second))
        maps.append(LoadVolume(is_label=True)(case["label"])[0].numpy().astype(int))
    return pairs, maps


def correlations(pairs: Sequence[Pair]) -> Array:
    """Return r of each volume."""
    return np.array(
        [np.corrcoef(second_channel(first).ravel(), second.ravel())[0, 1] for first, second in pairs]
    )


def swap(pairs: Sequence[Pair]) -> list[Pair]:
    """Give each first channel the second one of the next volume, cut or padded to its shape."""
    return [
        (first, centre_crop_or_pad(second, first.shape))
        for (first, _), (_, second) in zip(pairs, [*pairs[1:], pairs[0]], strict=True)
    ]


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path)
    parser.add_argument("synthetic", type=Path)
    options = parser.parse_args()
    real, made = (read_cohort(each, validation_fraction=0.0) for each in (options.cohort, options.synthetic))
    if real.channels != made.channels or real.schema is None:
        parser.error(f"the channels are {real.channels} and {made.channels}, or there are no label maps")
    (real_pairs, real_maps), (made_pairs, made_maps) = read_pairs(real), read_pairs(made)
    rows = [("r of f(first) and second", "volumes", "median", "lowest", "highest")]
    for name, pairs in (
        ("real", real_pairs),
        ("synthetic", made_pairs),
        ("synthetic, swapped", swap(made_pairs)),
        ("real, swapped", swap(real_pairs)),
    ):
        r = correlations(pairs)
        rows.append((name, str(len(r)), f"{np.median(r):.3f}", f"{r.min():.3f}", f"{r.max():.3f}"))
    sys.stdout.write(align_columns(rows) + "\n")
    for place, name in enumerate(real.channels):
        found = compare_label_contrast(
            [(pair[place], labels) for pair, labels in zip(real_pairs, real_maps, strict=True)],
            [(pair[place], labels) for pair, labels in zip(made_pairs, made_maps, strict=True)],
            schema=real.schema,
            surroundings="unlabelled",
        )
        sys.stdout.write(f"\nContrast of the channel {name}\n{format_table(found)}\n")


if __name__ == "__main__":
    main()
