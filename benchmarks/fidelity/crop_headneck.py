"""Cut the head-and-neck CT cohort to a field of view that holds brainstem and both parotids whole.

python benchmarks/fidelity/crop_headneck.py HEADNECK_CT OUTPUT_DIR

Each case is resampled to 4 x 4 x 3 mm and cut to 48 x 56 x 64 voxels, centred between the parotids. Mandible,
larynx and oesophagus were contoured in some cases only: labels.json names them under "partly_labelled", and
subjects.csv says for each case what was contoured in its whole scan. A structure that was contoured and lies
outside of the box is known not to be in it. With --whole-only the four structures of every case are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medldm.data.cohort import read_cohort
from medldm.files import write_atomically
from medldm.transforms import LoadVolume, ResampleToSpacing, write_nifti

SPACING_MM = (4.0, 4.0, 3.0)
SIZE = (48, 56, 64)
STRUCTURES = {
    1: "brainstem",
    2: "spinal_cord",
    3: "parotid_right",
    4: "parotid_left",
    5: "oesophagus",
    6: "larynx",
    7: "mandible",
}
IN_EVERY_CASE = (1, 2, 3, 4)
PAROTIDS = (3, 4)
AIR_HU = -1000


def main() -> None:
    """Read the arguments and write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset_dir")
    parser.add_argument("output_dir", type=Path, help="receives images/, labels/ and labels.json")
    parser.add_argument("--whole-only", action="store_true", help="structures contoured in every case alone")
    options = parser.parse_args()
    values = IN_EVERY_CASE if options.whole_only else tuple(STRUCTURES)
    covered = {}
    for case in read_cohort(options.dataset_dir, validation_fraction=0.0).training:
        image, labels, contoured = crop_case(case["image"], case["label"], values=values)
        name = Path(case["label"]).name
        covered[case["id"]] = contoured
        write_nifti(options.output_dir / "images" / name, image, image.affine, dtype=np.int16)
        write_nifti(options.output_dir / "labels" / name, labels, labels.affine, dtype=np.uint8)
    write_atomically(options.output_dir / "labels.json", describe_labels(values).encode())
    if not options.whole_only:
        write_atomically(options.output_dir / "subjects.csv", describe_covered(covered).encode())


def describe_labels(values: Sequence[int]) -> str:
    """Return labels.json of some structures."""
    content: dict[str, Any] = {str(value): STRUCTURES[value] for value in values}
    partly = [STRUCTURES[value] for value in values if value not in IN_EVERY_CASE]
    return json.dumps(content | ({"partly_labelled": partly} if partly else {}), indent=1)


def describe_covered(covered: Mapping[str, Sequence[int]]) -> str:
    """Return subjects.csv, which says what was contoured: case to values."""
    rows = [f"{case},{'|'.join(STRUCTURES[value] for value in values)}" for case, values in covered.items()]
    return "\n".join(["source,structures_in_map", *rows, ""])


def crop_case(
    image_path: str, label_path: str, *, values: Sequence[int] = tuple(STRUCTURES)
) -> tuple[MetaTensor, MetaTensor, list[int]]:
    """Return image and label map (1, X, Y, Z) of a case in the field of view.

    Args:
        image_path: of the whole scan.
        label_path: of its map.
        values: structures to keep.

    Returns:
        Image, label map, and the values that the whole map holds.
    """
    image = ResampleToSpacing(SPACING_MM)(LoadVolume()(image_path))
    whole = LoadVolume(is_label=True)(label_path)
    contoured = sorted({int(value) for value in np.unique(whole)} & set(values))
    labels = ResampleToSpacing(SPACING_MM, is_label=True)(whole)
    labels = torch.where(torch.isin(labels, torch.tensor(values)), labels, 0)
    start = first_voxel(np.asarray(labels[0]))
    return cut_box(image.round(), start, fill=AIR_HU), cut_box(labels, start, fill=0), contoured


def first_voxel(labels: np.ndarray) -> np.ndarray:
    """Return the first voxel (3,) of the box of `SIZE` about the middle of both parotids; it may lie outside.

    Args:
        labels: (X, Y, Z), with both parotids.

    Raises:
        ValueError: without one of them.
    """
    if missing := [STRUCTURES[value] for value in PAROTIDS if not (labels == value).any()]:
        raise ValueError(f"the label map has no {missing[0]}: the crop is centred between both parotids")
    found = np.argwhere(np.isin(labels, PAROTIDS))
    middle = np.round((found.min(axis=0) + found.max(axis=0) + 1) / 2).astype(int)
    return middle - np.array(SIZE) // 2


def cut_box(volume: MetaTensor, start: np.ndarray, *, fill: float) -> MetaTensor:
    """Return the box of `SIZE` from a voxel on; what lies outside the volume (1, X, Y, Z) is `fill`."""
    before = np.maximum(-start, 0)
    after = np.maximum(start + SIZE - np.array(volume.shape[1:]), 0)
    pads = [int(n) for axis in (2, 1, 0) for n in (before[axis], after[axis])]
    padded = torch.nn.functional.pad(volume.as_tensor(), pads, value=fill)
    x, y, z = (slice(int(at), int(at) + n) for at, n in zip(np.maximum(start, 0), SIZE, strict=True))
    shift = np.eye(4)
    shift[:3, 3] = start
    return MetaTensor(padded[:, x, y, z], affine=np.asarray(volume.affine, dtype=float) @ shift)


if __name__ == "__main__":
    main()
