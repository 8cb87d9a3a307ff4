"""Run nnU-Net's own check of a data set on an export; the tests hold the export to its rules without nnU-Net.

    pip install nnunetv2        # in an environment of its own: it brings some fifty packages
    python benchmarks/nnunet_check.py Dataset042_Organs

It suffices to install nnunetv2, batchgenerators and batchgeneratorsv2 with `pip install --no-deps`: what the
check imports and never calls is then left out. Exit code 0 where the check passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from pathlib import Path


def leave_out_unused() -> None:
    """Stand in for acvl_utils, of which nnU-Net's label handling imports a function for its predictions."""
    if importlib.util.find_spec("acvl_utils") is not None:
        return
    name = "acvl_utils.cropping_and_padding.bounding_boxes"
    for depth in range(1, 4):
        part = ".".join(name.split(".")[:depth])
        sys.modules[part] = types.ModuleType(part)
    sys.modules[name].insert_crop_into_image = None  # type: ignore[attr-defined]


def main() -> None:
    """Check the data set that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, help="folder with dataset.json, imagesTr and labelsTr")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(options.dataset), options.processes)


# The processes that the check starts import this file anew, and need the same.
leave_out_unused()
if __name__ == "__main__":
    main()
