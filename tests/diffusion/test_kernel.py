"""The formalism: conversions, weights and the posterior against closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from medldm.diffusion import PREDICTION_TYPES, add_noise, estimates, kernel, loss_weight, training_target

LEVELS = [
    (0.9999, math.sqrt(1 - 0.9999**2)),
    (0.6, 0.8),
    (0.05, math.sqrt(1 - 0.05**2)),
    (0.7, 0.3),
    (0.01, 0.99),
]
SHAPE = (2, 3, 5, 4, 3)


@pytest.fixture
def clean_and_noise(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x_0 far outside [-1, 1], and noise."""
    draw = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    return 7 * draw[0] + 3, draw[1]


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_estimates_invert_the_training_target(
    prediction_type: str, alpha: float, sigma: float, clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_0, noise = clean_and_noise
    x_t = add_noise(x_0, noise, alpha, sigma)
    target = training_target(prediction_type, x_0, noise, alpha, sigma)
    found_x_0, found_noise = estimates(prediction_type, target, x_t, alpha, sigma)
    # Rounding of x_t and y is amplified by at most 1 / alpha (x_0) and 1 / sigma (eps).
    torch.testing.assert_close(found_x_0, x_0, rtol=1e-12, atol=1e-14 / alpha)
    torch.testing.assert_close(found_noise, noise, rtol=1e-12, atol=1e-13 / sigma)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_estimates_of_any_output_explain_the_noisy_latents(
    prediction_type: str, alpha: float, sigma: float, clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_t, output = clean_and_noise
    x_0, eps = estimates(prediction_type, output, x_t, alpha, sigma)
    torch.testing.assert_close(alpha * x_0 + sigma * eps, x_t, rtol=1e-12, atol=1e-12)


def test_targets_are_those_of_the_papers(clean_and_noise: tuple[Tensor, Tensor]) -> None:
    x_0, noise = clean_and_noise
    assert torch.equal(training_target("epsilon", x_0, noise, 0.6, 0.8), noise)
    assert torch.equal(training_target("sample", x_0, noise, 0.6, 0.8), x_0)
    v = 0.6 * noise - 0.8 * x_0
    torch.testing.assert_close(training_target("v_prediction", x_0, noise, 0.6, 0.8), v, rtol=0, atol=1e-14)
    torch.testing.assert_close(training_target("velocity", x_0, noise, 0.6, 0.4), noise - x_0, rtol=0, atol=0)


def test_velocity_is_the_derivative_of_the_flow_path(clean_and_noise: tuple[Tensor, Tensor]) -> None:
    x_0, noise = clean_and_noise
    t, h = 0.3, 1e-3
    ahead, behind = (add_noise(x_0, noise, 1 - u, u) for u in (t + h, t - h))
    velocity = training_target("velocity", x_0, noise, 1 - t, t)
    torch.testing.assert_close((ahead - behind) / (2 * h), velocity, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_levels_of_each_sample_are_its_own(
    prediction_type: str, clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_t, output = clean_and_noise
    alphas = torch.tensor([0.6, 0.3], dtype=torch.float64)
    sigmas = (1 - alphas**2).sqrt()
    batched = estimates(prediction_type, output, x_t, alphas, sigmas)
    for row in range(2):
        one = estimates(prediction_type, output[row], x_t[row], float(alphas[row]), float(sigmas[row]))
        for whole, part in zip(batched, one, strict=True):
            torch.testing.assert_close(whole[row], part, rtol=1e-14, atol=1e-14)


def test_epsilon_is_refused_without_signal_and_sample_without_noise() -> None:
    x = torch.zeros(2, 1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"'epsilon' does not determine x_0.*v_prediction"):
        estimates("epsilon", x, x, 0.0, 1.0)
    with pytest.raises(ValueError, match="'epsilon' does not determine"):
        estimates("epsilon", x, x, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match="'sample' does not determine"):
        estimates("sample", x, x, 1.0, 0.0)
    for prediction_type in ("sample", "v_prediction", "velocity"):
        estimates(prediction_type, x, x, 0.0, 1.0)


def test_unknown_names_are_refused() -> None:
    x, level = torch.zeros(1, 1), torch.tensor([0.5])
    with pytest.raises(ValueError, match="prediction_type is 'noise'"):
        training_target("noise", x, x, 0.6, 0.8)
    with pytest.raises(ValueError, match="weighting of the loss is 'snr'"):
        loss_weight("snr", "epsilon", level, level)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_of_latents_is_kept_and_coefficients_are_rounded_once(dtype: torch.dtype) -> None:
    alpha = torch.tensor([0.99999, 1 / 3], dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    one, zero = torch.ones(2, 1, 1, 1, 1, dtype=dtype), torch.zeros(2, 1, 1, 1, 1, dtype=dtype)
    assert torch.equal(add_noise(one, zero, alpha, sigma).flatten(), alpha.to(dtype))
    assert torch.equal(add_noise(zero, one, alpha, sigma).flatten(), sigma.to(dtype))


@pytest.mark.parametrize("weighting", ["min_snr", "p2"])
def test_weighted_losses_of_all_predictions_agree(
    weighting: str, clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_0, noise = clean_and_noise
    guess = x_0 + 0.1 * noise.flip(0)
    for pair in LEVELS:
        alpha, sigma = (torch.tensor([level], dtype=torch.float64) for level in pair)
        x_t = add_noise(x_0, noise, *pair)
        guessed_noise = (x_t - alpha * guess) / sigma
        losses = []
        for prediction_type in PREDICTION_TYPES:
            error = training_target(prediction_type, x_0, noise, *pair) - training_target(
                prediction_type, guess, guessed_noise, *pair
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


def test_posterior_is_bayes_rule() -> None:
    levels = [(1.0, 0.0), (0.99, 0.14), (0.8, 0.6), (0.3, 0.95), (0.0, 1.0)]
    for i, (alpha_s, sigma_s) in enumerate(levels[1:], start=1):
        for alpha_t, sigma_t in levels[i + 1 :]:
            # q(x_t | x_s) = N(a x_s, v) times q(x_s | x_0) = N(alpha_s x_0, sigma_s^2), as one square.
            a = alpha_t / alpha_s
            v = sigma_t**2 - a**2 * sigma_s**2
            precision = a**2 / v + 1 / sigma_s**2
            expected = (a / v / precision, alpha_s / sigma_s**2 / precision, precision**-0.5)
            found = kernel.posterior(alpha_t, sigma_t, alpha_s, sigma_s)
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_posterior_at_the_data_is_the_data() -> None:
    assert kernel.posterior(0.6, 0.8, 1.0, 0.0) == (0.0, 1.0, 0.0)


def test_posterior_keeps_the_marginal() -> None:
    alpha_t, sigma_t, alpha_s, sigma_s = 0.3, 0.9, 0.7, 0.4
    c_t, c_0, sd = kernel.posterior(alpha_t, sigma_t, alpha_s, sigma_s)
    assert c_t * alpha_t + c_0 == pytest.approx(alpha_s, rel=1e-12)
    assert (c_t * sigma_t) ** 2 + sd**2 == pytest.approx(sigma_s**2, rel=1e-12)


def test_chained_steps_are_exact() -> None:
    betas = [Fraction(i, 1000) for i in range(1, 60)]
    alphas, sigmas = kernel.chain_steps([float(beta) for beta in betas])
    product = Fraction(1)
    for t, beta in enumerate(betas, start=1):
        product *= 1 - beta
        assert alphas[t] ** 2 == pytest.approx(float(product), rel=1e-12)
        assert sigmas[t] ** 2 == pytest.approx(float(1 - product), rel=1e-12)


def test_tiny_first_step_keeps_its_digits() -> None:
    _, sigmas = kernel.chain_steps([1e-12, 1e-12])
    assert sigmas[1] == pytest.approx(1e-6, rel=1e-15)
    assert sigmas[2] ** 2 == pytest.approx(2e-12 - 1e-24, rel=1e-14)


def test_schedules_start_and_end_where_they_say() -> None:
    for name in ("linear", "scaled_linear"):
        betas = kernel.BETA_SCHEDULES[name](1000, 1e-4, 0.02)
        assert betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-12)
    middle = kernel.scaled_linear_betas(3, 1e-4, 0.04)[1]
    assert float(middle) == pytest.approx(((0.01 + 0.2) / 2) ** 2, rel=1e-12)
    sigmoid = kernel.sigmoid_betas(1001, 1e-4, 0.02)
    assert float(sigmoid[500]) == pytest.approx((1e-4 + 0.02) / 2, rel=1e-12)
    assert float(sigmoid[0]) == pytest.approx(1e-4 + (0.02 - 1e-4) / (1 + math.exp(6)), rel=1e-12)


def test_cosine_schedule_has_the_closed_form() -> None:
    n = 1000
    alphas, _ = kernel.chain_steps(kernel.cosine_betas(n, 0.0, 0.0).tolist())
    for t in (1, 10, 500, 990):
        f = [math.cos((u / n + 0.008) / 1.008 * math.pi / 2) for u in (t, 0)]
        assert alphas[t] == pytest.approx(f[0] / f[1], rel=1e-11)
    assert kernel.cosine_betas(n, 0.0, 0.0).max() == 0.999


def test_zero_terminal_snr_keeps_the_first_step_and_stretches_linearly() -> None:
    betas = kernel.scaled_linear_betas(1000, 0.00085, 0.012)
    before, _ = kernel.chain_steps(betas.tolist())
    after, sigmas = kernel.chain_steps(kernel.rescale_to_zero_terminal_snr(betas).tolist())
    assert (after[-1], sigmas[-1]) == (0.0, 1.0)
    assert after[1] == pytest.approx(before[1], rel=1e-12)
    slope = before[1] / (before[1] - before[-1])
    for t in (2, 300, 999):
        assert after[t] == pytest.approx((before[t] - before[-1]) * slope, rel=1e-11)


def test_shift_lowers_half_log_snr_by_its_logarithm() -> None:
    for t in (0.01, 0.3, 0.9):
        shifted = kernel.shift_time(t, 3.0)
        before, after = math.log((1 - t) / t), math.log((1 - shifted) / shifted)
        assert before - after == pytest.approx(math.log(3), rel=1e-12)
    assert (kernel.shift_time(0.0, 3.0), kernel.shift_time(1.0, 3.0)) == (0.0, 1.0)


def test_shift_between_resolutions_is_the_root_of_the_voxel_ratio() -> None:
    assert kernel.resolution_shift((32, 32, 16), reference_size=(16, 16, 16)) == pytest.approx(2.0, rel=1e-12)
