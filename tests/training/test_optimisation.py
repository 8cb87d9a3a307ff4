"""OptimiserStep: accumulation, clipping, schedule."""

from __future__ import annotations

import pytest
import torch

from medldm.training import OptimiserStep, make_schedule
from medldm.training.precision import make_scaler

CPU = torch.device("cpu")


def make_step(**options) -> tuple[torch.nn.Parameter, OptimiserStep]:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    return weight, OptimiserStep(optimizer, scaler=make_scaler(CPU, "float32"), **options)


def test_accumulated_batches_step_by_their_mean_gradient() -> None:
    weight, step = make_step(accumulation_steps=2, gradient_clip=100.0)
    stepped = [step((weight * g).sum(), index=i, epoch_length=4) for i, g in enumerate((1.0, 3.0, 5.0, 5.0))]
    assert stepped == [False, True, False, True]
    assert torch.equal(weight.detach(), torch.full((2,), -(2.0 + 5.0)))


def test_the_end_of_an_epoch_steps_with_what_there_is() -> None:
    weight, step = make_step(accumulation_steps=2, gradient_clip=100.0)
    stepped = [step((weight * g).sum(), index=i, epoch_length=3) for i, g in enumerate((1.0, 3.0, 7.0))]
    assert stepped == [False, True, True]
    assert torch.equal(weight.detach(), torch.full((2,), -(2.0 + 7.0)))


def test_gradients_are_clipped_to_the_norm() -> None:
    weight, step = make_step(gradient_clip=0.5)
    step((weight * torch.tensor([3.0, 4.0])).sum(), index=0, epoch_length=1)
    assert torch.allclose(weight.detach(), -0.5 * torch.tensor([0.6, 0.8]), atol=1e-5)


def test_a_step_without_a_finite_gradient_is_left_out_and_logged(caplog) -> None:
    weight, step = make_step()
    assert not step((weight * torch.tensor([float("nan"), 1.0])).sum(), index=0, epoch_length=2)
    assert torch.equal(weight.detach(), torch.zeros(2))
    assert "left out" in caplog.text
    assert step(weight.sum(), index=1, epoch_length=2)
    assert torch.isfinite(weight).all()


def test_schedules_warm_up_and_fall() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, kind="cosine", warmup_steps=4, total_steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] < rates[1] < rates[3]
    assert rates[-1] < 0.03
    with pytest.raises(ValueError, match="choose from"):
        make_schedule(optimizer, kind="linear")


def test_no_accumulation_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_step(accumulation_steps=0)
