"""When a made-up series of validations ends a training, and that it resumes as it would have gone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from benchmarks.tiny_trainings import LENGTH, make_first_stage, make_second_stage
from medldm.errors import ConfigError
from medldm.seeds import seed_everything
from medldm.training import AutoencoderTrainingConfig, make_schedule
from medldm.training.patience import DecayPhase, Patience
from tests.rank_processes import run_on_ranks
from tests.training.rank_trainings import load, straight_and_stopped
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after


def rates(
    total: int, *, decay: DecayPhase | None, begin_at: int | None = None, warmup: int = 1
) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, warmup_steps=warmup, total_steps=total, decay=decay)
    found = []
    for step in range(total):
        if step == begin_at:
            decay.began = step
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_stays_and_falls_on_a_line_in_the_last_share() -> None:
    found = rates(100, decay=DecayPhase(total_steps=100, share=0.2), warmup=10)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:81] == [1.0] * 71
    assert found[80:] == pytest.approx([1 - 0.99 * step / 20 for step in range(20)])


def test_an_early_last_phase_is_the_same_share_of_the_shorter_training() -> None:
    decay = DecayPhase(total_steps=100, share=0.2)
    found = rates(100, decay=decay, begin_at=40)
    assert decay.length == 10 == round(0.2 * (40 + 10))
    assert found[40:51] == pytest.approx([1 - 0.99 * step / 10 for step in range(11)])
    decay.began = 95
    assert decay.length == 5  # never beyond the planned end


@pytest.mark.parametrize("share", [0.0, 1.0, -1])
def test_a_last_phase_of_nothing_or_all_is_refused(share) -> None:
    with pytest.raises(ConfigError, match="decay_share is"):
        DecayPhase(total_steps=10, share=share)


def judge(
    series: list[float], *, patience: int = 2, margin: float = 0.01, larger: bool = False
) -> tuple[Any, Any]:
    """Validate a made-up series, one value an epoch of 10 steps, 100 epochs planned."""
    evaluator = Engine(lambda *_: None)
    step = SimpleNamespace(schedule=SimpleNamespace(last_epoch=0), accumulation_steps=1)
    state = SimpleNamespace(epoch=0, max_epochs=100, epoch_length=10)
    trainer = SimpleNamespace(state=state, optimiser_steps=[step])
    rule = Patience(
        evaluator,
        metric="m",
        larger_is_better=larger,
        patience=patience,
        min_improvement=margin,
        decay=DecayPhase(total_steps=1000, share=0.2),
    )
    rule.attach(trainer)
    for value in series:
        state.epoch += 1
        step.schedule.last_epoch += 10
        evaluator.state.metrics = {"m": value}
        rule._judge(evaluator)
        rule._judge(evaluator)  # a validation that is run again counts once
    return rule, trainer


@pytest.mark.parametrize(
    ("series", "ended_at"),
    [
        ([10, 9, 8, 8, 8], 5),
        ([10, 9.95, 9.91, 9.89], 3),  # the third is not yet the margin below the first
        ([10, 9.95, 9.89, 9.85, 9.80], 5),
        ([10, float("nan"), 12], 3),
        ([10, 9, 8, 7, 6, 5], None),
    ],
)
def test_patience_ends_where_the_series_says(series, ended_at) -> None:
    rule, trainer = judge(series)
    if ended_at is None:
        assert rule.end_epoch is None and trainer.state.max_epochs == 100
        return
    assert rule.decay.began == 10 * ended_at
    last_phase = -(-rule.decay.length // 10)
    assert rule.end_epoch == trainer.state.max_epochs == ended_at + last_phase


def test_a_larger_metric_is_compared_the_other_way() -> None:
    assert judge([20, 21, 22, 22.1, 22.1], larger=True)[0].decay.began == 50
    assert judge([20, 21, 22, 23, 24], larger=True)[0].decay.began is None


def test_in_the_planned_last_phase_nothing_is_cut_short() -> None:
    rule, trainer = judge([float(value) for value in range(100, 10, -1)] + [11.0] * 5)
    assert trainer.state.max_epochs == 100 and rule.decay.began is None


IMPATIENT = {"n_epochs": 12, "patience": 1, "min_improvement": 10.0, "decay_share": 0.5}
"""No validation improves by ten times the value: the second one begins a last phase of 2 epochs."""


@pytest.mark.parametrize("make", [make_first_stage, make_second_stage])
def test_a_training_ends_early_and_stays_ended(make, tmp_path: Path) -> None:
    trainer = make(tmp_path, settings=IMPATIENT)
    trainer.run()
    assert trainer.state.epoch == 4 and trainer.state.iteration == 4 * LENGTH
    rate = trainer.optimiser_steps[0].optimizer.param_groups[0]
    assert rate["lr"] == pytest.approx(0.01 * rate["initial_lr"])
    again = make(tmp_path, settings=IMPATIENT)
    again.run()
    assert again.state.iteration == 4 * LENGTH
    assert differences(everything(trainer), everything(again)) == []


@pytest.mark.parametrize("after", [2 * LENGTH - 1, 2 * LENGTH, 2 * LENGTH + 1, 3 * LENGTH + 1])
def test_killed_around_the_start_of_the_last_phase_it_goes_on_bit_for_bit(after: int, tmp_path: Path) -> None:
    straight = make_second_stage(tmp_path / "straight", settings=IMPATIENT)
    straight.run()
    run_killed_after(make_second_stage(tmp_path / "killed", settings=IMPATIENT), after)
    seed_everything(99)
    last = make_second_stage(tmp_path / "killed", settings=IMPATIENT, resume="must")
    last.run()
    assert last.state.iteration == 4 * LENGTH
    assert differences(everything(straight), everything(last)) == []


def test_a_sufficient_validation_ends_a_first_stage_for_good(tmp_path: Path) -> None:
    settings = {"n_epochs": 5, "sufficient_psnr": 0.1}
    trainer = make_first_stage(tmp_path, settings=settings)
    trainer.run()
    assert trainer.state.epoch == 1
    again = make_first_stage(tmp_path, settings=settings)
    again.run()
    assert again.state.iteration == LENGTH and differences(everything(trainer), everything(again)) == []
    never = make_first_stage(tmp_path / "never", settings=settings | {"n_epochs": 2, "sufficient_psnr": 500})
    never.run()
    assert never.state.epoch == 2


def test_less_than_nothing_is_not_enough() -> None:
    with pytest.raises(ConfigError, match="sufficient_psnr"):
        AutoencoderTrainingConfig(sufficient_psnr=-1)


@pytest.mark.slow
def test_two_processes_end_together_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    work = partial(straight_and_stopped, make=partial(make_second_stage, settings=IMPATIENT), folder=tmp_path)
    assert run_on_ranks(work, tmp_path / "ranks") == [0, 0]
    (terms, first), (_, second) = (load(tmp_path / f"straight_{rank}.pt") for rank in range(2))
    assert len(terms) == 4 * LENGTH
    assert differences(first, second) == []
    for rank in range(2):
        code, _, state = load(tmp_path / f"stopped_{rank}.pt")
        assert code == 75 and differences(first, state) == []
