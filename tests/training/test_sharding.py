"""A denoiser that is dealt out to two processes, with its optimiser and average, trains as a whole one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim.swa_utils import AveragedModel

from benchmarks.tiny_trainings import EPOCHS, LENGTH, make_second_stage
from medldm.conditioning import Conditions
from medldm.latent_diffusion.model_files import load_latent_diffusion
from medldm.training import OptimiserStep, average_weights
from medldm.training.sharding import (
    clip_gradients,
    gather_state,
    shard_optimiser_state,
    shard_state,
    share_denoiser,
    whole,
    whole_weights,
)
from tests.rank_processes import run_on_ranks
from tests.training.rank_trainings import everything_of, follow, load, smooth, straight_and_stopped
from tests.training.resume.training_states import (
    differences,
    everything,
    history,
    largest_difference,
    numbers,
)
from tests.training.small_trainings import run_killed_after

CPU = torch.device("cpu")


def go_on_together(rank: int, make: Any, folder: Path) -> None:
    """Go on, sharded, with the training that one process has begun."""
    trainer = make(folder / "begun_alone", resume="must")
    trainer.run()
    torch.save(everything_of(trainer), folder / f"together_{rank}.pt")


@pytest.mark.slow
def test_a_sharded_training_is_that_of_one_process_and_goes_on_bit_for_bit(tmp_path) -> None:
    """Also from the state of one process, and one process from its state."""
    make = partial(smooth, make_second_stage)
    sharded = partial(make, sharding="fsdp", save_batches=100)
    alone = make(tmp_path / "alone")
    expected = follow(alone)
    alone.run()
    run_killed_after(make(tmp_path / "begun_alone"), 5)
    work = partial(straight_and_stopped, make=sharded, folder=tmp_path)
    assert run_on_ranks(work, tmp_path / "ranks") == [0, 0]
    assert run_on_ranks(partial(go_on_together, make=sharded, folder=tmp_path), tmp_path / "again") == [0, 0]
    (terms, straight), (terms_of_second, _) = (load(tmp_path / f"straight_{rank}.pt") for rank in range(2))
    assert len(terms) == EPOCHS * LENGTH
    assert terms == terms_of_second
    for own, other in zip(terms, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    for own, other in zip(
        straight["history"], history(tmp_path / "alone" / "logs" / "diffusion"), strict=True
    ):
        assert numbers(own) == pytest.approx(numbers(other), rel=1e-4)
    assert largest_difference(straight, everything(alone)) < 1e-4
    code, iteration, stopped = load(tmp_path / "stopped_0.pt")
    assert (code, iteration) == (75, LENGTH + 1)
    assert differences(straight, stopped) == []
    assert largest_difference(straight, load(tmp_path / "together_0.pt")) < 1e-4
    one_goes_on = make(tmp_path / "copied", resume="must")
    one_goes_on.run()
    assert largest_difference(straight, everything(one_goes_on)) < 1e-4
    for name in ("latent_diffusion", "latent_diffusion_last"):
        models = [
            load_latent_diffusion(tmp_path / run / f"{name}.safetensors")[0] for run in ("straight", "alone")
        ]
        assert largest_difference(*(dict(model.state_dict()) for model in models)) < 1e-4


@dataclass
class Training:
    """A denoiser with its average and its optimiser."""

    denoiser: nn.Module
    average: AveragedModel
    step: OptimiserStep

    def take_step(self, x: Tensor) -> tuple[float, bool]:
        """Return the loss and whether the step was left out."""
        self.denoiser.train()
        told = Conditions({"class": torch.tensor([1])})
        drop = {"class": torch.tensor([False])}
        output = self.denoiser(x, torch.full((len(x),), 10.0), told, drop=drop)
        loss = output.square().mean()
        if self.step(loss, index=0, epoch_length=1):
            self.average.update_parameters(self.denoiser)
        return loss.item(), self.step.is_bad

    def state(self) -> dict[str, Any]:
        module = getattr(self.denoiser, "module", self.denoiser)
        return {
            "weights": module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": dict(enumerate(self.step.state_dict()["optimizer"]["state"].values())),
        }


def make_training(
    make_model: Any, sharding: str, *, checkpointing: bool = False, scaled: bool = False
) -> Training:
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    denoiser = make_model(("class",)).denoiser
    unet = denoiser.unet
    unet.config = replace(unet.config, checkpointing=checkpointing)
    for level in (*unet.down, *unet.up):
        level.checkpointing = checkpointing
    average = average_weights(denoiser, 0.9)
    called = share_denoiser(denoiser, sharding=sharding, average=average, device=CPU)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-2, eps=1e-2, fused=True)
    return Training(called, average, OptimiserStep(optimizer, scaler=scaler, gradient_clip=0.01))


def count_own(state: Any) -> int:
    """Return how many numbers of nested state this process holds."""
    if isinstance(state, dict):
        return sum(count_own(value) for value in state.values())
    return (state.to_local() if isinstance(state, DTensor) else state).numel()


def train_side_by_side(rank: int, make_model: Any, folder: Path, **options: bool) -> None:
    """Train a sharded and a whole denoiser, a sample in each process; the second step is bad in one."""
    sharded = make_training(make_model, "fsdp", **options)
    reference = make_training(make_model, "ddp")
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        x = torch.randn(2, 3, 5, 4, 4, generator=generator)[rank : rank + 1]
        x = x * float("nan") if (rank, number) == (1, 1) else x
        (loss, is_bad), (expected, was_bad) = sharded.take_step(x), reference.take_step(x)
        assert is_bad == was_bad == (number == 1)
        assert loss == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert 0.4 < count_own(sharded.state()) / count_own(reference.state()) < 0.6
    gathered = gather_state(sharded.state())
    if rank == 0:
        for part in ("weights", "average"):
            assert largest_difference(gathered[part], reference.state()[part]) < 1e-6
    with whole_weights(sharded.average), torch.no_grad():
        x = torch.randn(1, 3, 4, 4, 4, generator=generator)
        told = (x, torch.tensor([5.0]), Conditions({"class": torch.tensor([2])}))
        if rank == 0:
            output, expected = sharded.average.module(*told), reference.average.module(*told)
            assert torch.allclose(output, expected, atol=1e-5)
    assert all(isinstance(weight, DTensor) for weight in sharded.average.parameters())
    (folder / f"done_{rank}").touch()


@pytest.mark.parametrize("options", [{}, {"checkpointing": True, "scaled": True}], ids=["plain", "both"])
def test_each_process_holds_half_and_takes_the_steps_of_a_whole_denoiser(
    make_model, tmp_path, options
) -> None:
    """The norm that clips is that of the whole gradient; a loss that is not finite in one is seen by both.

    Recomputed activations, and float16's scaler, change nothing.
    """
    work = partial(train_side_by_side, make_model=make_model, folder=tmp_path, **options)
    assert run_on_ranks(work, tmp_path / "ranks") == [0, 0]
    assert len(list(tmp_path.glob("done_*"))) == 2


def functional_collectives(seen: CommDebugMode) -> list[str]:
    """Return DTensor's own collectives, of which a process died once; the module gathers by others."""
    return [str(name) for name in seen.get_comm_counts() if "_c10d_functional" in str(name)]


