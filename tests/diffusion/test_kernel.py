"""The formalism: conversions and the posterior against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from medldm.diffusion import PREDICTION_TYPES
from medldm.diffusion.kernel import (
    Step,
    add_noise,
    estimates,
    find_noise,
    network_input,
    training_target,
)
from medldm.diffusion.modes import from_modes, resize_modes, to_modes

SPREAD = torch.tensor([1.0, 0.4, 0.05], dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_estimates_invert_the_training_target(
    prediction_type: str, levels: tuple[float, float], clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    alpha, sigma = levels
    x_0, noise = clean_and_noise
    x_t = add_noise(x_0, noise, alpha, sigma)
    target = training_target(prediction_type, x_0, noise, alpha, sigma)
    found_x_0, found_noise = estimates(prediction_type, target, x_t, alpha, sigma)
    # Rounding of x_t and y is amplified by at most 1 / alpha (x_0) and 1 / sigma (eps).
    torch.testing.assert_close(found_x_0, x_0, rtol=1e-12, atol=1e-14 / alpha)
    torch.testing.assert_close(found_noise, noise, rtol=1e-12, atol=1e-13 / sigma)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_estimates_of_any_output_explain_the_noisy_latents(
    prediction_type: str, levels: tuple[float, float], clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    alpha, sigma = levels
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


def draw_channels(n: int) -> tuple[Tensor, Tensor]:
    """x_0 (n, 3, 2, 1, 1) with the standard deviations `SPREAD`, and noise."""
    generator = torch.Generator().manual_seed(4)
    x_0, noise = torch.randn(2, n, 3, 2, 1, 1, generator=generator, dtype=torch.float64)
    return x_0 * SPREAD.view(1, 3, 1, 1, 1), noise


def test_edm_of_unit_variance_is_v_prediction_where_the_path_keeps_variance(
    clean_and_noise: tuple[Tensor, Tensor],
) -> None:
    x, output = clean_and_noise
    for spread in (1.0, torch.ones(x.shape[1], dtype=torch.float64)):
        target = training_target("edm", x, output, 0.6, 0.8, spread)
        torch.testing.assert_close(target, training_target("v_prediction", x, output, 0.6, 0.8))
        torch.testing.assert_close(network_input("edm", x, 0.6, 0.8, spread), x)
        for found, expected in zip(
            estimates("edm", output, x, 0.6, 0.8, spread),
            estimates("v_prediction", output, x, 0.6, 0.8),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)


def test_edm_is_the_preconditioning_of_karras(levels: tuple[float, float]) -> None:
    """Table 1 of the paper, written there for x = x_t / alpha and the noise level sigma / alpha."""
    alpha, sigma = levels
    x_0, noise = draw_channels(2)
    x_t, output = add_noise(x_0, noise, alpha, sigma), noise.flip(0)
    level, sd = sigma / alpha, SPREAD.view(1, 3, 1, 1, 1)
    c_skip = sd**2 / (level**2 + sd**2)
    c_out = level * sd / (level**2 + sd**2).sqrt()
    c_in = 1 / (level**2 + sd**2).sqrt()
    torch.testing.assert_close(network_input("edm", x_t, alpha, sigma, SPREAD), c_in * x_t / alpha)
    # The paper's F is -y: it adds what the Wiener filter lacks.
    denoised = c_skip * x_t / alpha + c_out * -output
    torch.testing.assert_close(estimates("edm", output, x_t, alpha, sigma, SPREAD)[0], denoised)
    target = (x_0 - c_skip * x_t / alpha) / c_out
    torch.testing.assert_close(-training_target("edm", x_0, noise, alpha, sigma, SPREAD), target)


def test_edm_estimates_invert_its_target_in_each_channel_and_sample() -> None:
    x_0, noise = draw_channels(2)
    alpha = torch.tensor([0.9, 0.2], dtype=torch.float64)
    sigma = 1 - alpha
    x_t = add_noise(x_0, noise, alpha, sigma)
    target = training_target("edm", x_0, noise, alpha, sigma, SPREAD)
    found = estimates("edm", target, x_t, alpha, sigma, SPREAD)
    torch.testing.assert_close(found[0], x_0, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found[1], noise, rtol=1e-12, atol=1e-11)
    one = training_target("edm", x_0[1:], noise[1:], float(alpha[1]), float(sigma[1]), SPREAD)
    torch.testing.assert_close(one, target[1:], rtol=1e-14, atol=1e-14)
    pure_noise = estimates("edm", torch.zeros_like(noise), noise, 0.0, 1.0, SPREAD)
    assert torch.equal(pure_noise[0], torch.zeros_like(noise))


def test_what_edm_asks_of_the_network_has_unit_variance_in_each_channel(levels: tuple[float, float]) -> None:
    x_0, noise = draw_channels(20_000)
    x_t = add_noise(x_0, noise, *levels)
    target = training_target("edm", x_0, noise, *levels, SPREAD)
    for values in (target, network_input("edm", x_t, *levels, SPREAD)):
        deviations = values.transpose(0, 1).flatten(1).std(dim=1)
        torch.testing.assert_close(deviations, torch.ones_like(SPREAD), rtol=0.02, atol=0)


def draw_modes(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The spread of the modes (2, 4, 3, 5), x_0 (n, 2, 4, 3, 5) that has it, and noise."""
    generator = torch.Generator().manual_seed(5)
    spread = torch.rand(2, 4, 3, 5, generator=generator, dtype=torch.float64) + 0.05
    spread[:, 0, 0, 0] = 6.0
    x_0, noise = torch.randn(2, n, *spread.shape, generator=generator, dtype=torch.float64)
    return spread, from_modes(x_0 * spread), noise


