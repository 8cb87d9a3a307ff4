"""Keeping a region, starting from an original: exact where it must be, measured where it is approximate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import SOLVERS, NoisePath, make_path, make_solver, make_steps, run_solver
from medldm.diffusion.inpainting import (
    InpaintingMask,
    PartialStart,
    invert_noise,
    last_steps,
    renoise,
    sample_from,
)
from medldm.diffusion.solvers import SolverProgress

PATHS = [{"kind": "ddpm"}, {"kind": "ddpm", "zero_terminal_snr": True}, {"kind": "flow"}]
SHAPE = (2, 3, 4, 5, 2)


def noise_like(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=dtype)


def sample(name: str, denoise: Any, path: NoisePath, steps: Any, *, noise: Any, **options: Any) -> Tensor:
    """`sample_from` with a solver by name that draws from the same noise."""
    return sample_from(make_solver(name, noise=noise), denoise, path, steps, noise=noise, **options)


def network(path: NoisePath) -> Any:
    """Estimates that mix all elements of a sample, as a network's do."""

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        x_0 = torch.tanh(x + x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1)))
        return x_0, (x - alpha * x_0) / sigma

    return denoise


def half_mask() -> Tensor:
    mask = torch.zeros(2, 1, 4, 5, 2, dtype=torch.bool)
    mask[0, :, :2] = True
    mask[1, :, :, 1:3] = True
    return mask


@pytest.mark.parametrize("description", PATHS, ids=["ddpm", "zero_snr", "flow"])
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("repeats", [{}, {"resamplings": 3, "jump": 2}])
def test_every_solver_ends_at_the_original_to_the_bit(name, description, repeats) -> None:
    path = make_path(description)
    original, is_kept = 3 * noise_like(SHAPE, 7)(), half_mask()
    mask = InpaintingMask(original=original, is_kept=is_kept, **repeats)
    x = sample(name, network(path), path, make_steps(path, 5), noise=noise_like(SHAPE), inpainting=mask)
    everywhere = is_kept.expand(SHAPE)
    assert torch.equal(x[everywhere], original[everywhere])
    assert (x[~everywhere] - original[~everywhere]).abs().min() > 0


@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
@pytest.mark.parametrize("name", SOLVERS)
def test_an_empty_mask_changes_no_bit(name, grid) -> None:
    path = make_path({"kind": "ddpm"})
    mask = InpaintingMask(original=torch.zeros(SHAPE), is_kept=torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool))
    steps = make_steps(path, 6, grid=grid)
    kept = sample(name, network(path), path, steps, noise=noise_like(SHAPE), inpainting=mask)
    noise = noise_like(SHAPE)
    solver = make_solver(name, noise=noise)
    assert torch.equal(kept, run_solver(solver, network(path), noise(), steps))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_full_mask_returns_the_original(name) -> None:
    path = make_path({"kind": "flow"})
    original = noise_like(SHAPE, 7)()
    mask = InpaintingMask(original=original, is_kept=torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))
    x = sample(name, network(path), path, make_steps(path, 4), noise=noise_like(SHAPE), inpainting=mask)
    assert torch.equal(x, original)


@pytest.mark.parametrize("name", SOLVERS)
def test_kept_latents_have_the_noise_of_each_time_on_the_way(name) -> None:
    """x_t of the kept part is alpha_t x_0 + sigma_t eps, eps standard normal: the law the network knows."""
    path = make_path({"kind": "ddpm"})
    shape = (1, 1, 30, 30, 30)
    original = torch.full(shape, 2.0, dtype=torch.float64)
    mask = InpaintingMask(original=original, is_kept=torch.ones(shape, dtype=torch.bool))
    seen: list[SolverProgress] = []
    noise = noise_like(shape, dtype=torch.float64)
    steps = make_steps(path, 5)
    sample(name, network(path), path, steps, noise=noise, inpainting=mask, callback=seen.append)
    for progress in seen[:-1]:
        alpha, sigma = path.alpha_sigma(progress.state.step.s)
        eps = (progress.state.x - alpha * original) / sigma
        standard_error = original.numel() ** -0.5
        assert abs(eps.mean()) < 4 * standard_error
        assert abs(eps.std() - 1) < 4 * standard_error / 2**0.5


CORRELATION = 0.8


