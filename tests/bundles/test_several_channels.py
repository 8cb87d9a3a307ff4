"""Several contrasts through the workflows of a bundle, as a user runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest

from medldm.data import check_cohort, read_cohort
from medldm.latent_diffusion.checkpoints import load_checkpoint
from tests.bundles.test_mri_label_ldm import BUNDLE, TINY_1, TINY_2, config, knobs, run_as_user

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


@pytest.mark.slow
def test_two_channels_travel_by_name_from_the_cohort_to_the_volumes(make_cohort, tmp_path) -> None:
    """Of three contrasts two are asked for, a case lacks one of them, and stage 2 names them otherwise."""
    cohort = make_cohort(6, channels=("flair", "t2w", "ct"))
    (cohort / "images" / "case_2_ct.nii.gz").unlink()
    (cohort / "images" / "case_3_flair.nii.gz").unlink()
    common = knobs(
        bundle_root=BUNDLE, dataset_dir=cohort, output_dir=tmp_path / "out", validation_fraction=0.4
    )
    chosen = knobs(channels="['t2w','ct']", drop_incomplete=True)
    kinds = knobs(intensity="{'t2w':'mr_percentile','ct':'identity_range'}", **TINY_1)
    first = ["--config_file", config("train_autoencoder"), *common, *kinds]
    refused = run_as_user([*first, *knobs(channels="['t2w','ct']")], cwd=tmp_path, program="medldm.cli")
    assert refused.returncode == 1 and "case_2: the case lacks ct" in refused.stderr
    assert "case_3" not in refused.stderr
    done = run_as_user([*first, *chosen], cwd=tmp_path, program="medldm.cli")
    assert done.returncode == 0, done.stderr
    assert "1 cases that lack a contrast are left out: case_2 (ct)" in done.stdout + done.stderr
    space = load_checkpoint(tmp_path / "out" / "autoencoder.safetensors").card["space"]
    assert space["channels"] == ["t2w", "ct"]
    assert {name: each["kind"] for name, each in space["intensity"].items()} == {
        "t2w": "mr_percentile",
        "ct": "identity_range",
    }
    swapped = knobs(channels="['ct','t2w']", drop_incomplete=True)
    second = ["--config_file", config("train_diffusion"), *common, *knobs(**TINY_2)]
    other = run_as_user([*second, *knobs(channels="['ct']")], cwd=tmp_path)
    assert other.returncode != 0 and "was trained on the channels ['t2w', 'ct']" in other.stderr
    done = run_as_user([*second, *swapped], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_as_user(["--config_file", config("inference"), *common, *knobs(num_steps=2)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = read_cohort(tmp_path / "out" / "synthetic", validation_fraction=0)
    assert made.channels == ("t2w", "ct") and len(made.cases) >= 1
    assert not [issue for issue in check_cohort(made, full=True) if issue.severity == "error"]
    # Each in its own units: 1000 and 2000 less four times what is 0 to 220.
    t2w, ct = (nib.load(file).get_fdata() for file in made.cases[0]["image"])
    assert 100 < t2w.min() < t2w.max() < 1100 < ct.min() < ct.max() < 2100


@pytest.mark.slow
def test_one_named_channel_of_several_trains_as_that_contrast_alone(make_cohort, tmp_path) -> None:
    """To the bit: the weights do not depend on how the channel was named or chosen."""
    several = make_cohort(4, channels=("t2w", "ct"))
    alone = tmp_path / "alone"
    shutil.copytree(several / "labels", alone / "labels")
    shutil.copy(several / "labels.json", alone)
    (alone / "images").mkdir()
    for file in (several / "images").glob("*_ct.nii.gz"):
        shutil.copy(file, alone / "images" / file.name.replace("_ct", ""))
    hashes = []
    for cohort, more in ((several, knobs(channels="['ct']")), (alone, [])):
        output_dir = tmp_path / f"out_{cohort.name}"
        common = knobs(bundle_root=BUNDLE, dataset_dir=cohort, output_dir=output_dir, **TINY_1)
        done = run_as_user(["--config_file", config("train_autoencoder"), *common, *more], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        hashes.append(load_checkpoint(output_dir / "autoencoder_last.safetensors").card["weights_sha256"])
    assert hashes[0] == hashes[1]
    card = load_checkpoint(Path(tmp_path / "out_alone") / "autoencoder.safetensors").card
    assert "channels" not in card["space"] and json.dumps(card["space"]["intensity"]["kind"])
