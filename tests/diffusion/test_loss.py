"""The loss of a denoiser: it vanishes for the truth, and weights mean the same for every prediction type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medldm.diffusion import PREDICTION_TYPES, DDPMPath, denoising_losses
from medldm.diffusion.kernel import add_noise, prediction_factors, training_target
from medldm.diffusion.loss import loss_weight


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weighted_losses_of_all_predictions_agree(
    weighting: str, levels: tuple[float, float], clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_0, noise = clean_and_noise
    guess = x_0 + 0.1 * noise.flip(0)
    alpha, sigma = (torch.tensor([level], dtype=torch.float64) for level in levels)
    guessed_noise = (add_noise(x_0, noise, *levels) - alpha * guess) / sigma
    losses = []
    for prediction_type in PREDICTION_TYPES:
        error = training_target(prediction_type, x_0, noise, *levels) - training_target(
            prediction_type, guess, guessed_noise, *levels
        )
        losses.append(loss_weight(weighting, prediction_type, alpha, sigma) * (error**2).mean())
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-10, atol=0)


def test_loss_weights_are_those_of_the_papers() -> None:
    alpha = torch.linspace(0.02, 0.999, 50, dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    snr = alpha**2 / sigma**2
    expected = {
        ("plain", "epsilon"): torch.ones_like(snr),
        ("min_snr", "epsilon"): snr.clamp(max=5) / snr,
        ("min_snr", "sample"): snr.clamp(max=5),
        ("min_snr", "v_prediction"): snr.clamp(max=5) / (snr + 1),
        ("p2", "epsilon"): 1 / (1 + snr),
    }
    for (weighting, prediction_type), weight in expected.items():
        found = loss_weight(weighting, prediction_type, alpha, sigma)
        torch.testing.assert_close(found, weight, rtol=1e-10, atol=0)
    found = loss_weight("p2", "epsilon", alpha, sigma, gamma=0.5, k=2.0)
    torch.testing.assert_close(found, (2 + snr) ** -0.5, rtol=1e-10, atol=0)
    found = loss_weight("min_snr", "sample", alpha, sigma, gamma=3.0)
    torch.testing.assert_close(found, snr.clamp(max=3), rtol=1e-10, atol=0)


def test_a_channel_counts_by_its_spread_in_the_plain_loss_of_edm() -> None:
    spread = torch.tensor([1.0, 0.25], dtype=torch.float64)
    level = torch.tensor([0.5, 0.1], dtype=torch.float64)
    weight = loss_weight("plain", "edm", level, level, spread)
    torch.testing.assert_close(weight, torch.tensor([[1.6, 0.4]], dtype=torch.float64))
    assert torch.equal(loss_weight("plain", "edm", level, level), torch.ones_like(level))


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weights_by_noise_level_mean_the_same_in_every_channel(weighting: str) -> None:
    spread = torch.tensor([1.0, 0.25], dtype=torch.float64)
    alpha, sigma = (torch.tensor(values, dtype=torch.float64) for values in ([0.9, 0.2], [0.3, 0.7]))
    found = loss_weight(weighting, "edm", alpha, sigma, spread)
    _, _, determinant = prediction_factors("edm", alpha, sigma, spread)
    of_x_0 = loss_weight(weighting, "sample", alpha, sigma)[:, None]
    torch.testing.assert_close(found * determinant**2 / sigma[:, None] ** 2, of_x_0.expand(2, 2))


def test_unknown_weightings_are_refused() -> None:
    level = torch.tensor([0.5])
    with pytest.raises(ValueError, match="weighting of the loss is 'snr'"):
        loss_weight("snr", "epsilon", level, level)


@pytest.mark.parametrize("weighting", ["plain", "min_snr", "p2"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_losses_are_the_weighted_squared_errors_of_each_sample(
    prediction_type: str, weighting: str, clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    path, t = DDPMPath(), torch.tensor([100, 700])
    x_0, noise = (tensor.float() for tensor in clean_and_noise)
    alpha, sigma = path.alpha_sigma(t)
    asked = []

    def predict(x_t: Tensor, times: Tensor) -> Tensor:
        asked.append((x_t, times))
        return training_target(prediction_type, x_0, noise, alpha, sigma) + torch.tensor([1.0, 3.0]).view(
            2, 1, 1, 1, 1
        )

    found = denoising_losses(
        predict,
        x_0,
        t=t,
        noise=noise,
        path=path,
        prediction_type=prediction_type,
        weighting=weighting,
    )
    expected = torch.tensor([1.0, 9.0]) * loss_weight(weighting, prediction_type, alpha, sigma)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=0)
    ((x_t, times),) = asked
    torch.testing.assert_close(x_t, path.add_noise(x_0, noise, t))
    assert times.tolist() == [99, 699]
