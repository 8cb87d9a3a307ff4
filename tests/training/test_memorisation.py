"""The gap between the losses of unseen and of training cases is fair, and is warned of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch.utils.data import DataLoader

from benchmarks.tiny_trainings import make_latents
from medldm import LatentDiffusionConfig
from medldm.training import LatentDataset
from medldm.training.averaging import average_weights
from medldm.training.diffusion import DiffusionEvaluator
from medldm.training.memorisation import GapWarning, as_many_cases
from medldm.training.quarantine import BadCase


def evaluate(model, validation, training) -> dict[str, float]:
    evaluator = DiffusionEvaluator(
        torch.device("cpu"),
        DataLoader(LatentDataset(validation), batch_size=2),
        network=model,
        config=LatentDiffusionConfig(),
        average=average_weights(model.denoiser, 0.0),
        training_loader=DataLoader(LatentDataset(training), batch_size=2),
    )
    evaluator.run()
    return dict(evaluator.state.metrics)


def test_the_same_cases_have_no_gap_and_other_cases_the_difference_of_their_losses(make_model) -> None:
    model, latents = make_model(("class",)), make_latents(6)
    same = evaluate(model, latents[:3], latents[:3])
    assert same["gap"] == 0 and same["training_loss"] == same["validation_loss"]
    other = evaluate(model, latents[:3], latents[3:])
    swapped = evaluate(model, latents[3:], latents[:3])
    assert other["gap"] == pytest.approx(-swapped["gap"]) and other["gap"] != 0
    assert other["training_loss"] == pytest.approx(swapped["validation_loss"])


def test_a_large_gap_is_warned_of_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    evaluator, trainer = Engine(lambda *_: None), SimpleNamespace(state=SimpleNamespace(epoch=3))
    warning = GapWarning(evaluator)
    for gap in (0.01, 0.19, 0.3, 0.4):
        evaluator.state.metrics = {"validation_loss": 1.0, "training_loss": 1 - gap, "gap": gap}
        warning._look(evaluator, trainer)
    assert caplog.text.count("begins to remember") == 1
    assert "(1) is 43 % above that of training cases (0.7)" in caplog.text
    assert "down_channels" in caplog.text and "latent_diffusion_early" in caplog.text


def test_as_many_sound_cases_are_spread_over_the_training() -> None:
    latents = make_latents(7)
    entries = [latents[0], BadCase("damaged"), *latents[2:]]
    picked = as_many_cases(LatentDataset(entries), 3)
    assert [index for index in picked.indices] == [0, 3, 5]
    assert len(as_many_cases(LatentDataset(entries), 20)) == 6
