"""Make a cohort of two channels out of one of one channel; the second is a known function of the first.

python benchmarks/channels/cohort.py HIPPOCAMPUS OUT --cases 40

x is the first channel from 0 to 1, between its own 0.5th and 99.5th percentile; the second one is
`second_channel(x)`, in other units. It knows nothing of the label map.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from medldm.transforms import write_nifti

CHANNELS = ("first", "second")
Array = npt.NDArray[np.float64]


def second_channel(first: Array) -> Array:
    """Return the second channel: bright where the first is dark, and curved.

    Args:
        first: any shape, any increasing unit.

    Returns:
        float64 from 40 to 2000.
    """
    low, high = np.percentile(first, (0.5, 99.5))
    x = np.clip((first - low) / (high - low), 0.0, 1.0)
    return np.asarray(40.0 + 1960.0 * (1.0 - x) ** 2)


def make_cohort(source: Path, output: Path, *, n_cases: int) -> int:
    """Write the first cases, by name, of a folder with images/ and labels/; return how many."""
    files = sorted((source / "images").glob("*.nii.gz"))[:n_cases]
    for part in ("images", "labels"):
        (output / part).mkdir(parents=True, exist_ok=True)
    for file in files:
        image = nib.load(file)
        first = np.asarray(image.get_fdata(), dtype=np.float64)
        stem = file.name.removesuffix(".nii.gz")
        for name, voxels in zip(CHANNELS, (first, second_channel(first)), strict=True):
            write_nifti(output / "images" / f"{stem}_{name}.nii.gz", voxels, image.affine)
        shutil.copy(source / "labels" / file.name, output / "labels" / file.name)
    if (source / "labels.json").is_file():
        shutil.copy(source / "labels.json", output)
    (output / "channels.json").write_text(json.dumps({"channels": list(CHANNELS)}))
    return len(files)


def main() -> None:
    """Read the arguments and write the cohort."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images/ and labels/")
    parser.add_argument("output", type=Path, help="receives the cohort of two channels")
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    n_cases = make_cohort(options.source, options.output, n_cases=options.cases)
    sys.stdout.write(f"{n_cases} cases of the channels {', '.join(CHANNELS)} in {options.output}\n")


if __name__ == "__main__":
    main()
