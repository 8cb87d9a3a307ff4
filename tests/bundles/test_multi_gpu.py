"""The workflows with multi_gpu.yaml: two processes make what one makes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import run

import medldm
from medldm.evaluation.evaluate import EXIT_NOT_COMPUTED
from medldm.latent_diffusion.checkpoints import load_checkpoint
from tests.bundles.test_mri_label_ldm import TINY_1, TINY_2
from tests.rank_processes import run_on_ranks

BUNDLES = Path(medldm.__file__).parent / "bundles"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


def work(_: int, bundle: str, workflow: str, **knobs: object) -> None:
    """Run a workflow as `monai.bundle run` does, with the overlay where there are several processes."""
    configs = BUNDLES / bundle / "configs"
    names = [workflow, "multi_gpu"] if os.environ["WORLD_SIZE"] != "1" else [workflow]
    files = [str(configs / f"{name}.yaml") for name in names]
    run(config_file=files, bundle_root=str(BUNDLES / bundle), **knobs)


@pytest.fixture
def run_workflow(tmp_path: Path) -> Callable[..., None]:
    """Run a workflow of a bundle in n processes."""
    calls = []

    def run_it(
        workflow: str, *, n: int, bundle: str = "mri_label_ldm", code: int = 0, **knobs: object
    ) -> None:
        calls.append(workflow)
        function = partial(work, bundle=bundle, workflow=workflow, **knobs)
        assert run_on_ranks(function, tmp_path / f"call_{len(calls)}", n=n, joined=False) == [code] * n

    return run_it


def digests(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line.get("loss", line.get("validation_loss", line.get("psnr"))) for line in lines]


def test_two_processes_train_both_stages_and_generate_what_one_does(
    make_cohort, run_workflow, tmp_path
) -> None:
    """The batches of 3 cannot be split evenly."""
    common = {"dataset_dir": str(make_cohort(7)), "validation_fraction": 0.4}
    first = {**common, **TINY_1, "batch_size": 3}
    second = {**common, **TINY_2, "batch_size": 3, "val_interval": 1}
    for n in (1, 2):
        run_workflow("train_autoencoder", n=n, output_dir=str(tmp_path / f"of_{n}"), **first)
    path = str(tmp_path / "of_1" / "autoencoder.safetensors")
    for name, n, sharding in (("second_1", 1, "ddp"), ("second_2", 2, "ddp"), ("sharded", 2, "fsdp")):
        own = {"output_dir": str(tmp_path / name), "sharding": sharding, **second}
        run_workflow("train_diffusion", n=n, autoencoder_path=path, **own)
    for first_run, *others, stage in (
        ("of_1", "of_2", "autoencoder"),
        ("second_1", "second_2", "sharded", "diffusion"),
    ):
        alone = losses(tmp_path / first_run / "logs" / stage)
        assert len(alone) == 4
        for other in others:
            assert losses(tmp_path / other / "logs" / stage) == pytest.approx(alone, rel=1e-3)
    assert digests(tmp_path / "second_1" / "latents") == digests(tmp_path / "second_2" / "latents")
    weights = [load_checkpoint(tmp_path / f"second_{n}" / "latent_diffusion.safetensors") for n in (1, 2)]
    sharded = load_checkpoint(tmp_path / "sharded" / "latent_diffusion.safetensors")
    assert {n: w.shape for n, w in sharded.weights.items()} == {
        n: w.shape for n, w in weights[0].weights.items()
    }
    assert torch.equal(weights[0].weights["latent_scale"], weights[1].weights["latent_scale"])
    for n in (1, 2):
        run_workflow(
            "inference",
            n=n,
            checkpoint=str(weights[0].path),
            synthetic_dir=str(tmp_path / f"synthetic_{n}"),
            num_samples=3,
            num_steps=2,
            seed=7,
            **common,
        )
    made = digests(tmp_path / "synthetic_1")
    assert sorted(made)[:3] == [f"images/synthetic_{index:04d}.nii.gz" for index in range(3)]
    assert digests(tmp_path / "synthetic_2") == made


def test_two_processes_evaluate_as_one_does(make_cohort, run_workflow, tmp_path) -> None:
    """Three test cases are too few for some figures, which both say by their exit code."""
    own = {
        "dataset_dir": str(make_cohort(9)),
        "synthetic_dir": str(make_cohort(4, name="synthetic")),
        "output_dir": str(tmp_path),
        "validation_fraction": 0.4,
        "n_seeds": 2,
        "segmenter_steps": 2,
        "encoder_steps": 2,
    }
    reports = []
    for n in (1, 2):
        folder = tmp_path / f"evaluation_{n}"
        knobs = {"evaluation_dir": str(folder), "cache_dir": str(tmp_path / f"cache_{n}"), **own}
        run_workflow("evaluate", n=n, code=EXIT_NOT_COMPUTED, **knobs)
        reports.append(json.loads((folder / "report.json").read_text()) | {"seconds": {}})
    assert reports[0] == reports[1]
