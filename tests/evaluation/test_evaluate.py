"""The whole evaluation on tiny cohorts: files, honesty, exit codes, and no identifier anywhere."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.evaluation.evaluate import (
    EXIT_COPIES,
    EXIT_NOT_COMPUTED,
    EvaluationConfig,
    evaluate,
    exit_code,
    summary_text,
)
from medldm.evaluation.features.contrastive import ContrastiveConfig
from medldm.evaluation.metrics.neighbours import NeighbourConfig
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.sections.classifier_trainings import RealOrSyntheticConfig
from medldm.evaluation.sections.usefulness import UsefulnessConfig
from medldm.evaluation.segmenter import SegmenterConfig
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from tests.rank_processes import run_on_ranks

TINY = EvaluationConfig(
    n_resamples=20,
    n_pairs=4,
    n_planted=4,
    n_shown=1,
    contrastive=ContrastiveConfig(size=(8, 8, 8), channels=(4, 4, 4, 4), n_steps=2),
    neighbours=NeighbourConfig(max_shift=1, wavelengths=(3.0, 12.0)),
    real_or_synthetic=RealOrSyntheticConfig(time_budget_s=0),
    usefulness=UsefulnessConfig(time_budget_s=0),
)


def make_cohort(folder: Path, n: int, *, seed: int, with_labels: bool = True) -> Path:
    """Boxes in noise, in files named after patients who do not exist."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels") if with_labels else ("images",):
        (folder / part).mkdir(parents=True)
    for number in range(n):
        labels = np.zeros((16, 18, 17), dtype=np.uint8)
        x, y, z = rng.integers(2, 8, size=3)
        labels[x : x + 6, y : y + 7, z : z + 5] = 1
        image = (100 * labels + rng.normal(50, 10, labels.shape)).astype(np.float32)
        name = f"DoeJane{seed}{number:03d}.nii.gz"
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "images" / name)
        if with_labels:
            nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / "labels" / name)
    return folder


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Path]:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    train, test, made = (
        make_cohort(tmp_path / str(seed), n, seed=seed) for seed, n in ((1, 6), (2, 21), (3, 5))
    )
    return evaluate(train, test, made, tmp_path / "out", TINY), tmp_path / "out"


@pytest.mark.slow
def test_report_is_whole_and_holds_no_identifier(report: tuple[dict[str, Any], Path]) -> None:
    result, folder = report
    text, page = ((folder / name).read_text() for name in ("report.json", "report.html"))
    assert json.loads(text) == json.loads(json.dumps(result))
    for content in (text, page):
        assert "DoeJane" not in content
        assert str(folder.parent) not in content
        # The viewer's program uses the word for requests without credentials.
        own = re.sub(r"<script.*?</script>", "", content, flags=re.DOTALL)
        assert "anonymous" not in own.lower()
    assert "detector power" in page
    assert "treat it as patient data" in page
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    sections = {figure["key"].split(".")[0] for figure in result["figures"]}
    assert sections == {"fidelity", "diversity", "anatomy", "privacy"}
    assert result["left_out"] == [
        "Precision, recall, density and coverage were left out: they need at least 50 subjects in each set.",
        "The real-or-synthetic network was left out: its time budget is 0.",
        "Label agreement and usefulness were left out: their time budget is 0.",
        "Membership inference was left out: no model was given.",
    ]
    assert result["model_sha256"] is None
    assert "Privacy" in summary_text(result)


@pytest.mark.slow
def test_the_test_set_must_not_hold_training_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    train = make_cohort(tmp_path / "train", 3, seed=1)
    with pytest.raises(ValueError, match="3 volumes of the real test set are in the real training set"):
        evaluate(train, train, train, tmp_path / "out", TINY)
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_missing_labels_are_named_and_leave_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    folders = [make_cohort(tmp_path / str(seed), 6, seed=seed, with_labels=False) for seed in (1, 2, 3)]
    result = evaluate(*folders, tmp_path / "out", TINY)
    reasons = {
        figure["key"]: figure["not_computed"] for figure in result["figures"] if figure["not_computed"]
    }
    assert "no label maps" in reasons["anatomy.all"]
    assert "at least 20" in reasons["privacy.copies_correlation"]
    assert exit_code(result) == EXIT_NOT_COMPUTED
    assert any(figure["synthetic"] for figure in result["figures"] if figure["key"] == "fidelity.mmd")


