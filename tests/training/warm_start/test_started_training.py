"""Trainings that start from weights: lineage, freezing, and going on when the file is gone."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.data import CacheDataset

from benchmarks.tiny_trainings import (
    FIRST_STAGES,
    make_latents,
    make_run,
    make_small_model,
    make_volumes,
)
from medldm import LatentDiffusionTrainer, LatentUNetConfig
from medldm.errors import ConfigError
from medldm.files import hash_file
from medldm.latent_diffusion.checkpoints import load_checkpoint, read_card
from medldm.latent_diffusion.lineage import LINEAGE_KEY
from medldm.latent_diffusion.model import make_autoencoder
from medldm.latent_diffusion.model_files import load_latent_diffusion, make_latent_diffusion
from medldm.seeds import seed_everything
from medldm.training import (
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainingConfig,
    LatentDataset,
    build_autoencoder_training,
    build_diffusion_training,
)
from medldm.training.resume.state_files import StateError
from medldm.training.warm_start import open_start, plan_autoencoder_start, plan_denoiser_start
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after
from tests.training.warm_start.started import V, save_autoencoder, save_model

KEEPS = {"patience": None, "n_epochs": 2, "warmup_steps": 2, "learning_rate": 1e-3, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model to start from, on the autoencoder that all of these trainings have."""
    seed_everything(1)
    return save_model(
        make_small_model(FIRST_STAGES["vae"]), tmp_path_factory.mktemp("source") / "old.safetensors"
    )


def second_stage(folder, start_from, *, resume="auto", model=None, names=None, **settings):
    """Build the training of a denoiser that starts from a file."""
    seed_everything(3)
    model = model or make_small_model(FIRST_STAGES["vae"])
    config = V.copy(**(KEEPS | settings))
    start = open_start(start_from, stage="diffusion", output_dir=folder, resume=resume, names=names)
    training = build_diffusion_training(
        model,
        LatentDataset(latents_of_four_channels()),
        config=config,
        run=make_run(folder, resume=resume),
        start=plan_denoiser_start(start, model, config=config),
    )
    return training.trainer


def latents_of_four_channels():
    spread = torch.arange(1.0, 5).view(4, 1, 1, 1)
    return [
        {**entry, "mean": entry["mean"][:1] * spread, "std": entry["std"][:1].expand(4, -1, -1, -1)}
        for entry in make_latents(5)
    ]


def first_stage(folder, start_from, *, kind="vae", adaptive_weight=0.0, **settings):
    seed_everything(3)
    network = make_autoencoder(FIRST_STAGES[kind])
    start = open_start(start_from, stage="autoencoder", output_dir=folder)
    return build_autoencoder_training(
        network,
        CacheDataset(make_volumes(5), progress=False),
        loss=AutoencoderLoss(AutoencoderLossConfig(adaptive_weight=adaptive_weight)),
        config=AutoencoderTrainingConfig(**(KEEPS | settings)),
        run=make_run(folder),
        start=plan_autoencoder_start(start, network),
    ).trainer


def test_a_training_begins_with_the_weights_and_says_so(source, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        trainer = second_stage(tmp_path, source)
    there = load_checkpoint(source).weights
    own = trainer.model.denoiser.state_dict()
    assert all(torch.equal(value, there[f"denoiser.{name}"]) for name, value in own.items())
    averaged = trainer.average.module.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in averaged.items())
    assert not trainer.optimiser_steps[0].optimizer.state_dict()["state"]
    assert f"{len(own)} tensors kept" in caplog.text
    assert not torch.allclose(trainer.model.latent_scale, there["latent_scale"])


def test_the_card_holds_the_lineage_of_the_lineage(source, tmp_path) -> None:
    second_stage(tmp_path / "b", source).run()
    child = tmp_path / "b" / "latent_diffusion.safetensors"
    second_stage(tmp_path / "c", child).run()
    grandchild = tmp_path / "c" / "latent_diffusion.safetensors"
    found = read_card(grandchild)[LINEAGE_KEY]["denoiser"]
    assert [each["file_sha256"] for each in found] == [hash_file(child), hash_file(source)]
    assert found[0]["weights_sha256"] == read_card(child)["weights_sha256"]
    model, _, _ = load_latent_diffusion(grandchild)
    assert model.lineage == {"denoiser": found}
    assert LINEAGE_KEY not in read_card(source)


def test_a_killed_training_goes_on_without_the_file_bit_for_bit(source, tmp_path, caplog) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(source.read_bytes())
    straight = second_stage(tmp_path / "straight", copy)
    straight.run()
    run_killed_after(second_stage(tmp_path / "killed", copy), 3)
    with caplog.at_level(logging.INFO):
        second_stage(tmp_path / "killed", copy)
    assert "the training goes on: copy.safetensors is not read again" in caplog.text
    copy.rename(tmp_path / "moved.safetensors")
    again = second_stage(tmp_path / "killed", copy)
    assert "copy.safetensors is not there any more, moved or deleted; the training goes on" in caplog.text
    again.run()
    assert differences(everything(straight), everything(again)) == []
    cards = [read_card(tmp_path / name / "latent_diffusion.safetensors") for name in ("straight", "killed")]
    assert cards[0] == cards[1]


