"""Bad steps: counted, borne, rolled back, and in the end a clear stop."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import PatchDiscriminator, PatchDiscriminatorConfig, VQVAEConfig
from medldm.training import (
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainer,
    TrainingLog,
    TrainingStateHandler,
    average_weights,
    training_loader,
)
from medldm.training.resume.divergence import (
    DivergenceConfig,
    DivergenceGuard,
    RollBackError,
    TrainingDivergedError,
)
from medldm.training.resume.state_files import read_folder
from medldm.training.resume.state_tree import flatten_state


def record(guard: DivergenceGuard, pattern: str) -> None:
    for letter in pattern:
        guard.record(is_bad=letter == "x", cases=[4, 17])


def test_bad_steps_in_a_row_are_borne_up_to_their_number(caplog) -> None:
    guard = DivergenceGuard(DivergenceConfig(max_in_a_row=2, max_share=1.0))
    record(guard, "xx.xx.xx")
    assert "training cases [4, 17]" in caplog.text
    with pytest.raises(RollBackError, match="3 bad steps in a row"):
        record(guard, "x")


def test_the_share_is_taken_of_the_last_steps() -> None:
    guard = DivergenceGuard(DivergenceConfig(max_share=0.2, window=10))
    record(guard, ("x" + 4 * ".") * 20)
    with pytest.raises(RollBackError, match=r"3 among the last 10 \(2 are borne\)"):
        record(guard, "x.x")


def test_the_default_share_is_one_in_a_hundred() -> None:
    guard = DivergenceGuard()
    record(guard, ("x" + 99 * ".") * 10)
    with pytest.raises(RollBackError):
        record(guard, ("x" + 98 * ".") * 10 + "x.x")


def test_after_too_many_rollbacks_the_training_stops() -> None:
    guard = DivergenceGuard(DivergenceConfig(max_rollbacks=2))
    for _ in range(2):
        guard.roll_back(RollBackError("why"))
    with pytest.raises(TrainingDivergedError, match=r"stops: why, also after 2 returns"):
        guard.roll_back(RollBackError("why"))


def test_a_state_saved_before_a_rollback_does_not_forget_it() -> None:
    guard = DivergenceGuard(DivergenceConfig(max_in_a_row=1, max_share=1.0))
    record(guard, "..x")
    state = guard.state_dict()
    guard.roll_back(RollBackError("why"))
    guard.load_state_dict(state)
    assert guard.n_rollbacks == 1
    with pytest.raises(RollBackError):
        record(guard, "x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_share": 1.5}, "max_share is 1.5"),
        ({"max_in_a_row": -1}, "max_in_a_row is -1"),
        ({"window": 0}, "window is 0"),
    ],
)
def test_impossible_settings_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        DivergenceConfig(**options)


CPU = torch.device("cpu")
N_BATCHES = 4


class PlantedLoss(AutoencoderLoss):
    """Give NaN as the loss of some calls."""

    bad: Collection[int] = ()
    n_calls = 0

    def for_autoencoder(self, output, volume, *, discriminator, shard=None):
        self.n_calls += 1
        terms = super().for_autoencoder(output, volume, discriminator=discriminator)
        if self.n_calls in self.bad:
            terms["loss"] = terms["loss"] + torch.nan
        return terms


def make_trainer(folder: Path, *, epochs: int = 2, volumes=None, bad: Collection[int] = (), **keeping: Any):
    """Build the training of a tiny VQ-VAE with a discriminator, four batches an epoch."""
    torch.manual_seed(0)
    network = make_autoencoder(
        VQVAEConfig(down_channels=(4, 8), n_groups=4, mid_attention=False, n_res_blocks=1, n_codes=8)
    )
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    loss = PlantedLoss(AutoencoderLossConfig(adversarial_start=0))
    loss.bad = bad
    data = (
        [{"image": torch.rand(1, 8, 8, 8) * 2 - 1} for _ in range(N_BATCHES)] if volumes is None else volumes
    )
    log = TrainingLog(folder / "logs")
    state_handler = TrainingStateHandler(folder / "state", handlers=[log], **keeping)
    return AutoencoderTrainer(
        CPU,
        epochs,
        training_loader(data, batch_size=1, seed=0),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-2),
        loss=loss,
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.AdamW(discriminator.parameters(), lr=1e-3),
        average=average_weights(network, 0.9),
        train_handlers=[log, state_handler],
    )


def weights_after_each_batch(trainer) -> list[dict[str, torch.Tensor]]:
    """Collect network (with its codebook), average and optimiser states, from before the first batch on."""
    found: list[dict[str, torch.Tensor]] = []

    def collect(engine) -> None:
        names = ("network", "average", "optimiser")
        found.append(flatten_state({name: trainer.training_state()[name] for name in names})[0])

    trainer.add_event_handler(Events.STARTED, collect)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, collect)
    return found


def plant_in_gradient(trainer) -> None:
    weight = next(trainer.state_parts()["network"].parameters())

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return torch.full_like(gradient, torch.nan) if trainer.state.iteration == 3 else gradient

    weight.register_hook(spoil)


@pytest.mark.parametrize("where", ["volume", "gradient", "loss"])
def test_a_bad_step_changes_nothing_and_training_goes_on(tmp_path, caplog, where) -> None:
    volumes = [{"image": torch.rand(1, 8, 8, 8)} for _ in range(N_BATCHES)]
    trainer = make_trainer(tmp_path, epochs=1, volumes=volumes, bad=[3] if where == "loss" else [])
    case = next(iter(islice(training_loader(volumes, batch_size=1, seed=0).batch_sampler.sampler, 2, None)))
    if where == "volume":
        volumes[case]["image"][0, 0, 0, 0] = torch.nan
    if where == "gradient":
        plant_in_gradient(trainer)
    states = weights_after_each_batch(trainer)
    trainer.run()
    is_changed = [
        any(not torch.equal(before[name], after[name]) for name in after if name in before)
        for before, after in pairwise(states)
    ]
    assert is_changed == [True, True, False, True]
    assert all(tensor.isfinite().all() for tensor in states[-1].values())
    assert f"training cases [{int(case)}]" in caplog.text
    assert trainer.average.n_averaged == 3
    history = json.loads((tmp_path / "logs" / "history.jsonl").read_text().splitlines()[0])
    assert history.get("bad_batches") == (None if where == "gradient" else 1)


def cases_of(trainer) -> list[tuple[int, int]]:
    """Collect (batch, case) of all batches."""
    found: list[tuple[int, int]] = []
    sampler = trainer.data_loader.batch_sampler.sampler

    def collect(engine) -> None:
        n = engine.state.iteration
        found.append((n, *sampler.cases((n - 1) % N_BATCHES, (n - 1) % N_BATCHES + 1)))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, collect)
    return found


def test_bad_steps_in_a_row_roll_back_to_another_order(tmp_path, caplog) -> None:
    divergence = DivergenceConfig(max_in_a_row=1, max_share=1.0)
    calm = make_trainer(tmp_path / "calm", epochs=4, divergence=divergence, every_steps=2)
    orders = cases_of(calm)
    calm.run()
    trainer = make_trainer(tmp_path / "bad", epochs=4, bad=[7, 8], divergence=divergence, every_steps=2)
    found = cases_of(trainer)
    trainer.run()
    assert "back to the last saved state" in caplog.text
    numbers = [n for n, _ in found]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    after = found[7:]
    for epoch in range(4):
        seen = [case for n, case in found[:6] + after if (n - 1) // N_BATCHES == epoch]
        assert sorted(seen) == list(range(N_BATCHES))
    assert found[:6] == orders[:6]
    assert after != orders[6:]
    assert trainer.state_handler.guard.n_rollbacks == 1
    assert all(weight.isfinite().all() for weight in trainer.average.parameters())


def test_a_training_that_stays_bad_stops_with_the_reason(tmp_path) -> None:
    divergence = DivergenceConfig(max_in_a_row=1, max_share=1.0, max_rollbacks=2)
    trainer = make_trainer(tmp_path, bad=range(4, 1000), divergence=divergence, every_steps=1)
    with pytest.raises(TrainingDivergedError, match=r"2 bad steps in a row .* also after 2 returns"):
        trainer.run()
    assert trainer.loss.n_calls == 3 + 3 * 2
    assert next(iter(trainer.state_handler.folders.steps())) == 3
    assert read_folder(trainer.state_handler.folders.steps()[3])["training"]["divergence"]["n_in_a_row"] == 0
