"""The label-map bundle: MONAI's own checks, and the three workflows as a user runs them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, verify_net_in_out

import medldm
from medldm.errors import MissingPackageError
from medldm.workflows import check_required_packages
from tests.programs import run_python

BUNDLE = Path(medldm.__file__).parent / "bundles" / "mri_label_ldm"
TINY_1 = {
    "size": [16, 20, 16],
    "down_channels": [4, 8],
    "n_groups": 4,
    "n_epochs": 2,
    "val_interval": 1,
    "n_res_blocks": 1,
}
TINY_2 = {
    "down_channels": [8, 16],
    "attention_levels": [False, True],
    "n_heads": 2,
    "n_groups": 4,
    "n_epochs": 2,
    "augmentation_copies": 2,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


def config(name: str) -> str:
    return str(BUNDLE / "configs" / f"{name}.yaml")


def run_as_user(
    arguments: Sequence[str], *, cwd: Path, program: str = "monai.bundle"
) -> subprocess.CompletedProcess[str]:
    return run_python(["-m", program, "run", *arguments], cwd=cwd)


def knobs(**values: object) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


@pytest.mark.parametrize("autoencoder_type", ["vae", "vqvae"])
def test_network_takes_and_gives_what_the_metadata_says(autoencoder_type) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=config("train_autoencoder"),
        device="cpu",
        n=1,
        down_channels=[4, 8],
        n_groups=4,
        autoencoder_type=autoencoder_type,
    )


def test_old_packages_are_refused_by_name() -> None:
    with pytest.raises(
        MissingPackageError, match=r"medldm is .* \(99.0 or newer.*absent-package is not installed"
    ):
        check_required_packages({"medldm": "99.0", "absent-package": "1.0"})


@pytest.mark.slow
@pytest.mark.parametrize("autoencoder_type", ["vae", "vqvae"])
def test_three_commands_lead_from_a_cohort_to_labelled_volumes(
    make_cohort, tmp_path, autoencoder_type
) -> None:
    """From another folder, with --bundle_root; the VQ-VAE takes one overridden key."""
    cohort = make_cohort(5)
    common = knobs(
        bundle_root=BUNDLE, dataset_dir=cohort, output_dir=tmp_path / "out", validation_fraction=0.4
    )
    # One of the two under the lint of `medldm run`.
    program = {"vae": "monai.bundle", "vqvae": "medldm.cli"}[autoencoder_type]
    first = run_as_user(
        [
            "--config_file",
            config("train_autoencoder"),
            *common,
            *knobs(autoencoder_type=autoencoder_type, **TINY_1),
        ],
        cwd=tmp_path,
        program=program,
    )
    assert first.returncode == 0, first.stderr
    second = run_as_user(
        ["--config_file", config("train_diffusion"), *common, *knobs(**TINY_2)], cwd=tmp_path, program=program
    )
    assert second.returncode == 0, second.stderr
    third = run_as_user(
        ["--config_file", config("inference"), *common, *knobs(num_steps=2, seed=7, num_samples=2)],
        cwd=tmp_path,
        program=program,
    )
    assert third.returncode == 0, third.stderr
    images = sorted((tmp_path / "out" / "synthetic" / "images").iterdir())
    assert [image.name for image in images] == ["synthetic_0000.nii.gz", "synthetic_0001.nii.gz"]
    label = nib.load(tmp_path / "out" / "synthetic" / "labels" / images[0].name)
    assert any(np.array_equal(label.affine, nib.load(file).affine) for file in (cohort / "labels").iterdir())
    assert np.array_equal(nib.load(images[0]).affine, label.affine)
    sidecar = json.loads((tmp_path / "out" / "synthetic" / "sidecars" / "synthetic_0001.json").read_text())
    assert (sidecar["index"], sidecar["sampling"]["seed"]) == (1, 7)
    for name, knobs_of_workflow in (
        ("train_autoencoder", {**TINY_1, "autoencoder_type": autoencoder_type}),
        ("train_diffusion", TINY_2),
        ("inference", {"overwrite": True}),
    ):
        workflow = ConfigWorkflow(
            config_file=config(name),
            workflow_type="infer" if name == "inference" else "train",
            logging_file=False,
            bundle_root=str(BUNDLE),
            dataset_dir=str(cohort),
            output_dir=str(tmp_path / "out"),
            validation_fraction=0.4,
            device="cpu",
            **knobs_of_workflow,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            config_file=config(name),
            device="cpu",
            dataset_dir=str(cohort),
            output_dir=str(tmp_path / "out"),
            validation_fraction=0.4,
            **knobs_of_workflow,
        )


@pytest.mark.slow
def test_standing_in_the_bundle_works_and_wrong_files_are_all_listed(make_cohort) -> None:
    cohort = make_cohort(4)
    (cohort / "labels" / "case_1.nii.gz").rename(cohort / "labels" / "case_one.nii.gz")
    file = cohort / "labels" / "case_2.nii.gz"
    image = nib.load(file)
    nib.save(nib.Nifti1Image(np.full(image.shape, 3, np.uint8), image.affine), file)
    result = run_as_user(
        [
            "--config_file",
            "configs/train_autoencoder.yaml",
            *knobs(dataset_dir=cohort, output_dir=cohort / "out"),
        ],
        cwd=BUNDLE,
    )
    assert result.returncode == 1
    message = result.stderr.split("error: ")[-1]
    assert "case_1.nii.gz" in message
    assert "case_one.nii.gz" in message
    assert "case_2.nii.gz" in message
    assert "Traceback" not in result.stderr
    assert not (cohort / "out").exists()


@pytest.mark.slow
def test_a_missing_first_stage_is_named(make_cohort, tmp_path) -> None:
    result = run_as_user(
        [
            "--config_file",
            config("train_diffusion"),
            *knobs(dataset_dir=make_cohort(3), output_dir=tmp_path / "none"),
        ],
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "no checkpoint at" in result.stderr
    assert "Traceback" not in result.stderr
