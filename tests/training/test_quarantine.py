"""Bad volumes in a training: named by number, replaced by the next sound case, borne up to a share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset
from monai.transforms import Compose, Transform

from medldm.latent_diffusion.model import make_autoencoder
from medldm.networks import VAEConfig
from medldm.training import AutoencoderTrainer, TrainingStateHandler, encode_cases, training_loader
from medldm.training.losses.reconstruction import AutoencoderLoss
from medldm.training.quarantine import (
    FOUND,
    BadCase,
    GuardedTransforms,
    Quarantine,
    QuarantineError,
)
from medldm.training.volumes import RandomPatchd

N_CASES = 5
SHAPE = (1, 8, 8, 8)


class Load(Transform):
    """Give the volume that a case's number stands for; those of `bad` are bad."""

    def __init__(self, bad: dict[int, str]) -> None:
        self.bad = bad

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        number = case["number"]
        kind = self.bad.get(number)
        if kind == "unreadable":
            raise OSError("/clinic/John_Doe.nii.gz is damaged")
        volume = torch.full(SHAPE if kind != "shape" else (1, 8, 8, 9), number / 10)
        if kind == "nan":
            volume[0, 0, 0, 0] = torch.nan
        return {"image": volume, "class": torch.tensor(0)}


def make_loader(bad: dict[int, str], *, share: float = 0.9, cache: float = 1.0, num_workers: int = 0):
    transforms = GuardedTransforms(Compose([Load(bad), RandomPatchd(("image",), (4, 4, 4))]), size=SHAPE[1:])
    data = CacheDataset([{"number": i} for i in range(N_CASES)], transforms, cache_rate=cache, progress=False)
    quarantine = Quarantine(share)
    return training_loader(data, batch_size=1, seed=0, num_workers=num_workers, quarantine=quarantine)


def numbers(batches: list[dict[str, Any]]) -> list[int]:
    return [round(float(batch["image"].mean()) * 10) for batch in batches]


KINDS = {
    "unreadable": r"cannot be loaded \(OSError\)",
    "nan": "not finite",
    "shape": r"has \(8, 8, 9\) voxels",
}


@pytest.mark.parametrize("cache", [1.0, 0.0], ids=["cached", "read each time"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_sound_case_takes_the_place_of_a_bad_one(kind, cache) -> None:
    sound = numbers(list(make_loader({}, cache=cache)))
    batches = list(make_loader({2: kind, 3: kind}, cache=cache))
    assert numbers(batches) == [4 if number in (2, 3) else number for number in sound]
    found = [pair for batch in batches for pair in batch.get(FOUND, ())]
    assert {number for number, _ in found} == {2, 3}
    with pytest.raises(QuarantineError, match=KINDS[kind]):
        Quarantine().add(*found[0], n_cases=N_CASES)
    assert "John" not in str(found)


def test_a_quarantined_case_is_not_read_again_whatever_became_of_it() -> None:
    loader = make_loader({})
    loader.dataset.quarantine.load_state_dict({"reasons": {2: "was bad"}})
    batches = list(loader)
    assert 2 not in numbers(batches)
    assert not any(FOUND in batch for batch in batches)


def test_the_share_is_of_all_training_cases_and_a_case_counts_once(caplog) -> None:
    quarantine = Quarantine(0.4)
    for number in (1, 1, 3):
        quarantine.add(number, "is bad", n_cases=N_CASES)
    assert caplog.text.count("training case 1 is bad") == 1
    with pytest.raises(QuarantineError, match=r"4 is bad; 3 of 5 training .*max_bad_share bears 0\.4"):
        quarantine.add(4, "is bad", n_cases=N_CASES)
    with pytest.raises(ValueError, match=r"max_bad_share is 1\.0"):
        Quarantine(1.0)


def test_a_cohort_without_a_sound_case_ends() -> None:
    with pytest.raises(QuarantineError, match="none of the 5"):
        list(make_loader(dict.fromkeys(range(N_CASES), "nan")))


def make_trainer(folder: Path, bad: dict[int, str], **loading: Any) -> AutoencoderTrainer:
    torch.manual_seed(0)
    network = make_autoencoder(
        VAEConfig(down_channels=(4, 8), n_groups=4, mid_attention=False, n_res_blocks=1)
    )
    loader = make_loader(bad, **loading)
    state_handler = TrainingStateHandler(folder, every_steps=1, quarantine=loader.dataset.quarantine)
    return AutoencoderTrainer(
        torch.device("cpu"),
        2,
        loader,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters()),
        loss=AutoencoderLoss(),
        train_handlers=[state_handler],
    )


def stop_after(trainer: AutoencoderTrainer, batches: int) -> None:
    def stop(engine: Any) -> None:
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=batches), stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def test_by_default_one_bad_case_ends_the_training_and_the_last_state_stays(tmp_path) -> None:
    trainer = make_trainer(tmp_path, {3: "nan"}, share=0.0)
    with pytest.raises(QuarantineError, match="training case 3 has values that are not finite"):
        trainer.run()
    order = list(make_loader({}).batch_sampler.sampler)
    assert next(iter(trainer.state_handler.folders.steps())) == order.index(3)


def test_quarantine_is_part_of_the_state_and_named_at_the_end(tmp_path, caplog) -> None:
    """The volume is repaired while the training is down: the resumed training does not take it up."""
    caplog.set_level(logging.INFO)
    order = list(make_loader({}).batch_sampler.sampler)
    bad = {order[1]: "nan"}
    straight = make_trainer(tmp_path / "straight", bad)
    straight.run()
    stop_after(make_trainer(tmp_path / "killed", bad), 3)
    resumed = make_trainer(tmp_path / "killed", {})
    resumed.run()
    assert resumed.state_handler.quarantine.numbers == list(bad)
    weights = [list(trainer.state.g_network.parameters()) for trainer in (straight, resumed)]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    assert f"at the end: 1 of 5 training cases are quarantined: {order[1]} (has values" in caplog.text


@pytest.mark.parametrize("directory", ["latents", None])
def test_a_bad_volume_is_found_while_latents_are_cached(
    make_model: Callable[..., Any], tmp_path, directory
) -> None:
    model, cases = make_model(("class",)), [{"number": i} for i in range(N_CASES)]
    folder = None if directory is None else tmp_path / directory
    load = Compose([Load({1: "unreadable", 4: "nan"})])
    quarantine = Quarantine(0.5)
    dataset = encode_cases(model, cases, transform=load, directory=folder, quarantine=quarantine)
    assert quarantine.numbers == [1, 4]
    assert [isinstance(dataset[i], BadCase) for i in range(N_CASES)] == [False, True, False, False, True]
    sound = encode_cases(model, [cases[i] for i in (0, 2, 3)], transform=load, quarantine=Quarantine())
    for one, other in zip(dataset.measure_statistics(), sound.measure_statistics(), strict=True):
        assert torch.equal(one, other)
    loader = training_loader(dataset, batch_size=2, seed=0, shuffle=False, quarantine=quarantine)
    assert torch.equal(next(iter(loader))["mean"][1], dataset[2]["mean"])
    with pytest.raises(QuarantineError, match="training case 1 cannot be loaded"):
        encode_cases(model, cases, transform=load, directory=folder, quarantine=Quarantine())