def shard_and_gather(rank: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2,))
    for length in (1, 2, 5):
        values = torch.arange(3.0 * length).reshape(length, 3)
        like = nn.Parameter(distribute_tensor(torch.zeros(length, 3), mesh, [Shard(0)]))
        sharded = shard_state({"a": [1], "b": {"c": values}, "d": values}, {"b": {"c": like}})
        own = sharded["b"]["c"].to_local()
        assert torch.equal(own, values.tensor_split([-(-length // 2)])[rank])
        assert own.untyped_storage().nbytes() == own.nbytes
        assert sharded["d"] is values
        with CommDebugMode() as seen:
            assert torch.equal(whole(sharded["b"]["c"]), values)
            gathered = gather_state(sharded)
            like.grad = shard_state(values, like)
            norm = clip_gradients([like], 0.5)
        assert functional_collectives(seen) == []
        assert norm == pytest.approx(float(values.norm()))
        assert torch.allclose(whole(like.grad), values * 0.5 / values.norm())
        assert gathered["a"] == [1]
        assert torch.equal(gathered["b"]["c"], values) if rank == 0 else gathered["b"]["c"] is None
        kept = shard_optimiser_state({"state": {0: {"step": torch.tensor(3.0), "mean": values}}}, [like])
        assert isinstance(kept["state"][0]["mean"], DTensor)
        assert not isinstance(kept["state"][0]["step"], DTensor)
    with pytest.raises(ValueError, match="only along its first axis"):
        whole(distribute_tensor(values, mesh, [Replicate()]))
    (folder / f"done_{rank}").touch()


def test_what_is_sharded_and_gathered_is_what_it_was(tmp_path) -> None:
    """Also lengths that cannot be dealt out evenly; a process keeps no more than its part in memory."""
    assert run_on_ranks(partial(shard_and_gather, folder=tmp_path), tmp_path / "ranks") == [0, 0]
    assert len(list(tmp_path.glob("done_*"))) == 2


def test_one_process_keeps_all(make_model) -> None:
    training = make_training(make_model, "fsdp")
    assert not any(isinstance(weight, DTensor) for weight in training.denoiser.parameters())
    with pytest.raises(ValueError, match=r"sharding is 'zero': choose from \['ddp', 'fsdp'\]"):
        make_training(make_model, "zero")
