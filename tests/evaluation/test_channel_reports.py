"""Each channel is evaluated as if it were alone; label maps and the model once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medldm import LatentDiffusionConfig
from medldm.data import CohortError, read_cohort
from medldm.errors import CheckpointError
from medldm.evaluation.cases.channels import align_channels, of_channel
from medldm.evaluation.cases.reading import Cohorts
from medldm.evaluation.evaluate import evaluate, exit_code, summary_text
from medldm.evaluation.resources import EvaluationResources
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.transforms import write_nifti
from tests.evaluation.test_evaluate import TINY

CHANNELS = ("t2w", "ct")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))


def write_cohort(folder: Path, n: int, *, seed: int, channels: tuple[str, ...] = CHANNELS) -> Path:
    """Boxes in noise; the second channel is the first one inverted, in Hounsfield units."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        labels = np.zeros((16, 18, 17), dtype=np.uint8)
        x, y, z = rng.integers(2, 8, size=3)
        labels[x : x + 6, y : y + 7, z : z + 5] = 1
        image = 100 * labels + rng.normal(50, 10, labels.shape)
        for name in channels:
            voxels = image if name == "t2w" else -4 * image
            ending = f"_{name}" if name else ""
            write_nifti(folder / "images" / f"case{seed}{number:03d}{ending}.nii.gz", voxels, np.eye(4))
        write_nifti(folder / "labels" / f"case{seed}{number:03d}.nii.gz", labels, np.eye(4), dtype=np.uint8)
    if channels != ("",):
        (folder / "channels.json").write_text(json.dumps({"channels": channels}))
    return folder


def read(folder: Path) -> Any:
    return read_cohort(folder, validation_fraction=0.0)


def test_real_cohorts_come_in_the_order_of_the_synthetic_one(tmp_path: Path) -> None:
    order = ("ct", "t2w")
    real = read(write_cohort(tmp_path / "real", 3, seed=1, channels=("flair", *CHANNELS)))
    made = read(write_cohort(tmp_path / "made", 3, seed=2, channels=order))
    found = align_channels(Cohorts(real, real, made))
    assert [cohort.channels for cohort in found] == [order] * 3
    assert all(Path(case["image"][0]).name.endswith("_ct.nii.gz") for each in found for case in each.cases)
    of_ct = of_channel(found, "ct")
    assert [cohort.channels for cohort in of_ct] == [("ct",)] * 3
    assert all(case["image"].endswith("_ct.nii.gz") for each in of_ct for case in each.cases)


@pytest.mark.parametrize(
    ("real", "made"), [(("t2w",), CHANNELS), (CHANNELS, ("",)), (("",), CHANNELS), (CHANNELS, ("pd",))]
)
def test_other_channels_are_refused(tmp_path: Path, real: tuple[str, ...], made: tuple[str, ...]) -> None:
    folders = [
        write_cohort(tmp_path / name, 3, seed=seed, channels=channels)
        for seed, (name, channels) in enumerate((("real", real), ("made", made)))
    ]
    first, second = map(read, folders)
    with pytest.raises(CohortError, match=r"the real training set: it has .*; choose the same with channels"):
        align_channels(Cohorts(first, first, second))


@pytest.mark.parametrize(("real", "made"), [(("t2w",), ("",)), (("",), ("t2w",)), (("",), ("",))])
def test_one_channel_needs_no_name(tmp_path: Path, real: tuple[str, ...], made: tuple[str, ...]) -> None:
    first = read(write_cohort(tmp_path / "real", 3, seed=1, channels=real))
    second = read(write_cohort(tmp_path / "made", 3, seed=2, channels=made))
    found = align_channels(Cohorts(first, first, second))
    assert all(isinstance(case["image"], str) for cohort in found for case in cohort.cases)


@pytest.mark.slow
def test_each_channel_has_the_figures_that_it_has_alone(
    tmp_path: Path, make_model: Callable[..., Any]
) -> None:
    folders = [write_cohort(tmp_path / str(seed), n, seed=seed) for seed, n in ((1, 6), (2, 6), (3, 5))]
    weights, card = describe_latent_diffusion(make_model((), channels=CHANNELS), LatentDiffusionConfig())()
    save_checkpoint(tmp_path / "model.safetensors", weights, card)
    resources = EvaluationResources(model=str(tmp_path / "model.safetensors"), device="cpu")
    report = evaluate(*folders, tmp_path / "out", TINY, resources=resources)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    figures = {figure["key"]: figure for figure in report["figures"]}
    assert len(figures) == len(report["figures"]) and report["channels"] == list(CHANNELS)
    for name in CHANNELS:
        cohorts = [read(folder).with_channels([name]) for folder in folders]
        alone = evaluate(*cohorts, tmp_path / f"alone_{name}", TINY)
        sub = json.loads((tmp_path / "out" / "channels" / name / "report.json").read_text())
        assert (tmp_path / "out" / "channels" / name / "report.html").is_file()
        for figure in alone["figures"]:
            key = figure["key"]
            of_maps = key.startswith(("anatomy.", "privacy.republished"))
            own = figures[key if of_maps else f"{key}@{name}"]
            assert own["synthetic"] == figure["synthetic"] and own["real"] == figure["real"]
            assert key in {each["key"] for each in sub["figures"]}
    # What the autoencoder loses of each channel stands beside it.
    assert all(figures[f"fidelity.spectrum@{name}"]["ceiling"] for name in CHANNELS)
    # The model is asked once, about both channels together.
    of_model = [key for key in figures if "membership" in key or "latents" in key]
    assert of_model and not any("@" in key for key in of_model)
    assert report["model_sha256"] == card_hash(tmp_path / "model.safetensors")
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'href="channels/t2w/report.html"' in page and "report above" not in page
    assert report["copies"].keys() == {
        *(f"{detector}, {name}" for name in CHANNELS for detector in ("correlation", "contrastive")),
        *("autoencoded", "latents"),
    }
    assert exit_code(report) and "t2w: " in summary_text(report) and "ct: " in summary_text(report)
    other = make_model((), channels=CHANNELS[::-1])
    save_checkpoint(
        tmp_path / "other.safetensors", *describe_latent_diffusion(other, LatentDiffusionConfig())()
    )
    with pytest.raises(CheckpointError, match=r"makes the channels \['ct', 't2w'\]"):
        swapped = replace(resources, model=str(tmp_path / "other.safetensors"))
        evaluate(*folders, tmp_path / "swapped", TINY, resources=swapped)


def card_hash(path: Path) -> str:
    from medldm.latent_diffusion.checkpoints import load_checkpoint

    return str(load_checkpoint(path).card["weights_sha256"])
