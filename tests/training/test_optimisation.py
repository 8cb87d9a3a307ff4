"""OptimiserStep: accumulation, clipping, schedule."""

from __future__ import annotations

import pytest
import torch

from medldm.training import OptimiserStep, make_schedule
from medldm.training.precision import make_scaler
from medldm.training.resume.state_tree import flatten_state, unflatten_state

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
    schedule = make_schedule(optimizer, warmup_steps=4, total_steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] < rates[1] < rates[3]
    assert rates[-1] < 0.03


def test_no_accumulation_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_step(accumulation_steps=0)


NAN = float("nan")


def test_a_bad_step_leaves_optimiser_schedule_and_buffers_as_they_were() -> None:
    module = torch.nn.Linear(1, 1)
    module.register_buffer("codes", torch.zeros(2))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    schedule = make_schedule(optimizer, warmup_steps=5, total_steps=100)
    step = OptimiserStep(
        optimizer, scaler=make_scaler(CPU, "float32"), schedule=schedule, accumulation_steps=2
    )

    def take(index: int, factor: float) -> bool:
        step.prepare(module, index=index)
        module.codes.add_(factor)
        return step(module(torch.ones(1, 1)).sum() * factor, index=index, epoch_length=6)

    assert [take(0, 1.0), take(1, 1.0)] == [False, True]
    before = flatten_state({"step": step.state_dict(), "module": dict(module.state_dict())})
    assert [take(2, NAN), take(3, 1.0)] == [False, False]
    assert step.is_bad
    after = flatten_state({"step": step.state_dict(), "module": dict(module.state_dict())})
    assert after[1] == before[1]
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])
    assert [take(4, 1.0), take(5, 1.0)] == [False, True]
    assert not step.is_bad


def test_a_loss_that_is_not_finite_is_bad_even_with_a_finite_gradient() -> None:
    weight, step = make_step()
    assert not step(weight.sum() + NAN, index=0, epoch_length=1)
    assert step.is_bad
    assert torch.equal(weight.detach(), torch.zeros(2))


def test_a_scale_too_large_for_half_precision_is_not_a_bad_step() -> None:
    """The scaler lowers its scale and tries again; a loss that is not finite stays bad."""
    weight = torch.nn.Parameter(torch.zeros(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    step = OptimiserStep(torch.optim.SGD([weight], lr=1.0), scaler=scaler)
    assert not step((weight * 100).sum(), index=0, epoch_length=3)
    assert not step.is_bad
    assert scaler.get_scale() == 2.0**126
    assert not step(weight.sum() * NAN, index=1, epoch_length=3)
    assert step.is_bad


def test_a_step_is_complete_only_between_groups() -> None:
    weight, step = make_step(accumulation_steps=2)
    found = []
    for index in range(3):
        step(weight.sum(), index=index, epoch_length=3)
        found.append(step.is_complete)
    assert found == [False, True, True]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_loaded_step_goes_on_as_the_saved_one(kind) -> None:
    def make():
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2)
        optimizer = kind(module.parameters(), lr=0.1)
        schedule = make_schedule(optimizer, warmup_steps=3, total_steps=9)
        return module, OptimiserStep(optimizer, scaler=make_scaler(CPU, "float32"), schedule=schedule)

    def train(module, step, places) -> None:
        for i in places:
            step(module(torch.full((1, 3), float(i))).square().sum(), index=i, epoch_length=6)

    one, other = make(), make()
    train(*one, range(6))
    train(*other, range(3))
    third = make()
    third[0].load_state_dict(other[0].state_dict())
    third[1].load_state_dict(unflatten_state(*flatten_state(other[1].state_dict())))
    train(*third, range(3, 6))
    assert torch.equal(third[0].weight, one[0].weight)


def test_settings_that_loading_would_replace_are_compared() -> None:
    _, step = make_step()
    state = step.state_dict()
    _, other = make_step()
    other.optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=r"weight_decay is 0.1 here and 0 in the saved state"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="has a learning-rate schedule and this training none"):
        step.load_state_dict({**state, "schedule": {}})
