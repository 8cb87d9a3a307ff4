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

UNUSED = {
    "acvl_utils.cropping_and_padding.bounding_boxes": "insert_crop_into_image",
    "skimage": "io",
    "tifffile": "",
}
"""Modules that readers of other formats and the handling of predictions import, and what of them."""


def leave_out_unused() -> None:
    """Stand in for the modules of UNUSED that are not installed."""
    for name, attribute in UNUSED.items():
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            continue
        for depth in range(1, name.count(".") + 2):
            part = ".".join(name.split(".")[:depth])
            sys.modules[part] = types.ModuleType(part)
        if attribute:
            setattr(sys.modules[name], attribute, None)


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
