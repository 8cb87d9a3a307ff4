"""Redraws: bounded, each from its own seed, and every one can be made again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.generation.engine import (
    GenerationDataset,
    GenerationEvaluator,
    LatentDiffusionInferer,
    SamplingConfig,
    generate,
    list_label_maps,
)
from medldm.generation.files import SyntheticWriter
from medldm.generation.rejection import QualityGate, sample_with_rejection
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.seeds import attempt_seed

FEW = SamplingConfig(num_steps=2, seed=3)


@pytest.fixture
def checkpoint(make_model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(("label_map",)), LatentDiffusionConfig())())
    return path


def run(checkpoint: Path, labels: Path, out: Path, gate: QualityGate) -> GenerationEvaluator:
    model, config, _ = load_latent_diffusion(checkpoint)
    evaluator = GenerationEvaluator(
        torch.device("cpu"),
        GenerationDataset(num_samples=2, labels=list_label_maps(labels)),
        network=model,
        inferer=LatentDiffusionInferer(config, FEW),
        writer=SyntheticWriter(out),
        gate=gate,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize(("n_bad", "n_tries", "passed"), [(0, 1, True), (2, 3, True), (9, 4, False)])
def test_tries_end_with_the_first_good_one_or_the_limit(n_bad: int, n_tries: int, passed: bool) -> None:
    drawn: list[int] = []

    def draw(seed: int) -> torch.Tensor:
        drawn.append(seed)
        return torch.tensor(float(len(drawn)))

    result = sample_with_rejection(
        draw, lambda volume: ["bad"] if volume <= n_bad else [], seed=5, index=2, max_redraws=3
    )
    assert drawn == [attempt_seed(5, 2, attempt) for attempt in range(n_tries)]
    assert result.passed is passed and result.seed == drawn[-1] and float(result.volume) == n_tries
    assert [each["problems"] for each in result.tries[:n_bad]] == min(n_bad, n_tries) * [["bad"]]


def test_a_redrawn_volume_is_made_again_from_its_sidecar(checkpoint, make_cohort, tmp_path) -> None:
    labels = make_cohort(2) / "labels"
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def check(image: np.ndarray, maps: np.ndarray | None) -> list[str]:
        assert maps is not None
        seen.append((image, maps))
        return ["copy"] if len(seen) in (1, 2) else []

    run(checkpoint, labels, tmp_path / "out", QualityGate(check=check))
    sidecar, second = (
        json.loads((tmp_path / "out" / "sidecars" / f"synthetic_{index:04d}.json").read_text())
        for index in (0, 1)
    )
    assert sidecar["quality_gate"]["seed"] == 3 and sidecar["quality_gate"]["passed"]
    assert [each["problems"] for each in sidecar["quality_gate"]["tries"]] == [["copy"], ["copy"], []]
    assert second["sampling"]["seed"] == 3 and len(second["quality_gate"]["tries"]) == 1
    # Image and map are judged without padding, the map as 0..K.
    assert seen[0][0].shape == seen[0][1].shape and set(np.unique(seen[0][1])) == {0, 1, 2}
    again = generate(
        checkpoint,
        tmp_path / "again",
        label_dir=str(labels),
        num_samples=1,
        sampling=SamplingConfig.from_dict(sidecar["sampling"]),
    )
    first = tmp_path / "out" / "images" / "synthetic_0000.nii.gz"
    assert np.array_equal(nib.load(again[0]).get_fdata(), nib.load(first).get_fdata())
    assert not np.array_equal(seen[0][0], seen[2][0])


@pytest.mark.parametrize("refuse", [False, True])
def test_what_stays_bad_is_named_or_left_out(checkpoint, make_cohort, tmp_path, caplog, refuse) -> None:
    labels = make_cohort(2) / "labels"

    gate = QualityGate(check=lambda image, maps: ["label map not followed"], max_redraws=1, refuse=refuse)
    evaluator = run(checkpoint, labels, tmp_path / "out", gate)
    assert "volume 1, try 2 of 2: label map not followed" in caplog.text
    files = list((tmp_path / "out").rglob("*.nii.gz"))
    if refuse:
        assert evaluator.refused == [0, 1] and not files
        assert "it is not written" in caplog.text
    else:
        assert len(evaluator.written) == 2 and len(files) == 4
        sidecar = json.loads((tmp_path / "out" / "sidecars" / "synthetic_0001.json").read_text())
        assert sidecar["quality_gate"]["passed"] is False


def test_a_negative_number_of_redraws_is_refused() -> None:
    with pytest.raises(ValueError, match="max_redraws is -1"):
        QualityGate(check=lambda image, labels: [], max_redraws=-1)


def test_a_gate_sees_every_channel(make_model, make_cohort, tmp_path) -> None:
    path = tmp_path / "channels.safetensors"
    model = make_model(("label_map",), channels=("t2w", "ct"))
    save_checkpoint(path, *describe_latent_diffusion(model, LatentDiffusionConfig())())
    shapes = []

    def check(image: np.ndarray, maps: np.ndarray | None) -> list[str]:
        shapes.append((image.shape, None if maps is None else maps.shape))
        return []

    evaluator = run(path, make_cohort(2) / "labels", tmp_path / "out", QualityGate(check=check))
    assert len(evaluator.written) == 4
    assert all(image == (2, *maps) for image, maps in shapes)
