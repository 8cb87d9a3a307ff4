"""Paths: tables, times and their way through a checkpoint's card."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal
from typing import Any

import pytest
import torch

from medldm.diffusion import DDPMPath, FlowPath, NoisePath, make_path, make_steps, schedules
from medldm.diffusion.paths import PATHS

DDPM_PATHS = [
    DDPMPath(schedule=schedule, beta_start=1e-4, beta_end=0.02, zero_terminal_snr=zero)
    for schedule in schedules.BETA_SCHEDULES
    for zero in (False, True)
]
ALL_PATHS: list[NoisePath] = [*DDPM_PATHS, FlowPath(), FlowPath(shift=3.0)]


def name_of(path: NoisePath) -> str:
    """A short name for the test's report."""
    return "-".join(str(value) for value in path.to_dict().values())


@pytest.mark.parametrize("path", DDPM_PATHS, ids=name_of)
def test_cumulative_alphas_are_exact_products_and_decrease(path: DDPMPath) -> None:
    product = Decimal(1)
    for t, beta in enumerate(path.betas, start=1):
        product *= 1 - Decimal(beta)  # 28 digits
        alpha, sigma = path.alpha_sigma(t)
        assert alpha**2 == pytest.approx(float(product), rel=1e-12)
        assert sigma**2 == pytest.approx(float(1 - product), rel=1e-12)
        assert alpha < path.alpha_sigma(t - 1)[0]
        assert sigma > path.alpha_sigma(t - 1)[1] or sigma == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize("path", DDPM_PATHS, ids=name_of)
def test_chained_single_steps_are_the_closed_form(path: DDPMPath) -> None:
    signal, variance = 1.0, 0.0
    for t, beta in enumerate(path.betas, start=1):
        signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
        alpha, sigma = path.alpha_sigma(t)
        assert (alpha, sigma**2) == pytest.approx((signal, variance), rel=1e-12, abs=1e-300)
        assert alpha**2 + sigma**2 == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_moments_of_noised_data_are_those_of_the_path(path: NoisePath, generator: torch.Generator) -> None:
    n, x_0 = 40_000, 3.0
    times = [path.final_time, make_steps(path, 3)[1].t, make_steps(path, 3)[2].t, path.first_time]
    for t in times:
        noise = torch.randn(1, n, generator=generator, dtype=torch.float64)
        x_t = path.add_noise(torch.full((1, n), x_0, dtype=torch.float64), noise, torch.tensor([t]))
        alpha, sigma = path.alpha_sigma(t)
        assert abs(float(x_t.mean()) - alpha * x_0) < 4 * sigma / math.sqrt(n)
        assert abs(float(x_t.var()) - sigma**2) < 4 * sigma**2 * math.sqrt(2 / n)


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_tables_survive_half_precision_use(path: NoisePath) -> None:
    times = torch.tensor([path.first_time, make_steps(path, 2)[1].t])
    before = torch.stack(path.alpha_sigma(times)).clone()
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.ones(2, 1, 2, 2, 2, dtype=dtype)
        assert path.add_noise(x, x, times).dtype == dtype
        path.alpha_sigma(times)[0].mul_(0)
    after = torch.stack(path.alpha_sigma(times))
    assert after.dtype == torch.float64
    if path.kind == "ddpm":
        assert torch.equal(before, after)
        with pytest.raises(FrozenInstanceError):
            path.n_timesteps = 3  # type: ignore[attr-defined]
        with pytest.raises(TypeError):
            path.table[0][0] = 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_time_zero_is_the_data_to_the_bit(path: NoisePath, generator: torch.Generator) -> None:
    x_0 = torch.randn(2, 1, 3, 3, 3, generator=generator)
    noise = torch.randn(2, 1, 3, 3, 3, generator=generator)
    assert path.alpha_sigma(0) == (1.0, 0.0)
    assert torch.equal(path.add_noise(x_0, noise, torch.tensor([0, 0])), x_0)


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_numbers_and_tensors_of_times_give_the_same_levels(path: NoisePath) -> None:
    times = [step.t for step in make_steps(path, 7)] + [0]
    alphas, sigmas = path.alpha_sigma(
        torch.tensor(times, dtype=torch.int64 if path.kind == "ddpm" else torch.float64)
    )
    assert list(zip(alphas.tolist(), sigmas.tolist(), strict=True)) == [path.alpha_sigma(t) for t in times]


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_step_has_the_levels_of_both_times(path: NoisePath) -> None:
    for step in make_steps(path, 3):
        assert (step.alpha_t, step.sigma_t) == path.alpha_sigma(step.t)
        assert (step.alpha_s, step.sigma_s) == path.alpha_sigma(step.s)


