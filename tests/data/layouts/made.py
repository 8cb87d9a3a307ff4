"""Small trees of each layout, with known voxels, affines, structures and subjects."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (8, 7, 6)
AFFINE = np.array([[-1.5, 0, 0, 40], [0, 2, 0, -30], [0, 0, 2.5, 10], [0, 0, 0, 1.0]])


@dataclass
class Truth:
    """What must come out: case number -> image and label map in file axes, structures, subjects."""

    images: dict[int, np.ndarray] = field(default_factory=dict)
    labels: dict[int, np.ndarray] = field(default_factory=dict)
    structures: dict[int, str] = field(default_factory=lambda: {1: "liver", 2: "spleen"})
    n_subjects: int = 3


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 40, SHAPE).astype(np.float32)


def labels_of(seed: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1 : 3 + seed % 3, 2:5, 1:4] = 1
    labels[6:, 2 : 4 + seed % 3, 1:4] = 2
    return labels


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(voxels, affine), path)


def make_case(truth: Truth, number: int, image: Path, label: Path | None) -> None:
    truth.images[number] = image_of(number)
    write(image, truth.images[number])
    if label is not None:
        truth.labels[number] = labels_of(number)
        write(label, truth.labels[number])


def make_own(root: Path) -> Truth:
    truth = Truth()
    for n in range(3):
        make_case(truth, n, root / f"images/p{n}.nii.gz", root / f"labels/p{n}.nii.gz")
    (root / "labels.json").write_text('{"1": "liver", "2": "spleen"}')
    return truth


def make_nnunet(root: Path) -> Truth:
    truth = Truth()
    for n in range(3):
        case = f"case_{n:03d}"
        make_case(truth, n, root / f"imagesTr/{case}_0000.nii.gz", root / f"labelsTr/{case}.nii.gz")
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return truth


def make_nnunet_1(root: Path) -> Truth:
    truth = make_nnunet(root)
    names = [f"case_{n:03d}.nii.gz" for n in range(3)]
    content = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return truth


def make_msd(root: Path) -> Truth:
    truth = Truth()
    names = [f"organ_{n:03d}.nii.gz" for n in range(3)]
    for n, name in enumerate(names):
        make_case(truth, n, root / "imagesTr" / name, root / "labelsTr" / name)
        write(root / "imagesTr" / f"._{name}", np.zeros((2, 2, 2), np.float32))
    content = {
        "modality": {"0": "CT"},
        "tensorImageSize": "3D",
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return truth


def make_bids(root: Path) -> Truth:
    truth = Truth(n_subjects=2)
    for n, (subject, session) in enumerate([("01", "1"), ("01", "2"), ("02", "1")]):
        stem, folder = f"sub-{subject}_ses-{session}", f"sub-{subject}/ses-{session}/anat"
        label = root / "derivatives/seg" / folder / f"{stem}_space-T1w_desc-organs_dseg.nii.gz"
        make_case(truth, n, root / folder / f"{stem}_T1w.nii.gz", label)
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\tgroup\nsub-01\t61\tF\tAD\nsub-02\tn/a\tM\tAD\n"
    )
    (root / "derivatives/seg/desc-organs_dseg.tsv").write_text(
        "index\tname\tcolor\n0\tbackground\tn/a\n1\tliver\t#AA0000\n2\tspleen\t#00AA00\n"
    )
    return truth


def make_totalsegmentator(root: Path) -> Truth:
    truth = Truth()
    for n in range(3):
        make_case(truth, n, root / f"s{n:04d}/ct.nii.gz", None)
        truth.labels[n] = labels_of(n)
        for value, name in truth.structures.items():
            write(root / f"s{n:04d}/segmentations/{name}.nii.gz", (truth.labels[n] == value).astype(np.uint8))
    return truth


def make_totalsegmentator_ml(root: Path) -> Truth:
    truth = Truth()
    rows = "".join(
        f'<Label Key="{value}" Red="1" Green="0.5" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
        for value, name in truth.structures.items()
    )
    table = f'<VolumeInformation Index="0"><LabelTable>{rows}</LabelTable></VolumeInformation>'
    text = f'<?xml version="1.0"?><CaretExtension>{table}</CaretExtension>'
    for n in range(3):
        make_case(truth, n, root / f"s{n:04d}/ct.nii.gz", None)
        truth.labels[n] = labels_of(n)
        image = nib.Nifti1Image(truth.labels[n], AFFINE)
        image.header.extensions.append(nib.nifti1.Nifti1Extension(30, text.encode()))
        nib.save(image, root / f"s{n:04d}/segmentation.nii.gz")
    return truth


def colour_table(structures: dict[int, str]) -> bytes:
    """Return FreeSurfer's tag of an embedded colour table, version 2 (mghio, CTABwriteIntoBinary)."""
    entries = b""
    for value, name in structures.items():
        text = name.encode() + b"\0"
        entries += struct.pack(">ii", value, len(text)) + text + struct.pack(">iiii", 200, 10 * value, 0, 0)
    name = b"lut.txt\0"
    head = struct.pack(">iiii", 1, -2, max(structures) + 1, len(name)) + name
    return head + struct.pack(">i", len(structures)) + entries


def make_freesurfer(root: Path) -> Truth:
    truth = Truth()
    for n in range(3):
        folder = root / f"s{n}" / "mri"
        make_case(truth, n, folder / "T1.mgz", folder / "aseg.mgz")
        write(folder / "aparc+aseg.mgz", labels_of(n))
        write(folder / "norm.mgz", image_of(50 + n))
        plain = gzip.decompress((folder / "aseg.mgz").read_bytes())
        footer = b"" if len(plain) > 284 + labels_of(n).size else bytes(20)
        tagged = plain + footer + colour_table(truth.structures)
        (folder / "aseg.mgz").write_bytes(gzip.compress(tagged))
    return truth


LAYOUTS = {
    "FreeSurfer": make_freesurfer,
    "own": make_own,
    "nnU-Net": make_nnunet,
    "nnU-Net 1": make_nnunet_1,
    "MSD": make_msd,
    "BIDS": make_bids,
    "TotalSegmentator": make_totalsegmentator,
    "TotalSegmentator --ml": make_totalsegmentator_ml,
}
