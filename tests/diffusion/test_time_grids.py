"""Time grids: every step begins where the one before ended."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from medldm.diffusion import DDPMPath, FlowPath, NoisePath, make_steps, steps_from_level
from medldm.diffusion.time_grids import GRIDS

PATHS: list[NoisePath] = [
    DDPMPath(),
    DDPMPath(schedule="cosine"),
    DDPMPath(zero_terminal_snr=True),
    DDPMPath(n_timesteps=1000, schedule="linear", beta_start=1e-4, beta_end=0.02),
    FlowPath(),
    FlowPath(shift=3.0),
]


@pytest.mark.parametrize("grid", list(GRIDS))
@pytest.mark.parametrize("path", PATHS, ids=lambda path: "-".join(map(str, path.to_dict().values())))
def test_previous_time_is_the_grids_next_one(path: NoisePath, grid: str) -> None:
    is_cheap = grid in ("trailing", "uniform") and path in (DDPMPath(), FlowPath())
    for num_steps in range(1, 1001) if is_cheap else [*range(1, 30), *range(30, 1000, 97), 999, 1000]:
        steps = make_steps(path, num_steps, grid=grid)
        pairs = [(step.t, step.s) for step in steps]
        assert len(pairs) == num_steps
        assert pairs[0][0] == path.final_time
        assert pairs[-1][1] == 0
        assert all(t > s for t, s in pairs)
        assert all(before[1] == after[0] for before, after in pairwise(pairs))
        if path.kind == "ddpm":
            assert all(isinstance(time, int) for pair in pairs for time in pair)


@pytest.mark.parametrize("grid", list(GRIDS))
def test_flow_time_steps_sum_to_one(grid: str) -> None:
    for num_steps in (1, 2, 3, 7, 10, 30, 333, 1000):
        assert sum(step.t - step.s for step in make_steps(FlowPath(), num_steps, grid=grid)) == pytest.approx(
            1, abs=1e-12
        )


def test_all_times_are_used_when_there_are_as_many_steps() -> None:
    for grid in GRIDS:
        path = DDPMPath(n_timesteps=50)
        assert make_steps(path, 50, grid=grid) == [path.step(t, t - 1) for t in range(50, 0, -1)]


def test_trailing_grid_is_that_of_the_paper() -> None:
    steps = make_steps(DDPMPath(), 10, grid="trailing")
    assert [step.t for step in steps] == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]


def test_uniform_grid_reaches_the_first_network_time() -> None:
    assert [step.t for step in make_steps(DDPMPath(), 4, grid="uniform")] == [1000, 667, 334, 1]
    assert make_steps(FlowPath(), 4, grid="uniform")[-1].t == pytest.approx(1e-3, rel=1e-12)


def test_log_snr_grid_is_even_in_lambda() -> None:
    for path, tolerance in (
        (FlowPath(), 1e-9),
        (DDPMPath(n_timesteps=200_000, beta_start=4e-6, beta_end=6e-5), 2e-3),
    ):
        steps = make_steps(path, 12, grid="log_snr")
        levels = [path.half_log_snr(step.t) for step in steps][1:]
        steps = [after - before for before, after in pairwise(levels)]
        assert steps == pytest.approx([sum(steps) / len(steps)] * len(steps), rel=tolerance)


def test_karras_grid_is_even_in_the_seventh_root_of_the_noise_level() -> None:
    path = FlowPath()
    roots = [math.exp(-path.half_log_snr(step.t) / 7) for step in make_steps(path, 12, grid="karras")][1:]
    steps = [after - before for before, after in pairwise(roots)]
    assert steps == pytest.approx([sum(steps) / len(steps)] * len(steps), rel=1e-9)


def test_shift_moves_the_even_grids_towards_noise() -> None:
    for grid in ("trailing", "uniform"):
        plain = make_steps(FlowPath(), 4, grid=grid)
        shifted = make_steps(FlowPath(shift=3.0), 4, grid=grid)
        assert [step.t for step in shifted] == pytest.approx(
            [3 * step.t / (1 + 2 * step.t) for step in plain], rel=1e-12
        )


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="grid is 'leading': choose from"):
        make_steps(DDPMPath(), 10, grid="leading")
    with pytest.raises(ValueError, match="num_steps is 0: at least 1"):
        make_steps(FlowPath(), 0)
    with pytest.raises(ValueError, match="num_steps is 11: this path has 10 steps at most"):
        make_steps(DDPMPath(n_timesteps=10), 11)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("level", [1e-9, 0.05, 0.5, 2.0, 1e9])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: "-".join(map(str, path.to_dict().values())))
def test_steps_from_a_level_begin_at_its_noise_and_end_at_the_data(path, level, num_steps) -> None:
    steps = steps_from_level(path, level, num_steps)
    assert 1 <= len(steps) <= num_steps
    assert all(step.t > step.s for step in steps)
    assert all(before.s == after.t for before, after in pairwise(steps))
    assert steps[-1].s == 0
    low, high = path.half_log_snr_range
    wanted = min(max(-math.log(level), low), high)
    # A path of whole steps has the level up to half of one.
    assert path.half_log_snr(steps[0].t) == pytest.approx(wanted, abs=1e-9 if path.kind == "flow" else 0.35)
    assert steps[0].t >= path.first_time * (1 - 1e-9)


def test_a_level_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="level is 0"):
        steps_from_level(FlowPath(), 0, 1)