def test_edm_of_modes_alike_is_edm_of_channels(levels: tuple[float, float]) -> None:
    _, x_t, output = draw_modes(2)
    of_channels, shape = torch.tensor([0.4, 3.0], dtype=torch.float64), (4, 3, 5)
    alike = of_channels.view(2, 1, 1, 1).expand(2, *shape)
    torch.testing.assert_close(
        network_input("edm", x_t, *levels, alike), network_input("edm", x_t, *levels, of_channels)
    )
    torch.testing.assert_close(
        training_target("edm", x_t, output, *levels, alike),
        training_target("edm", x_t, output, *levels, of_channels),
    )
    for found, expected in zip(
        estimates("edm", output, x_t, *levels, alike),
        estimates("edm", output, x_t, *levels, of_channels),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_edm_estimates_of_modes_invert_its_target_and_solve_for_x_t() -> None:
    spread, x_0, noise = draw_modes(2)
    alpha = torch.tensor([0.9, 0.2], dtype=torch.float64)
    x_t = add_noise(x_0, noise, alpha, 1 - alpha)
    target = training_target("edm", x_0, noise, alpha, 1 - alpha, spread)
    found = estimates("edm", target, x_t, alpha, 1 - alpha, spread)
    torch.testing.assert_close(found[0], x_0, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found[1], noise, rtol=1e-11, atol=1e-12)
    back = add_noise(*estimates("edm", noise, x_t, alpha, 1 - alpha, spread), alpha, 1 - alpha)
    torch.testing.assert_close(back, x_t)


def test_edm_of_modes_without_a_network_is_the_best_linear_estimate(levels: tuple[float, float]) -> None:
    """The Wiener filter: by scipy's cosine transform, and its error is orthogonal to what it is given."""
    spread, x_0, noise = draw_modes(4000)
    alpha, sigma = levels
    x_t = add_noise(x_0, noise, alpha, sigma)
    found = estimates("edm", torch.zeros_like(x_t), x_t, alpha, sigma, spread)[0]
    filters = alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2)
    modes = dctn(x_t[:3].numpy(), axes=(2, 3, 4), norm="ortho") * filters.numpy()
    expected = torch.as_tensor(idctn(modes, axes=(2, 3, 4), norm="ortho"))
    torch.testing.assert_close(found[:3], expected)
    error, given = to_modes(found - x_0), to_modes(x_t)
    correlation = (error * given).mean(0) / (error.square().mean(0) * given.square().mean(0)).sqrt()
    assert correlation.abs().max() < 5 / math.sqrt(4000)
    asked = training_target("edm", x_0, noise, alpha, sigma, spread)
    deviations = asked.square().transpose(0, 1).flatten(1).mean(dim=1).sqrt()
    torch.testing.assert_close(deviations, torch.ones_like(deviations), rtol=0.02, atol=0)