def test_another_file_or_none_is_another_training(source, tmp_path) -> None:
    run_killed_after(second_stage(tmp_path, source), 3)
    with pytest.raises(
        StateError, match=r"start is None here and absent there|start\.file_sha256 is absent here"
    ):
        second_stage(tmp_path, None).run()
    other = save_model(make_small_model(FIRST_STAGES["vae"]), tmp_path / "other.safetensors")
    with pytest.raises(StateError, match=f"another file .SHA-256 {hash_file(other)[:12]}.* than the one"):
        second_stage(tmp_path, other)
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(source.read_bytes())
    second_stage(tmp_path, moved).run()


def test_another_file_in_the_place_of_the_former_is_refused_by_its_hash(source, tmp_path) -> None:
    place = tmp_path / "elsewhere" / "start.safetensors"
    place.parent.mkdir()
    place.write_bytes(source.read_bytes())
    run_killed_after(second_stage(tmp_path / "out", place), 3)
    place.unlink()
    other = save_model(make_small_model(FIRST_STAGES["vae"]), place)
    hashes = f"{hash_file(other)[:12]}.*{hash_file(source)[:12]}.* begin anew with resume never"
    with pytest.raises(StateError, match=f"start.safetensors, another file .*{hashes}"):
        second_stage(tmp_path / "out", place)
    assert second_stage(tmp_path / "out", place, resume="never").model is not None


def test_the_file_may_be_written_over_by_the_training(source, tmp_path) -> None:
    own = tmp_path / "latent_diffusion.safetensors"
    own.write_bytes(source.read_bytes())
    trainer = second_stage(tmp_path, own)
    run_killed_after(trainer, 5)
    own.write_bytes(b"no checkpoint any more")
    second_stage(tmp_path, own).run()
    assert read_card(own)[LINEAGE_KEY]["denoiser"][0]["file_sha256"] == hash_file(source)


def test_frozen_parts_of_a_denoiser_end_as_they_began(source, tmp_path) -> None:
    trainer = second_stage(tmp_path, source, freeze="conditioner, level_0", weight_decay=0.5)
    denoiser = trainer.model.denoiser
    kept = [denoiser.conditioning, denoiser.unet.down[0], denoiser.unet.up[-1]]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in kept]
    moved = {name: value.clone() for name, value in denoiser.unet.middle[0].state_dict().items()}
    trainer.run()
    for part, was in zip(kept, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in part.state_dict().items())
    saved = load_checkpoint(tmp_path / "latent_diffusion.safetensors").weights
    prefix = "denoiser.unet.down.0."
    assert all(torch.equal(saved[prefix + name], value) for name, value in before[1].items())
    middle = denoiser.unet.middle[0].state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in middle.items())
    n_state = len(trainer.optimiser_steps[0].optimizer.state_dict()["state"])
    trained = [weight.requires_grad for weight in denoiser.parameters()]
    assert n_state == sum(trained) < len(trained)


@pytest.mark.parametrize(("kind", "part"), [("vqvae", "encoder"), ("vae", "decoder"), ("lapped", "encoder")])
def test_frozen_parts_of_an_autoencoder_end_as_they_began(tmp_path, kind, part) -> None:
    seed_everything(2)
    network = make_autoencoder(FIRST_STAGES[kind])
    if kind == "vqvae":
        network.quantiser.is_initialised.fill_(True)
    path = save_autoencoder(network, tmp_path / "old.safetensors")
    trainer = first_stage(tmp_path / "out", path, kind=kind, freeze=[part])
    trainer.run()
    was, now = load_checkpoint(path).weights, trainer.state.g_network.state_dict()
    changed = {name.split(".")[0] for name, value in now.items() if not torch.equal(value, was[name])}
    assert changed == ({"decoder"} if part == "encoder" else {"encoder", "to_moments"})


def test_wrong_parts_are_refused_by_name(source, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"Unknown part 'levels_0'\. Did you mean 'level_0'"):
        second_stage(tmp_path, source, freeze=["levels_0"])
    with pytest.raises(ConfigError, match="all of the network: leave a part to be trained"):
        first_stage(tmp_path, None, freeze="encoder,decoder")
    with pytest.raises(
        ConfigError, match=r"adaptive_weight is 0\.5, which measures the gradient of the decoder"
    ):
        first_stage(tmp_path, None, freeze="decoder", adaptive_weight=0.5)


def test_a_second_stage_says_what_its_autoencoder_came_from(tmp_path) -> None:
    seed_everything(2)
    path = save_autoencoder(make_autoencoder(FIRST_STAGES["linear"]), tmp_path / "old.safetensors")
    trainer = first_stage(tmp_path / "out", path, kind="linear")
    basis = load_checkpoint(path).weights["linear_path.basis"]
    assert torch.equal(trainer.state.g_network.linear_path.basis, basis)  # not fitted anew
    trainer.run()
    small = LatentUNetConfig(down_channels=(8,), n_groups=4, n_heads=2, n_res_blocks=1)
    model = make_latent_diffusion(tmp_path / "out" / "autoencoder.safetensors", unet_config=small)
    assert model.lineage["autoencoder"][0]["file_sha256"] == hash_file(path)


def test_python_starts_from_a_file_too(source, tmp_path) -> None:
    model = make_small_model(FIRST_STAGES["vae"])
    trainer = LatentDiffusionTrainer(model, V, output_dir=tmp_path, device="cpu", start_from=source)
    assert trainer.start is not None and trainer.start.values
    with pytest.raises(ConfigError, match="but start_from is null"):
        LatentDiffusionTrainer(model, V, output_dir=tmp_path, device="cpu", start_names={"a": "b"})
