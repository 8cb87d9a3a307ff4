"""multi_gpu.yaml takes the place of a workflow's first step alone, and what it sets is checked as early."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from medldm import LatentDiffusionConfig
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_autoencoder
from medldm.runtime.distributed import init_distributed
from medldm.training import check_sharding
from medldm.transforms import LoadVolume

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
BESIDE = ("edit", "multi_gpu")
WORKFLOWS = [file for file in sorted(BUNDLES.glob("*/configs/*.yaml")) if file.stem not in BESIDE]


def merged(workflow: Path) -> dict[str, Any]:
    return ConfigParser.load_config_files([str(workflow), str(workflow.with_name("multi_gpu.yaml"))])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: f"{file.parents[1].name}-{file.stem}")
def test_the_checks_of_the_workflow_stay(workflow) -> None:
    own = yaml.safe_load(workflow.read_text())["initialize"]
    first, *rest = merged(workflow)["initialize"]
    assert rest == own[1:]
    assert first["_target_"] == "medldm.workflows.initialise_distributed_run"
    added = {"device": "@device", "timeout_minutes": "@timeout_minutes"}
    assert first == {**own[0], **added, "_target_": first["_target_"]}


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sharding": "zero"}, r"sharding is 'zero': choose from \['ddp', 'fsdp'\]"),
        ({"timeout_minutes": 0}, "timeout_minutes is 0: minutes above 0"),
        ({"prediction_type": "noise"}, "prediction_type"),
        ({"dropout": -1}, "dropout"),
    ],
)
def test_bad_values_are_refused_before_a_volume_is_read(
    knobs, message, make_model, make_cohort, tmp_path, monkeypatch
) -> None:
    model = make_model(("label_map",))
    save_checkpoint(
        tmp_path / "autoencoder.safetensors", *describe_autoencoder(model.autoencoder, model.space)()
    )
    cohort = make_cohort(4)
    monkeypatch.setattr(LoadVolume, "__call__", lambda *_: pytest.fail("a volume was read"))
    workflow = BUNDLES / "mri_label_ldm" / "configs" / "train_diffusion.yaml"
    parser = ConfigParser(merged(workflow))
    required = {"_meta_": {"required_packages_version": {}}}
    common = {"dataset_dir": str(cohort), "output_dir": str(tmp_path), "device": "cpu"}
    parser.update({**required, **common, **knobs})
    with pytest.raises(RuntimeError, match="instantiate") as raised:
        parser.get_parsed_content("initialize")
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ConfigError) and re.search(message, str(cause)), cause


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf, "30", True, None, 1e9])
def test_a_time_that_is_none_is_refused_by_one_process_too(minutes) -> None:
    with pytest.raises(ConfigError, match=r"timeout_minutes is .*minutes above 0"):
        init_distributed(device="cpu", timeout_minutes=minutes)
    init_distributed(device="cpu", timeout_minutes=0.5)


def test_adapters_are_not_dealt_out() -> None:
    with pytest.raises(ConfigError, match="adapter_rank is 2 and sharding 'fsdp'"):
        check_sharding("fsdp", LatentDiffusionConfig(adapter_rank=2))
    check_sharding("ddp", LatentDiffusionConfig(adapter_rank=2))
    check_sharding("fsdp", LatentDiffusionConfig())
