"""The decoder of a checkpoint: replaced whole, named in the card, adapted once, and reachable as it was."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from benchmarks.tiny_trainings import FIRST_STAGES, encode_all, make_run, make_small_model, make_volumes
from medldm import LatentDiffusionConfig, LatentDiffusionSampler
from medldm.latent_diffusion.checkpoints import hash_weights, load_checkpoint, read_card, save_checkpoint
from medldm.latent_diffusion.model_files import (
    describe_autoencoder,
    describe_latent_diffusion,
    load_first_stage,
    load_latent_diffusion,
)
from medldm.seeds import seed_everything
from medldm.training.decoder import DecoderAdaptation, DecoderConfig
from medldm.workflows import run_training
from tests.training.small_trainings import Killed

CASES = [{**case, "class": torch.tensor(i % 3)} for i, case in enumerate(make_volumes(3))]
CONFIG = {"n_steps": 2, "noise_level": 0.5, "denoising_steps": 1, "adversarial_share": 0.5}


def keep(case):
    """The transform: a case holds its tensors already."""
    return case


@pytest.fixture
def trained(tmp_path):
    """The files of both stages."""
    seed_everything(0)
    model = make_small_model(FIRST_STAGES["vae"])
    encode_all(model, CASES)
    save_checkpoint(tmp_path / "autoencoder.safetensors", *describe_autoencoder(model.autoencoder, None)())
    write_model(model, tmp_path)
    return model


def write_model(model, folder) -> None:
    weights, card = describe_latent_diffusion(model, LatentDiffusionConfig())()
    save_checkpoint(folder / "latent_diffusion.safetensors", weights, {**card, "training": {"epoch": 7}})


def adaptation(model, folder, **options) -> DecoderAdaptation:
    seed_everything(1)
    return DecoderAdaptation(
        folder / "latent_diffusion.safetensors",
        config=DecoderConfig(**(CONFIG | options)),
        run=make_run(folder),
        autoencoder=model.autoencoder,
        cases=CASES,
        validation_cases=CASES[:1],
        transform=keep,
    )


def test_no_steps_do_nothing(trained, tmp_path) -> None:
    file = tmp_path / "latent_diffusion.safetensors"
    content = file.read_bytes()
    adaptation(trained, tmp_path, n_steps=0).run()
    assert file.read_bytes() == content
    assert not (tmp_path / "state").exists()


def test_the_file_gets_the_decoder_and_its_card_goes_on_to_name_the_first_stage(trained, tmp_path) -> None:
    file, first = tmp_path / "latent_diffusion.safetensors", tmp_path / "autoencoder.safetensors"
    before, own = load_checkpoint(file), copy.deepcopy(trained.state_dict())
    adaptation(trained, tmp_path).run()
    after = load_checkpoint(file)
    changed = {n for n, value in after.weights.items() if not torch.equal(value, before.weights[n])}
    assert changed
    assert all(name.startswith(("autoencoder.decoder.", "autoencoder.from_latents.")) for name in changed)
    assert after.card["autoencoder"] == before.card["autoencoder"]
    assert after.card["training"] == {"epoch": 7}
    assert after.card["decoder"]["steps"] == 2 and after.card["decoder"]["noise_level"] == 0.5
    assert "decoder" not in before.card
    assert all(torch.equal(value, own[name]) for name, value in trained.state_dict().items())
    model, _, _ = load_latent_diffusion(file, autoencoder_path=first)
    assert hash_weights(model.autoencoder.state_dict()) == after.card["decoder"]["weights_sha256"]
    shape, options = (1, 4, 4, 4, 4), {"num_steps": 2, "seed": 3}
    adapted = LatentDiffusionSampler(model).sample(shape, **options)
    former = LatentDiffusionSampler(trained).sample(shape, **options)
    assert not torch.equal(adapted, former)
    load_first_stage(model, first)
    assert torch.equal(LatentDiffusionSampler(model).sample(shape, **options), former)


def test_an_adapted_file_is_left_and_another_denoiser_adapted_anew(trained, tmp_path) -> None:
    file = tmp_path / "latent_diffusion.safetensors"
    adaptation(trained, tmp_path).run()
    content = file.read_bytes()
    adaptation(trained, tmp_path).run()
    assert file.read_bytes() == content
    adaptation(trained, tmp_path, n_steps=3).run()
    assert read_card(file)["decoder"]["steps"] == 3
    write_model(trained, tmp_path)  # as a training that has ended does where nothing validates
    adaptation(trained, tmp_path).run()
    assert file.read_bytes() == content
    with torch.no_grad():
        next(trained.denoiser.parameters()).add_(1)
    write_model(trained, tmp_path)
    adaptation(trained, tmp_path).run()
    assert read_card(file)["decoder"]["identity"] != load_card(content)["decoder"]["identity"]


def load_card(content: bytes) -> dict:
    import json

    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["medldm"])


def test_a_kill_before_the_file_is_written_costs_nothing(trained, tmp_path, monkeypatch) -> None:
    file = tmp_path / "latent_diffusion.safetensors"
    former = file.read_bytes()
    adaptation(trained, tmp_path).run()
    wanted = file.read_bytes()
    file.write_bytes(former)
    (tmp_path / "state").rename(tmp_path / "moved")

    def die(*_, **__) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("medldm.training.decoder.adaptation.save_checkpoint", die)
        with pytest.raises(Killed):
            adaptation(trained, tmp_path).run()
    assert file.read_bytes() == former
    adaptation(trained, tmp_path).run()
    assert file.read_bytes() == wanted


def test_the_early_snapshot_of_the_same_training_gets_the_decoder_too(trained, tmp_path) -> None:
    file, early = tmp_path / "latent_diffusion.safetensors", tmp_path / "latent_diffusion_early.safetensors"
    best = load_checkpoint(file)
    other = {n: value + 1 if n.startswith("denoiser.") else value for n, value in best.weights.items()}
    card = {**best.card, "training": {"epoch": 3, "selected_by": "early"}}
    save_checkpoint(early, other, card)
    adaptation(trained, tmp_path).run()
    adapted, own = load_checkpoint(file), load_checkpoint(early)
    assert own.card["training"] == card["training"] and own.card["decoder"] == adapted.card["decoder"]
    assert own.card["decoder"]["denoiser_of"] == file.name
    for name, value in own.weights.items():
        expected = other if name.startswith("denoiser.") else adapted.weights
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(own.weights[n], other[n]) for n in other if n.startswith("autoencoder."))
    save_checkpoint(early, other, {**card, "training": {"identity": "of another training"}})
    content = early.read_bytes()
    adaptation(trained, tmp_path, n_steps=3).run()
    assert early.read_bytes() == content


def test_the_workflow_runs_it_after_the_training(trained, tmp_path) -> None:
    order = []

    class Recorded:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> None:
            order.append(self.name)

        def alone(self) -> AbstractContextManager[None]:
            return nullcontext()

    run_training(Recorded("denoiser"), then=[Recorded("decoder")])
    assert order == ["denoiser", "decoder"]