def test_the_spread_of_modes_is_brought_to_another_grid() -> None:
    spread, _, _ = draw_modes(1)
    x_t = torch.randn(1, 2, 8, 6, 5, dtype=torch.float64)
    resized = resize_modes(spread, (8, 6, 5))
    assert resized.shape == (2, 8, 6, 5)
    # Mode 2 k of twice as many voxels has the wavelength of mode k.
    torch.testing.assert_close(resized[:, ::2, ::2], spread)
    for given in (spread, resized):
        found = estimates("edm", torch.zeros_like(x_t), x_t, 0.6, 0.4, given)[0]
        torch.testing.assert_close(found, estimates("edm", 0 * x_t, x_t, 0.6, 0.4, resized)[0])


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
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="prediction_type is 'noise'"):
        training_target("noise", x, x, 0.6, 0.8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_of_latents_is_kept_and_coefficients_are_rounded_once(dtype: torch.dtype) -> None:
    alpha = torch.tensor([0.99999, 1 / 3], dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    one, zero = torch.ones(2, 1, 1, 1, 1, dtype=dtype), torch.zeros(2, 1, 1, 1, 1, dtype=dtype)
    assert torch.equal(add_noise(one, zero, alpha, sigma).flatten(), alpha.to(dtype))
    assert torch.equal(add_noise(zero, one, alpha, sigma).flatten(), sigma.to(dtype))


def make_step(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> Step:
    return Step(t=1.0, s=0.5, alpha_t=alpha_t, sigma_t=sigma_t, alpha_s=alpha_s, sigma_s=sigma_s)


def test_length_of_a_step_is_the_rise_of_lambda() -> None:
    step = make_step(0.3, 0.9, 0.7, 0.4)
    assert step.h == pytest.approx(math.log(0.7 / 0.4) - math.log(0.3 / 0.9), rel=1e-12)
    assert step.rho == pytest.approx(math.exp(-step.h), rel=1e-12)
    from_noise = make_step(0.0, 1.0, 0.7, 0.4)
    assert (from_noise.h, from_noise.rho) == (math.inf, 0.0)


def test_noise_is_found_in_noisy_latents(
    levels: tuple[float, float], clean_and_noise: tuple[Tensor, Tensor]
) -> None:
    x_0, noise = clean_and_noise
    found = find_noise(add_noise(x_0, noise, *levels), x_0, *levels)
    torch.testing.assert_close(found, noise, rtol=1e-12, atol=1e-13 / levels[1])


def test_posterior_is_bayes_rule() -> None:
    levels = [(1.0, 0.0), (0.99, 0.14), (0.8, 0.6), (0.3, 0.95), (0.0, 1.0)]
    for i, (alpha_s, sigma_s) in enumerate(levels[1:], start=1):
        for alpha_t, sigma_t in levels[i + 1 :]:
            # q(x_t | x_s) = N(a x_s, v) times q(x_s | x_0) = N(alpha_s x_0, sigma_s^2), as one square.
            a = alpha_t / alpha_s
            v = sigma_t**2 - a**2 * sigma_s**2
            precision = a**2 / v + 1 / sigma_s**2
            expected = (a / v / precision, alpha_s / sigma_s**2 / precision, precision**-0.5)
            step = make_step(alpha_t, sigma_t, alpha_s, sigma_s)
            found = (*step.posterior_mean, step.posterior_sd)
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_posterior_at_the_data_is_the_data() -> None:
    step = make_step(0.6, 0.8, 1.0, 0.0)
    assert (*step.posterior_mean, step.posterior_sd) == (0.0, 1.0, 0.0)
    assert step.h == math.inf


def test_posterior_keeps_the_marginal() -> None:
    alpha_t, sigma_t, alpha_s, sigma_s = 0.3, 0.9, 0.7, 0.4
    step = make_step(alpha_t, sigma_t, alpha_s, sigma_s)
    (c_t, c_0), sd = step.posterior_mean, step.posterior_sd
    assert c_t * alpha_t + c_0 == pytest.approx(alpha_s, rel=1e-12)
    assert (c_t * sigma_t) ** 2 + sd**2 == pytest.approx(sigma_s**2, rel=1e-12)
