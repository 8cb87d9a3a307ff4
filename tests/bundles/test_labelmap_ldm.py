"""The bundle of label maps: MONAI's own checks, and the three workflows as a user runs them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, verify_net_in_out

import medldm
from medldm import ConditioningConfig, LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig
from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.label_maps import (
    build_label_map_autoencoder,
    describe_with_schema,
    label_map_space,
    load_label_map_model,
)
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from tests.programs import run_python

BUNDLE = Path(medldm.__file__).parent / "bundles" / "labelmap_ldm"
WORKFLOWS = ["train_autoencoder", "train_diffusion", "inference"]
SPLIT = {"validation_fraction": 0.4}
TINY_1 = {"size": [15, 20, 16], "down_channels": [4, 8], "n_groups": 4, "n_epochs": 2, "val_interval": 1}
TINY_2 = {
    "down_channels": [8, 16],
    "attention_levels": [False, True],
    "n_heads": 2,
    "n_groups": 4,
    "n_epochs": 2,
    "conditioning_type": ["scalars"],
    "scalar_columns": ["volume_ml:core"],
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


def config(name: str) -> str:
    return str(BUNDLE / "configs" / f"{name}.yaml")


def knobs(**values: object) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_network_takes_and_gives_what_the_metadata_says(make_cohort) -> None:
    """The metadata describe a cohort of two structures, as this one."""
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=config("train_autoencoder"),
        device="cpu",
        n=1,
        down_channels=[4, 8],
        n_groups=4,
        dataset_dir=str(make_cohort(3)),
    )


def commands_of_the_page() -> list[str]:
    text = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_page_s_commands_lead_from_a_cohort_to_new_label_maps(make_cohort, tmp_path) -> None:
    """Standing in the bundle, conditioned on a structure's volume."""
    cohort = make_cohort(5, name="my_cohort")
    for part in ("configs", "docs"):
        (tmp_path / part).symlink_to(BUNDLE / part)
    conditions = {"volume_ml:core": 0.093}
    small = {
        "run --config_file configs/train_autoencoder.yaml": {**SPLIT, **TINY_1},
        "run --config_file configs/train_diffusion.yaml": {**SPLIT, **TINY_2},
        "run --config_file configs/inference.yaml": {"num_steps": 2, "seed": 7, "conditions": conditions},
        "verify_net_in_out": {"down_channels": [4, 8], "n_groups": 4},
    }
    assert len(commands_of_the_page()) >= 5
    for command in commands_of_the_page():
        own = [knobs(**settings) for name, settings in small.items() if name in command]
        words = [*shlex.split(command)[1:], *(own[0] if own else [])]
        result = run_python(words, cwd=tmp_path)
        assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"
        assert result.stdout or result.stderr, f"{command} said nothing"
    check_maps(tmp_path / "outputs", conditions)
    check_workflows(cohort, tmp_path / "outputs")


def check_maps(output_dir: Path, conditions: dict[str, float]) -> None:
    synthetic = output_dir / "synthetic"
    labels = sorted((synthetic / "labels").iterdir())
    assert [file.name for file in labels] == [f"synthetic_{index:04d}.nii.gz" for index in range(8)]
    assert json.loads((synthetic / "labels.json").read_text())["5"] == {"name": "core"}
    sidecar = json.loads((synthetic / "sidecars" / "synthetic_0001_labels.json").read_text())
    assert (sidecar["index"], sidecar["sampling"]["seed"], sidecar["conditions"]) == (1, 7, conditions)
    model, _, schema = load_label_map_model(output_dir / "latent_diffusion.safetensors")
    volume = nib.load(labels[1])
    assert volume.shape == model.space.size == (15, 20, 16)
    assert np.array_equal(volume.affine, model.space.affine())
    found = np.asarray(volume.dataobj)
    assert set(np.unique(found).tolist()) <= {0, *schema.values}
    assert sidecar["volumes_ml"]["core"] == pytest.approx((found == 5).sum() / 1000)


def check_workflows(cohort: Path, output_dir: Path) -> None:
    own = {"train_autoencoder": TINY_1, "train_diffusion": TINY_2, "inference": {"overwrite": True}}
    for name in WORKFLOWS:
        settings = {
            "dataset_dir": str(cohort),
            "output_dir": str(output_dir),
            "device": "cpu",
            **({} if name == "inference" else SPLIT),
            **own[name],
        }
        workflow = ConfigWorkflow(
            config_file=config(name),
            workflow_type="infer" if name == "inference" else "train",
            logging_file=False,
            bundle_root=str(BUNDLE),
            **settings,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            config_file=config(name),
            **settings,
        )


@pytest.mark.slow
def test_a_condition_outside_the_cohort_s_range_ends_the_run_in_one_message(tmp_path) -> None:
    checkpoint = save_model(tmp_path / "model.safetensors")
    command = ["-m", "monai.bundle", "run", "--config_file", config("inference")]
    conditions = {"volume_ml:core": 9.0}
    own = knobs(bundle_root=BUNDLE, output_dir=tmp_path / "out", checkpoint=checkpoint, conditions=conditions)
    result = run_python([*command, *own], cwd=tmp_path)
    assert result.returncode == 1
    assert "error: volume_ml:core" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_new_maps_are_evaluated_by_their_anatomy(make_cohort, tmp_path) -> None:
    cohort, made = make_cohort(6, name="my_cohort"), tmp_path / "outputs" / "synthetic"
    shutil.copytree(cohort / "labels", made / "labels")
    shutil.copy(cohort / "labels.json", made)
    command = ["-m", "monai.bundle", "run", "--config_file", config("evaluate")]
    own = knobs(
        bundle_root=BUNDLE, dataset_dir=cohort, output_dir=tmp_path / "outputs", n_resamples=20, **SPLIT
    )
    result = run_python([*command, *own], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "outputs" / "evaluation" / "report.json").read_text())
    assert {figure["key"].split(".")[0] for figure in report["figures"]} == {"anatomy", "privacy"}
    assert any("6 of 6 synthetic label maps equal a real one" in each for each in report["findings"])


def save_model(path: Path) -> Path:
    """Write an untrained model of label maps whose structures' volumes are conditions."""
    schema = LabelSchema(structures={1: "shell", 5: "core"})
    autoencoder = build_label_map_autoencoder(schema, down_channels=(4, 8), n_groups=4, mid_attention=False)
    model = LatentDiffusionModel(
        autoencoder_config=autoencoder.config,
        conditioning_config=ConditioningConfig(
            conditioning_type=("scalars",), scalars={"volume_ml:core": (0.0, 1.0)}, context_dim=8
        ),
        unet_config=LatentUNetConfig(down_channels=(8, 16), n_groups=4, n_heads=2),
        space=label_map_space((1.0, 1.0, 1.0), (16, 16, 16)),
    )
    describe = describe_latent_diffusion(model, LatentDiffusionConfig())
    save_checkpoint(path, *describe_with_schema(describe, schema)())
    return path
