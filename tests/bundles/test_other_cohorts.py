"""The workflows on cohorts that lack label maps or validation cases, on others, and with unknown keys."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import medldm
from medldm.bundle_sandbox import run_checked
from medldm.errors import MedldmError
from medldm.latent_diffusion.checkpoints import read_card
from medldm.runtime.endings import open_wrappers
from tests.bundles.test_mri_label_ldm import TINY_1, TINY_2, knobs, run_as_user

BUNDLES = Path(medldm.__file__).parent / "bundles"
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]

OF_MAPS = {"size": [16, 20, 16], "down_channels": [4, 8], "n_groups": 4, "n_epochs": 2, "val_interval": 1}


@pytest.fixture
def run(tmp_path, caplog):
    """Return a function that runs a workflow and gives its log, or the error that the user is shown."""

    def run_workflow(
        workflow: str, cohort: Path, *, bundle: str = "mri_label_ldm", fails: bool = False, **values: Any
    ) -> str:
        caplog.clear()
        file = str(BUNDLES / bundle / "configs" / f"{workflow}.yaml")
        common = {"bundle_root": BUNDLES / bundle, "dataset_dir": cohort, "output_dir": tmp_path / "out"}
        paths = {name: str(path) for name, path in common.items()}
        given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        arguments = {"config_file": file, "logging_file": False, "device": "cpu", **paths, **given}
        with caplog.at_level(logging.INFO):
            if not fails:
                run_checked(**arguments)
                return caplog.text
            with pytest.raises(Exception) as error:
                run_checked(**arguments)
        opened = open_wrappers(error.value)
        assert isinstance(opened, MedldmError)
        return str(opened)

    return run_workflow


def leave_maps_out(cohort: Path, numbers: range) -> None:
    for number in numbers:
        (cohort / "labels" / f"case_{number}.nii.gz").unlink()


@pytest.mark.slow
def test_both_stages_train_where_half_the_scans_have_no_label_map(make_cohort, tmp_path, run) -> None:
    cohort, split = make_cohort(8), {"validation_fraction": 0.25}
    leave_maps_out(cohort, range(0, 8, 2))
    run("train_autoencoder", cohort, **split, **TINY_1)
    log = run("train_diffusion", cohort, **split, **TINY_2, batch_size=3)
    assert "of 6 training cases (" in log
    assert "train as samples that lose the condition label_map" in log
    assert read_card(tmp_path / "out" / "latent_diffusion.safetensors")["conditioning"]["structures"]
    run("inference", cohort, label_dir=cohort / "labels", num_samples=1, num_steps=2)
    assert len(list((tmp_path / "out" / "synthetic" / "images").iterdir())) == 1


@pytest.mark.slow
def test_both_stages_train_where_no_scan_has_a_label_map(make_cohort, tmp_path, run) -> None:
    cohort, split = make_cohort(4), {"validation_fraction": 0.25}
    shutil.rmtree(cohort / "labels")
    (cohort / "labels.json").unlink()
    run("train_autoencoder", cohort, **split, **TINY_1)
    message = run("train_diffusion", cohort, **split, **TINY_2, fails=True)
    assert "no training case of the cohort has a label map" in message
    run("train_diffusion", cohort, **split, **TINY_2, conditioning_type=[])
    run("inference", cohort, num_samples=1, num_steps=2)
    assert len(list((tmp_path / "out" / "synthetic" / "images").iterdir())) == 1


@pytest.mark.slow
def test_label_maps_are_asked_for_by_name_where_they_are_learnt(make_cohort, run) -> None:
    cohort = make_cohort(4)
    leave_maps_out(cohort, range(1))
    message = run("train_autoencoder", cohort, bundle="labelmap_ldm", fails=True, **OF_MAPS)
    assert "images/case_0.nii.gz: it has no label map" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bundle", "first", "second"),
    [("mri_label_ldm", TINY_1, TINY_2), ("labelmap_ldm", OF_MAPS, TINY_2)],
)
@pytest.mark.parametrize(("n_cases", "fraction"), [(1, 0.1), (2, 0.0)])
def test_a_cohort_without_validation_cases_leads_to_both_files(
    make_cohort, tmp_path, run, bundle, first, second, n_cases, fraction
) -> None:
    cohort, options = make_cohort(n_cases), {"bundle": bundle, "validation_fraction": fraction}
    log = run("train_autoencoder", cohort, **options, **first)
    assert "no case validates: autoencoder.safetensors gets the last weights" in log
    log = run("train_diffusion", cohort, **options, **second)
    assert "no case validates: latent_diffusion.safetensors gets the last weights" in log
    for name in ("autoencoder", "latent_diffusion"):
        card = read_card(tmp_path / "out" / f"{name}.safetensors")["training"]
        assert (card["selected_by"], card["epoch"]) == ("last", 2)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.25, 0.0])
@pytest.mark.parametrize(("bundle", "first"), [("mri_label_ldm", TINY_1), ("labelmap_ldm", OF_MAPS)])
def test_the_decoder_is_adapted_after_the_denoiser_has_trained(
    make_cohort, tmp_path, run, bundle, first, fraction
) -> None:
    """Also where nothing validates, so that the same command writes the file of the denoiser again."""
    cohort, options = make_cohort(4), {"bundle": bundle, "validation_fraction": fraction}
    second = TINY_2 | ({"conditioning_type": []} if bundle == "labelmap_ldm" else {})
    run("train_autoencoder", cohort, **options, **first)
    log = run("train_diffusion", cohort, **options, **second)
    file = tmp_path / "out" / "latent_diffusion.safetensors"
    assert "adapting" not in log and "decoder" not in read_card(file)
    log = run("train_diffusion", cohort, **options, **second, decoder_steps=2, decoder_patch_size=[8, 8, 8])
    assert "the denoiser's errors are those at a noise level of" in log
    card, content = read_card(file), file.read_bytes()
    assert card["decoder"]["steps"] == 2 and card["decoder"]["is_measured"]
    first_stage = read_card(tmp_path / "out" / "autoencoder.safetensors")
    assert card["autoencoder"]["weights_sha256"] == first_stage["weights_sha256"]
    run("train_diffusion", cohort, **options, **second, decoder_steps=2, decoder_patch_size=[8, 8, 8])
    assert file.read_bytes() == content
    extra = {} if bundle == "labelmap_ldm" else {"label_dir": cohort / "labels"}
    run("inference", cohort, bundle=bundle, num_samples=1, num_steps=2, **extra)


@pytest.mark.slow
def test_the_same_command_on_another_cohort_or_space_does_not_go_on(make_cohort, tmp_path, run) -> None:
    cohort, split = make_cohort(4), {"validation_fraction": 0.25}
    other = make_cohort(4, name="other")
    files = [other / "images" / f"case_{number}.nii.gz" for number in range(4)]
    for file in files:
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), file)
    run("train_autoencoder", cohort, **split, **TINY_1)
    first = run("train_autoencoder", other, **split, **TINY_1, fails=True)
    assert "the training cases are others: 3 of 3 differ" in first
    changes = {"spacing_mm": [2, 2, 2], "intensity": "ct_window", "adversarial_start": 7}
    for name, value in changes.items():
        message = run("train_autoencoder", cohort, **split, **(TINY_1 | {name: value}), fails=True)
        assert name.split("_")[0] in message.split("of another training")[1]
    message = run("train_autoencoder", cohort, **split, **(TINY_1 | {"size": [16, 20, 20]}), fails=True)
    assert "space.size is [16, 20, 20] here and [16, 20, 16] there" in message
    for bad in ({"patience": -1}, {"decoder_noise_level": -1}):
        message = run("train_diffusion", cohort, **split, **(TINY_2 | bad), fails=True)
        assert f"{next(iter(bad)).removeprefix('decoder_')} is -1" in message
        assert not (tmp_path / "out" / "latents").exists()
    moved = cohort.rename(tmp_path / "moved")
    run("train_autoencoder", moved, **split, **TINY_1)
    run("train_diffusion", moved, **split, **TINY_2)
    anew = TINY_1 | {"seed": 5}
    run("train_autoencoder", moved, **split, **anew, resume="never")
    message = run("train_diffusion", moved, **split, **TINY_2, fails=True)
    assert "autoencoder weights is" in message


@pytest.mark.slow
@pytest.mark.parametrize("program", ["monai.bundle", "medldm.cli"])
def test_a_key_that_the_workflow_does_not_have_is_refused_before_anything_is_read(tmp_path, program) -> None:
    file = str(BUNDLES / "mri_label_ldm" / "configs" / "train_autoencoder.yaml")
    for key, nearest in (("epochz", "n_epochs"), ("train#datset", "train#dataset")):
        options = knobs(dataset_dir=tmp_path / "no_cohort", **{key: 2})
        result = run_as_user(["--config_file", file, *options], cwd=tmp_path, program=program)
        assert result.returncode == 1
        assert f"Did you mean {nearest!r}?" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_half_of_the_hippocampi_may_lack_their_label_map(real_data, tmp_path, run) -> None:
    source, cohort = real_data / "hippocampus_mri", tmp_path / "cohort"
    images = sorted((source / "images").glob("*.nii.gz"))[:8]
    for part in ("images", "labels"):
        (cohort / part).mkdir(parents=True)
    for number, image in enumerate(images):
        shutil.copy(image, cohort / "images")
        if number % 2:
            shutil.copy(source / "labels" / image.name, cohort / "labels")
    split = {"validation_fraction": 0.25}
    run("train_autoencoder", cohort, **split, **(TINY_1 | {"size": [32, 48, 32]}))
    log = run("train_diffusion", cohort, **split, **TINY_2)
    assert "of 6 training cases (" in log
    run("inference", cohort, label_dir=cohort / "labels", num_samples=1, num_steps=2)
    assert len(list((tmp_path / "out" / "synthetic" / "images").iterdir())) == 1