@pytest.mark.slow
def test_a_given_model_is_asked_and_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Any]
) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    folders = [make_cohort(tmp_path / str(seed), 6, seed=seed) for seed in (1, 2, 3)]
    weights, card = describe_latent_diffusion(make_model(()), LatentDiffusionConfig())()
    digest = save_checkpoint(tmp_path / "secret_name.safetensors", weights, card)
    resources = EvaluationResources(model=str(tmp_path / "secret_name.safetensors"), device="cpu")
    result = evaluate(*folders, tmp_path / "out", TINY, resources=resources)
    figures = {figure["key"]: figure for figure in result["figures"]}
    for measure in ("auc", "tpr"):
        for attack in ("mirror", "loss"):
            figure = figures[f"privacy.membership_{measure}_{attack}"]
            assert figure["synthetic"]["n_subjects"] == [6, 6]
            assert figure["meaning"] and figure["light"] != "grey"
    for key in ("fidelity.frechet_latents", "fidelity.kid_latents"):
        assert "internal" in figures[key]["title"] and figures[key]["synthetic"] and figures[key]["noise"]
    assert all(figures[f"fidelity.{key}"]["ceiling"] for key in ("mmd", "spectrum", "histogram_1"))
    assert "Autoencoder alone" in (tmp_path / "out" / "report.html").read_text()
    assert any("Membership" in sentence for sentence in result["summary"]["privacy"]["sentences"])
    assert result["model_sha256"] == digest
    for name in ("report.json", "report.html"):
        content = (tmp_path / "out" / name).read_text()
        assert "secret_name" not in content and "Membership inference, AUC" in content


@pytest.mark.slow
def test_label_maps_alone_are_judged_by_their_anatomy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    train, test, made = (make_cohort(tmp_path / str(seed), 6, seed=seed) for seed in (1, 2, 3))
    whole = evaluate(train, test, made, tmp_path / "whole", TINY)
    shutil.rmtree(made / "images")
    result = evaluate(train, test, made, tmp_path / "maps", TINY)
    of_maps = [
        figure
        for figure in whole["figures"]
        if figure["key"].startswith(("anatomy", "privacy.republished_maps"))
    ]
    assert result["figures"] == of_maps and len(of_maps) == 5
    assert result["left_out"][0] == "Only anatomy was evaluated: the synthetic set has no images."
    assert exit_code(result) == 0
    assert exit_code(result, fail_on_copies=True) == EXIT_NOT_COMPUTED
    shutil.copytree(train / "labels", made / "labels", dirs_exist_ok=True)
    copied = evaluate(train, test, made, tmp_path / "copied", TINY)
    assert any("6 of 12 synthetic label maps equal a real one" in each for each in copied["findings"])
    assert copied["republished_label_maps"]["n_republished"] >= 6
    assert copied["summary"]["privacy"]["light"] == "red"
    assert copied["republished_label_maps"]["synthetic_names"] == []
    page = (tmp_path / "maps" / "report.html").read_text()
    assert "DoeJane" not in page and "Volume" in page


@pytest.mark.parametrize(
    ("fails", "not_computed", "fail", "code"),
    [
        (False, None, True, 0),
        (True, None, False, 0),
        (True, None, True, EXIT_COPIES),
        (False, "why", True, EXIT_NOT_COMPUTED),
    ],
)
def test_exit_code_says_copies_before_gaps(
    fails: bool, not_computed: str | None, fail: bool, code: int
) -> None:
    content = {
        "copies": {"a": {"n_copies": 2, "fails": fails}, "b": None},
        "figures": [{"not_computed": not_computed}],
    }
    assert exit_code(content, fail_on_copies=fail) == code


def test_nested_settings_may_be_plain_mappings() -> None:
    config = EvaluationConfig.from_dict({"seed": 4, "usefulness": {"segmenter": {"n_steps": 7}}})
    assert config.usefulness.segmenter.n_steps == 7
    assert EvaluationConfig.from_dict(config.to_dict()) == config


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="copy_quantile is 2"):
        EvaluationConfig(copy_quantile=2)
    with pytest.raises(ValueError, match="n_resamples is 1"):
        EvaluationConfig(n_resamples=1)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    cohorts = [make_cohort(tmp_path / str(seed), n, seed=seed) for seed, n in ((1, 5), (2, 3), (3, 4))]
    usefulness = UsefulnessConfig(n_seeds=2, few_cases=(2,), segmenter=SegmenterConfig(n_steps=2))
    config = replace(TINY, usefulness=usefulness)

    def run(rank: int, name: str = "two") -> None:
        torch.set_num_threads(1)
        resources = EvaluationResources(cache_dir=str(tmp_path / f"{name}_cache"))
        evaluate(*cohorts, tmp_path / name / str(rank), config, resources=resources)

    assert run_on_ranks(run, tmp_path / "meeting") == [0, 0]
    assert run_on_ranks(lambda rank: run(rank, "one"), tmp_path / "alone", n=1) == [0]
    two, one = (json.loads((tmp_path / name / "0" / "report.json").read_text()) for name in ("two", "one"))
    assert two | {"seconds": {}} == one | {"seconds": {}}
    keys = {each["key"] for each in one["figures"]}
    assert {"usefulness.ratio_synthetic", "privacy.republished_maps"} <= keys
    assert not list((tmp_path / "two" / "1").iterdir())
    names = [{each.name for each in (tmp_path / f"{name}_cache").iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]
