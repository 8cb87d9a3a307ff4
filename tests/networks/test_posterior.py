from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from medldm.networks.posterior import DiagonalGaussian


def test_kl_is_that_of_torch_distributions(generator: torch.Generator) -> None:
    mean, logvar = torch.randn(2, 3, 4, 5, 6, 7, generator=generator, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).kl(), expected, rtol=1e-10, atol=0)


def test_kl_of_the_standard_normal_is_zero() -> None:
    assert DiagonalGaussian(torch.zeros(2, 4, 3, 3, 3), torch.zeros(2, 4, 3, 3, 3)).kl().tolist() == [
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(("logvar", "clamped"), [(-1e4, -30.0), (1e4, 20.0), (3.0, 3.0)])
def test_logvar_is_clamped(logvar: float, clamped: float) -> None:
    posterior = DiagonalGaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), logvar))
    assert posterior.logvar.item() == clamped
    assert posterior.std.item() == pytest.approx(torch.tensor(clamped / 2).exp().item())
    assert torch.isfinite(posterior.kl()).all()


def test_samples_have_the_mean_and_deviation(generator: torch.Generator) -> None:
    n = 200_000
    posterior = DiagonalGaussian(torch.full((1, 1, n), 2.0), torch.full((1, 1, n), 9.0).log())
    sample = posterior.sample(generator)
    standard_error = 3.0 / n**0.5
    assert abs(sample.mean().item() - 2.0) < 5 * standard_error
    assert abs(sample.std().item() - 3.0) < 5 * standard_error


def test_sample_is_repeated_by_its_seed() -> None:
    posterior = DiagonalGaussian(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    first, second = (posterior.sample(torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_half_precision_moments_are_handled_in_float32() -> None:
    posterior = DiagonalGaussian(
        torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.ones(1, 2, 3, dtype=torch.bfloat16)
    )
    assert posterior.std.dtype == posterior.kl().dtype == posterior.sample().dtype == torch.float32


def test_gradient_of_the_sample_is_one_for_the_mean_and_the_noise_for_the_deviation() -> None:
    mean, logvar = torch.zeros(1, 1, 4, requires_grad=True), torch.zeros(1, 1, 4, requires_grad=True)
    sample = DiagonalGaussian(mean, logvar).sample(torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(sample.sum(), (mean, logvar))
    assert torch.equal(gradients[0], torch.ones(1, 1, 4))
    torch.testing.assert_close(gradients[1], sample.detach() / 2)