@pytest.mark.parametrize("schedule", list(schedules.BETA_SCHEDULES))
def test_zero_terminal_snr_is_exact_and_refuses_epsilon(schedule: str) -> None:
    path = DDPMPath(schedule=schedule, zero_terminal_snr=True)
    assert path.alpha_sigma(path.final_time) == (0.0, 1.0)
    assert path.half_log_snr(path.final_time) == -math.inf
    with pytest.raises(ValueError, match="'epsilon' does not determine"):
        path.check_prediction_type("epsilon")
    path.check_prediction_type("v_prediction")
    replace(path, zero_terminal_snr=False).check_prediction_type("epsilon")


def test_flow_refuses_epsilon() -> None:
    with pytest.raises(ValueError, match="'epsilon' does not determine"):
        FlowPath().check_prediction_type("epsilon")
    for prediction_type in ("sample", "v_prediction", "velocity"):
        FlowPath().check_prediction_type(prediction_type)


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_path_comes_back_from_json(path: NoisePath) -> None:
    back = make_path(json.loads(json.dumps(path.to_dict())))
    assert back == path
    assert back.alpha_sigma(path.final_time) == path.alpha_sigma(path.final_time)


CHANGES: dict[str, dict[str, Any]] = {
    "ddpm": {
        "schedule": "linear",
        "n_timesteps": 900,
        "beta_start": 0.001,
        "beta_end": 0.01,
        "zero_terminal_snr": True,
    },
    "flow": {"time_distribution": "uniform", "logit_mean": 0.5, "logit_std": 2.0, "shift": 3.0},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CHANGES for name in CHANGES[kind]])
