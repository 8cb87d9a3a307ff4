"""What `inference.yaml` says and refuses of the label maps it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from medldm import LatentDiffusionConfig
from medldm.data.checks import run_check
from medldm.data.cohort import read_cohort
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion

# MONAI warns of configs from strangers.
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "mri_label_ldm"


@pytest.fixture
def infer(make_model, make_cohort, tmp_path, monkeypatch) -> Any:
    """Run the workflow with a tiny random model of label maps on four cases; return the output."""
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    checkpoint, cohort = tmp_path / "model.safetensors", make_cohort(4)
    model = make_model(("label_map",))
    save_checkpoint(checkpoint, *describe_latent_diffusion(model, LatentDiffusionConfig())())

    def run(**knobs: Any) -> Path:
        settings = {"dataset_dir": str(cohort), "synthetic_dir": str(tmp_path / "out"), "num_steps": 1}
        workflow = ConfigWorkflow(
            config_file=str(BUNDLE / "configs" / "inference.yaml"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(BUNDLE),
            checkpoint=str(checkpoint),
            **settings,
            **knobs,
        )
        workflow.initialize()
        workflow.run()
        return tmp_path / "out"

    return run


def test_one_validation_case_for_several_volumes_is_said(infer, caplog) -> None:
    output = infer(num_samples=2)
    text = "2 volumes of 1 label map: each is used 2 times"
    assert text in caplog.text
    sidecar = json.loads((output / "sidecars" / "synthetic_0001.json").read_text())
    assert sidecar["notes"][0].startswith(text)


def test_the_maps_of_the_training_cases_are_there_for_the_asking(infer, tmp_path, caplog) -> None:
    output = infer(labels="training")
    assert "show the anatomy of people" in caplog.text
    cohort = read_cohort(tmp_path / "cohort", validation_fraction=0.1, seed=0)
    assert len(list((output / "images").iterdir())) == len(cohort.training) == 3


def test_volumes_without_labels_are_made_on_purpose_alone(infer) -> None:
    with pytest.raises(RuntimeError) as error:
        infer(num_samples=1, validation_fraction=0.0)
    assert "none with a label map: give label_dir" in str(error.value.__cause__)
    output = infer(num_samples=1, unconditional=True)
    assert not (output / "labels").exists()
    text, code = run_check(output)
    assert code == 0, text