def correlated_denoiser(path: NoisePath) -> Any:
    """E[x_0 | x_t] and E[eps | x_t] of two standard normal numbers with a correlation, on axis 1."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)

    def denoise(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        inverse = torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
        score = x @ inverse
        return alpha * score @ covariance, sigma * score

    return denoise


def conditional_moments(description: dict[str, Any], name: str, num_steps: int, **repeats: int) -> Tensor:
    """Mean, as a share of the exact one, and sd of the free number given that the kept one is 1.5."""
    path = make_path(description)
    original = torch.tensor([[1.5, 0.0]], dtype=torch.float64).expand(4000, 2)
    mask = InpaintingMask(original=original, is_kept=torch.tensor([[True, False]]), **repeats)
    x = sample(
        name,
        correlated_denoiser(path),
        path,
        make_steps(path, num_steps),
        noise=noise_like((4000, 2), dtype=torch.float64),
        inpainting=mask,
    )
    return torch.stack([x[:, 1].mean() / (1.5 * CORRELATION), x[:, 1].std()])


@pytest.mark.parametrize("description", [{"kind": "ddpm"}, {"kind": "flow"}], ids=["ddpm", "flow"])
def test_resampling_brings_the_free_part_to_its_conditional_law(description) -> None:
    """Exact: mean 1, sd 0.6. Replacement alone is far off, and fresh noise (DDPM) helps it."""
    ddim, _ = conditional_moments(description, "ddim", 50)
    ddpm, _ = conditional_moments(description, "ddpm", 50)
    assert 0.40 < ddim < 0.50
    assert 0.57 < ddpm < 0.65
    five, sd = conditional_moments(description, "ddpm", 50, resamplings=5)
    assert 0.88 < five < 0.96
    assert 0.50 < sd < 0.60
    many, sd = conditional_moments(description, "ddpm", 250, resamplings=10)
    assert 0.94 < many < 1.0
    assert 0.54 < sd < 0.62


def test_resamplings_do_not_change_the_law_without_a_kept_region(gaussian) -> None:
    path = make_path({"kind": "flow"})
    shape = (20000,)
    mask = InpaintingMask(original=torch.zeros(shape), is_kept=torch.tensor([False]), resamplings=3, jump=4)
    steps = make_steps(path, 60)
    x = sample("heun", gaussian.denoiser(path), path, steps, noise=noise_like(shape), inpainting=mask)
    standard_error = gaussian.sd / 20000**0.5
    assert abs(x.mean() - gaussian.mean) < 4 * standard_error
    assert abs(x.std() - gaussian.sd) < 4 * standard_error / 2**0.5 + 0.005


def test_renoising_has_the_mean_and_variance_of_the_later_time() -> None:
    """From x_s = alpha_s x_0 + sigma_s eps to the law of x_t, in closed form."""
    for description in PATHS:
        path = make_path(description)
        s, t = path.final_time * 0.4, path.final_time
        s = int(s) if description["kind"] == "ddpm" else s
        one = torch.ones(1, dtype=torch.float64)
        (alpha_s, sigma_s), (alpha_t, sigma_t) = path.alpha_sigma(s), path.alpha_sigma(t)
        steps = [path.step(t, s)]
        signal = renoise(alpha_s * one, 0 * one, steps)
        old, fresh = renoise(sigma_s * one, 0 * one, steps), renoise(0 * one, one, steps)
        assert signal.item() == pytest.approx(alpha_t, abs=1e-12)
        assert (old**2 + fresh**2).item() == pytest.approx(sigma_t**2, abs=1e-12)


def test_callback_counts_every_repeat_once() -> None:
    path = make_path({"kind": "flow"})
    mask = InpaintingMask(original=torch.zeros(SHAPE), is_kept=half_mask(), resamplings=3, jump=2)
    seen: list[SolverProgress] = []
    sample(
        "ddim",
        network(path),
        path,
        make_steps(path, 5),
        noise=noise_like(SHAPE),
        inpainting=mask,
        callback=seen.append,
    )
    assert [progress.index for progress in seen] == list(range(15))
    assert {progress.num_steps for progress in seen} == {15}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_partial_start_begins_at_the_noised_latents_at_its_time(name) -> None:
    """With a network that knows the latents, the run ends at them whatever the strength."""
    path = make_path({"kind": "ddpm"})
    latents = noise_like(SHAPE, 5)()

    def oracle(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = path.alpha_sigma(t)
        return latents, (x - alpha * latents) / sigma

    seen: list[SolverProgress] = []
    start = PartialStart(latents=latents, strength=0.35)
    x = sample(
        name,
        oracle,
        path,
        make_steps(path, 10),
        noise=noise_like(SHAPE),
        start=start,
        callback=seen.append,
    )
    assert torch.equal(x, latents)
    assert [progress.state.step.t for progress in seen] == [300, 200, 100]
    drawn = noise_like(SHAPE)()
    begun, _ = start.begin(drawn, path, make_steps(path, 10))
    assert torch.equal(begun, path.add_noise(latents, drawn, 300))


@pytest.mark.parametrize("description", PATHS, ids=["ddpm", "zero_snr", "flow"])
@pytest.mark.parametrize("grid", ["trailing", "uniform", "log_snr", "karras"])
def test_strength_one_makes_all_steps_and_a_small_one_the_last(description, grid) -> None:
    path = make_path(description)
    steps = make_steps(path, 7, grid=grid)
    assert last_steps(path, steps, strength=1.0) == steps
    assert last_steps(path, steps, strength=1e-6) == steps[-1:]
    assert all(step.t <= 0.5 * path.final_time for step in last_steps(path, steps, strength=0.5)[1:])


def test_inverted_noise_leads_back_to_the_latents(gaussian) -> None:
    """The error is of first order in the number of steps, as the inversion's is."""
    path = make_path({"kind": "flow"})
    latents = 0.7 + 0.5 * noise_like((400,), 3, torch.float64)()
    errors = []
    for num_steps in (100, 200):
        steps = make_steps(path, num_steps)
        strength = 0.6
        noise, _ = invert_noise(gaussian.denoiser(path), latents, last_steps(path, steps, strength=strength))
        start = PartialStart(latents=latents, strength=strength, noise=noise)
        x = sample(
            "ddim",
            gaussian.denoiser(path),
            path,
            steps,
            noise=noise_like((400,), dtype=torch.float64),
            start=start,
        )
        errors.append((x - latents).abs().mean().item())
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_an_inversion_with_a_kept_region_is_exact_to_first_order_everywhere() -> None:
    """The kept part must take the way it was inverted along: the free part depends on it all the way."""
    path = make_path({"kind": "flow"})
    latents = noise_like((400, 2), 3, torch.float64)() @ torch.tensor(
        [[1.0, CORRELATION], [0.0, (1 - CORRELATION**2) ** 0.5]], dtype=torch.float64
    )
    errors = {True: [], False: []}
    for is_on_course, found in errors.items():
        for num_steps in (50, 100):
            steps = make_steps(path, num_steps)
            noise, x_0_at = invert_noise(correlated_denoiser(path), latents, steps)
            mask = InpaintingMask(
                original=latents,
                is_kept=torch.tensor([[True, False]]),
                x_0_at=x_0_at if is_on_course else {},
            )
            start = PartialStart(latents=latents, strength=1.0, noise=noise)
            x = sample(
                "ddim",
                correlated_denoiser(path),
                path,
                steps,
                noise=noise_like((400, 2), dtype=torch.float64),
                inpainting=mask,
                start=start,
            )
            assert torch.equal(x[:, 0], latents[:, 0])
            found.append((x - latents)[:, 1].abs().mean().item())
    assert errors[True][0] / errors[True][1] == pytest.approx(2, rel=0.1)
    assert errors[True][1] < 0.02
    assert errors[False][1] > 0.05


def test_wrong_arguments_are_named() -> None:
    zeros = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"float32: a mask of torch\.bool"):
        InpaintingMask(original=zeros, is_kept=torch.ones(SHAPE))
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4, 2\), which does not broadcast"):
        InpaintingMask(original=zeros, is_kept=torch.ones(2, 1, 4, 4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="resamplings is 0"):
        InpaintingMask(original=zeros, is_kept=half_mask(), resamplings=0)
    with pytest.raises(ValueError, match="strength is 0"):
        PartialStart(latents=zeros, strength=0)
    with pytest.raises(ValueError, match="the noise has the shape"):
        PartialStart(latents=zeros, strength=0.5, noise=zeros[:1])
    path = make_path({"kind": "flow"})
    for original in (
        {"inpainting": InpaintingMask(original=zeros, is_kept=half_mask())},
        {"start": PartialStart(latents=zeros, strength=1.0)},
    ):
        with pytest.raises(ValueError, match=r"\(2, 3, 4, 5, 2\), but \(1, 3, 4, 5, 2\)"):
            sample(
                "ddim",
                network(path),
                path,
                make_steps(path, 2),
                noise=noise_like((1, *SHAPE[1:])),
                **original,
            )