def test_every_argument_changes_an_output(kind: str, name: str) -> None:
    def outputs(path: NoisePath) -> list[float]:
        times = path.sample_times(5, generator=torch.Generator().manual_seed(0))
        return [*times.double().tolist(), *path.alpha_sigma(times)[0].tolist()]

    default = PATHS[kind]()
    assert set(CHANGES[kind]) == {field.name for field in fields(default)}
    assert outputs(replace(default, **{name: CHANGES[kind][name]})) != outputs(default)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"kind": "edm"}, "kind of the noise path is 'edm'.*ddpm.*flow"),
        ({}, "kind of the noise path is None"),
        (
            {"kind": "ddpm", "beta_stat": 0.1},
            "ddpm path 'beta_stat'.*Did you mean 'beta_start'",
        ),
        ({"kind": "ddpm", "schedule": "quadratic"}, "schedule is 'quadratic': choose from"),
        ({"kind": "ddpm", "n_timesteps": 0}, "n_timesteps is 0"),
        ({"kind": "ddpm", "n_timesteps": 1, "zero_terminal_snr": True}, "n_timesteps is 1"),
        ({"kind": "ddpm", "beta_start": 0.5}, "beta_start is 0.5 and beta_end 0.012"),
        ({"kind": "ddpm", "beta_end": 1.0}, "beta_end 1.0"),
        ({"kind": "flow", "time_distribution": "beta"}, "time_distribution is 'beta'"),
        ({"kind": "flow", "logit_std": 0.0}, "logit_std 0.0"),
        ({"kind": "flow", "logit_mean": math.nan}, "logit_mean is nan"),
        ({"kind": "flow", "shift": -1.0}, "shift -1.0"),
    ],
)
def test_bad_arguments_are_refused(description: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_path(description)


def test_times_outside_the_path_are_refused() -> None:
    for t in (-1, 1001, 0.5):
        with pytest.raises(ValueError, match="integer times 0 to 1000"):
            DDPMPath().alpha_sigma(t)
    with pytest.raises((IndexError, RuntimeError)):
        DDPMPath().alpha_sigma(torch.tensor([-1]))
    with pytest.raises(ValueError, match="times from 0 to 1"):
        FlowPath().alpha_sigma(1.5)


def test_ddpm_times_are_even_on_one_to_the_last(generator: torch.Generator) -> None:
    path, n = DDPMPath(n_timesteps=5), 50_000
    times = path.sample_times(n, generator=generator)
    counts = torch.bincount(times, minlength=6)
    assert counts[0] == 0
    assert len(counts) == 6
    assert (counts[1:] - n / 5).abs().max() < 4 * math.sqrt(n * 0.2 * 0.8)
    assert torch.equal(times, path.sample_times(n, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_times_are_logit_normal_after_the_shift(shift: float, generator: torch.Generator) -> None:
    n = 50_000
    path = FlowPath(logit_mean=0.4, logit_std=0.8, shift=shift)
    times = path.sample_times(n, generator=generator)
    logits = torch.logit(times) - math.log(shift)
    assert abs(float(logits.mean()) - 0.4) < 4 * 0.8 / math.sqrt(n)
    assert abs(float(logits.std()) - 0.8) < 4 * 0.8 / math.sqrt(2 * n)
    assert float(times.min()) > 0
    assert float(times.max()) < 1


def test_uniform_flow_times_are_uniform(generator: torch.Generator) -> None:
    n = 50_000
    times = FlowPath(time_distribution="uniform").sample_times(n, generator=generator)
    assert abs(float(times.mean()) - 0.5) < 4 / math.sqrt(12 * n)
    assert abs(float((times < 0.1).double().mean()) - 0.1) < 4 * math.sqrt(0.09 / n)


def test_network_times_follow_the_convention_of_known_weights() -> None:
    assert DDPMPath().network_time(1) == 0
    assert DDPMPath().network_time(torch.tensor([1000, 1])).tolist() == [999, 0]
    assert FlowPath().network_time(1.0) == 1000


@pytest.mark.parametrize("path", ALL_PATHS, ids=name_of)
def test_time_at_inverts_half_log_snr(path: NoisePath) -> None:
    for step in make_steps(path, 9)[1:]:
        assert path.time_at(path.half_log_snr(step.t)) == pytest.approx(step.t, rel=1e-12)
    low, high = path.half_log_snr_range
    assert -math.inf < low < high < math.inf


def test_time_at_takes_the_nearest_entry() -> None:
    path = DDPMPath()
    upper, lower = path.half_log_snr(300), path.half_log_snr(301)
    assert path.time_at(0.6 * upper + 0.4 * lower) == 300
    assert path.time_at(0.4 * upper + 0.6 * lower) == 301
    assert path.time_at(100.0) == 1
    assert path.time_at(-100.0) == 1000


SCHEDULES_OF_DIFFUSERS = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
    "sigmoid": "sigmoid",
}


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("schedule", list(SCHEDULES_OF_DIFFUSERS))
def test_tables_agree_with_diffusers(schedule: str, zero_terminal_snr: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=SCHEDULES_OF_DIFFUSERS[schedule],
        beta_start=1e-4,
        beta_end=0.02,
        rescale_betas_zero_snr=zero_terminal_snr,
    )
    path = DDPMPath(schedule=schedule, beta_start=1e-4, beta_end=0.02, zero_terminal_snr=zero_terminal_snr)
    alphas, _ = path.alpha_sigma(torch.arange(1, 1001))
    # float32 products of 1000 factors: their rounding error is about 1000 * 2^-24.
    torch.testing.assert_close((alphas**2).float(), scheduler.alphas_cumprod, rtol=0, atol=2e-6)
