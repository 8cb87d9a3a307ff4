"""Read, orient, resample and normalise one volume: medldm beside MONAI's chain, interleaved in one run.

    python benchmarks/reading.py                     # a 256^3 synthetic CT, .nii.gz and .nii
    python benchmarks/reading.py --size 128 --repeats 3

Both chains do the same work on the same file: to RAS+, linear interpolation to the same grid, percentiles
0.5 and 99.5 over all voxels to [-1, 1]. Times are medians over interleaved repetitions in this process.
Memory is the peak of the resident set of a fresh process over what it held before, result included, in
volumes of 4 bytes a voxel of the larger of the input and the output grid.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import (
    Compose,
    LoadImaged,
    Orientationd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

from medldm.transforms import IntensityMapping, LoadVolumed, NormaliseIntensityd, ResampleToSpacingd

FILE_SPACING_MM = (1.4, 1.2, 1.3)
Chain = Callable[[dict[str, str]], dict[str, torch.Tensor]]


def medldm_chain(spacing_mm: float) -> Chain:
    """Return medldm's chain on MONAI's grid and percentiles."""
    mapping = IntensityMapping(kind="mr_percentile", foreground_only=False)
    return Compose(
        [
            LoadVolumed("image"),
            ResampleToSpacingd("image", spacing_mm, align="first_voxel", anti_aliasing=False),
            NormaliseIntensityd("image", mapping),
        ]
    )


def monai_chain(spacing_mm: float) -> Chain:
    """Return MONAI's chain; it reads through nibabel."""
    return Compose(
        [
            LoadImaged("image", reader="NibabelReader", ensure_channel_first=True),
            Orientationd("image", "RAS", labels=None),
            Spacingd("image", (spacing_mm,) * 3, mode="bilinear", padding_mode="border"),
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, -1.0, 1.0, clip=True),
        ]
    )


CHAINS = {"medldm": medldm_chain, "monai": monai_chain}


def write_phantom(folder: Path, *, size: int) -> list[Path]:
    """Write a noisy CT-like int16 volume in LPS axes, compressed and not."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    body = axes[0] ** 2 + axes[1] ** 2 / 0.7 + axes[2] ** 2 / 2 < 0.8
    array = np.where(body, 40 + 200 * np.sin(9 * axes[0]) * np.cos(7 * axes[2]), -1000)
    array = (array + generator.normal(0, 12, array.shape)).astype(np.int16)
    image = nib.Nifti1Image(
        array, np.diag([-FILE_SPACING_MM[0], -FILE_SPACING_MM[1], FILE_SPACING_MM[2], 1.0])
    )
    paths = [folder / "phantom.nii.gz", folder / "phantom.nii"]
    for path in paths:
        nib.save(image, path)
    return paths


def measure_time(path: Path, *, spacing_mm: float, repeats: int) -> dict[str, float]:
    """Return each chain's median seconds, run in turns after one warm-up each."""
    chains = {name: make(spacing_mm) for name, make in CHAINS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in chains}
    for repeat in range(repeats + 1):
        for name, chain in chains.items():
            start = time.perf_counter()
            chain({"image": str(path)})
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_memory(path: Path, *, spacing_mm: float, name: str) -> float:
    """Return the extra memory of one chain, in volumes, from a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        name,
        "--path",
        str(path),
        "--spacing",
        str(spacing_mm),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1]))


def report_memory(path: Path, *, spacing_mm: float, name: str) -> None:
    """Run one chain once and print its extra memory, in volumes, as JSON (Linux only)."""
    chain = CHAINS[name](spacing_mm)
    small = path.with_name("small.nii")
    if not small.exists():
        nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.eye(4)), small)
    chain({"image": str(small)})
    before = resident_bytes("VmRSS")
    result = chain({"image": str(path)})["image"]
    n_voxels = max(int(np.prod(nib.load(path).shape)), result.numel())
    sys.stdout.write(json.dumps((resident_bytes("VmHWM") - before) / (4 * n_voxels)) + "\n")


def resident_bytes(field: str) -> int:
    """Return VmRSS (now) or VmHWM (peak) of this process; a new program starts its own peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


def largest_difference(path: Path, *, spacing_mm: float) -> float:
    """Return the largest difference of the two results, in [-1, 1] units; their grids must be equal."""
    ours, theirs = (make(spacing_mm)({"image": str(path)})["image"] for make in CHAINS.values())
    if ours.shape != theirs.shape or not torch.allclose(ours.affine, theirs.affine.to(ours.affine.dtype)):
        raise RuntimeError(f"grids differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return float((ours.as_tensor() - theirs.as_tensor()).abs().max())


def table_row(path: Path, *, spacing_mm: float, repeats: int) -> str:
    """Measure one file and spacing and lay the figures out as a row of a Markdown table."""
    seconds = measure_time(path, spacing_mm=spacing_mm, repeats=repeats)
    memory = {name: measure_memory(path, spacing_mm=spacing_mm, name=name) for name in CHAINS}
    difference = largest_difference(path, spacing_mm=spacing_mm)
    cells = [
        "".join(path.suffixes),
        f"{spacing_mm:g} mm",
        f"{seconds['medldm']:.2f} s",
        f"{seconds['monai']:.2f} s",
        f"{seconds['medldm'] / seconds['monai']:.2f}",
        f"{memory['medldm']:.1f}",
        f"{memory['monai']:.1f}",
        f"{difference:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the comparison and write a Markdown table to standard output."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="voxels per axis")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads, for both chains")
    parser.add_argument("--memory-of", choices=list(CHAINS), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--spacing", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="monai")
    torch.set_num_threads(options.threads)
    if options.memory_of:
        report_memory(options.path, spacing_mm=options.spacing, name=options.memory_of)
        return
    header = ["file", "to", "medldm", "MONAI", "ratio", "medldm memory", "MONAI memory", "largest difference"]
    sys.stdout.write("| " + " | ".join(header) + " |\n|" + "---|" * len(header) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for path in write_phantom(Path(folder), size=options.size):
            for spacing_mm in (1.5, 1.0):
                sys.stdout.write(table_row(path, spacing_mm=spacing_mm, repeats=options.repeats) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
