"""The bundle of CT: MONAI's check, and a partly labelled cohort in Hounsfield units on its way to volumes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import verify_net_in_out

import medldm
from medldm.data.cohort import read_cohort
from medldm.latent_diffusion.checkpoints import read_card
from medldm.transforms.body_mask import body_mask
from tests.bundles.test_mri_label_ldm import TINY_1, TINY_2, knobs, run_as_user

BUNDLE = Path(medldm.__file__).parent / "bundles" / "ct_label_ldm"

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


def config(name: str) -> str:
    return str(BUNDLE / "configs" / f"{name}.yaml")


@pytest.mark.parametrize("autoencoder_type", ["vae", "vqvae"])
def test_network_takes_and_gives_what_the_metadata_says(autoencoder_type) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=config("train_autoencoder"),
        device="cpu",
        n=1,
        down_channels=[4],
        n_groups=4,
        autoencoder_type=autoencoder_type,
    )


def to_ct(cohort: Path) -> None:
    """Make an ellipsoid of bone in water of the cohort's images, in air of exactly -1000 HU."""
    for file in (cohort / "images").iterdir():
        image = nib.load(file)
        values = np.asarray(image.dataobj)
        hu = np.where(values > 60, 10 * (values - 100), -1000).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, image.affine), file)


@pytest.mark.slow
def test_a_partly_labelled_cohort_leads_to_volumes_of_maps_of_some_structures(make_cohort, tmp_path) -> None:
    cohort = make_cohort(6)
    to_ct(cohort)
    (cohort / "labels.json").write_text('{"1": "shell", "5": "core", "partly_labelled": ["core"]}')
    rows = "".join(f"case_{n},shell\n" for n in (0, 3))
    (cohort / "subjects.csv").write_text("source,structures_in_map\n" + rows)
    common = [
        "--bundle_root",
        str(BUNDLE),
        "--dataset_dir",
        str(cohort),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    grid = {"spacing_mm": [1, 1, 1], "intensity_note": "a test"}
    for name, own in (
        ("train_autoencoder", {**TINY_1, **grid, "down_channels": [4], "validation_fraction": 0.34}),
        ("train_diffusion", {**TINY_2, "validation_fraction": 0.34}),
        ("inference", {"num_steps": 2, "num_samples": 2, "structures_in_map": "[shell]"}),
    ):
        run = run_as_user(["--config_file", config(name), *common, *knobs(**own)], cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    card = read_card(tmp_path / "out" / "latent_diffusion.safetensors")
    assert card["conditioning"]["partly_labelled"] == ["core"]
    assert (card["space"]["outside_value"], card["space"]["intensity_note"]) == (-1000, "a test")
    assert card["space"]["intensity"]["dense_upper"] == 3071
    made = read_cohort(tmp_path / "out" / "synthetic", validation_fraction=0)
    assert [case["structures_in_map"] for case in made.training] == [["shell"]] * 2
    for case in made.training:
        volume = np.asarray(nib.load(case["image"]).dataobj)
        assert volume.dtype == np.int16
        assert 5 not in np.asarray(nib.load(case["label"]).dataobj)
        outside = ~body_mask(volume, threshold=-500, slice_axis=1)
        assert (volume[outside] == -1000).all()
    sidecar = json.loads((tmp_path / "out" / "synthetic" / "sidecars" / "synthetic_0000.json").read_text())
    assert sidecar["conditions"]["label_map"]["structures_in_map"] == ["shell"]
