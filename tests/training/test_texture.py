"""The texture that is fitted at the end of a training: its cases, its file, a second run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from medldm import LatentDiffusionConfig
from medldm.data.cohort import Cohort
from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import load_checkpoint, save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.training import TextureFitting, fit_texture
from medldm.training.texture import TextureCases, TextureConfig, add_texture, decode_pairs


def make_cases(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {"image": torch.rand(1, 16, 20, 14, generator=generator) - 0.5, "class": torch.tensor(number % 3)}
        for number in range(n)
    ]


def make_texture_cases(n: int = 3, **options) -> TextureCases:
    return TextureCases(
        cases=make_cases(n), held_out=True, transform=dict, config=TextureConfig.from_dict(options)
    )


@pytest.fixture
def checkpoint(make_model, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(make_model(("class",)), LatentDiffusionConfig())())
    return path


def make_fitting(checkpoint: Path, **options) -> TextureFitting:
    cases = make_cases(5)
    cohort = Cohort(training=cases[:2], validation=cases[2:], schema=None, root=Path())
    return TextureFitting(checkpoint, cohort=cohort, transform=dict, **{"fit": True, **options})


def test_the_texture_is_that_of_the_checkpoint_s_own_decoder_and_of_held_out_cases(checkpoint) -> None:
    make_fitting(checkpoint, detail_noise_level=0.0).run()
    model, _, _ = load_latent_diffusion(checkpoint)
    pairs = [(case["image"], model.reconstruct(case["image"][None])[0]) for case in make_cases(5)[2:]]
    assert model.texture.sha256 == fit_texture(pairs).sha256
    assert model.texture.fitted_on["cases"] == "validation" and model.texture.fitted_on["n_volumes"] == 3
    before = checkpoint.read_bytes()
    make_fitting(checkpoint, detail_noise_level=0.0).run()
    make_fitting(checkpoint, fit=False).run()
    assert checkpoint.read_bytes() == before


def test_fitting_a_texture_changes_nothing_else_in_the_file(checkpoint) -> None:
    before = load_checkpoint(checkpoint).card
    add_texture(checkpoint, make_texture_cases())
    after = load_checkpoint(checkpoint).card
    assert "texture" not in before and after.pop("texture") and after == before


def test_denoised_latents_are_decoded_where_a_noise_level_is_given(make_model) -> None:
    model, config, cases = make_model(("class",)), LatentDiffusionConfig(), make_texture_cases()
    levels = (0.0, 0.5, 0.5)
    plain, denoised, again = (
        decode_pairs(model, config, cases, settings=TextureConfig(noise_level=level)) for level in levels
    )
    for (x, y), (x_too, z) in zip(plain, denoised, strict=True):
        assert torch.equal(x, x_too) and y.shape == z.shape and not torch.allclose(y, z, atol=1e-3)
    assert torch.equal(denoised[2][1], again[2][1])


def test_the_level_is_that_which_the_decoder_was_adapted_to(checkpoint) -> None:
    add_texture(checkpoint, make_texture_cases())
    content = load_checkpoint(checkpoint)
    assert content.card["texture"]["fitted_on"]["noise_level"] == 0.0
    save_checkpoint(checkpoint, content.weights, {**content.card, "decoder": {"noise_level": 0.3}})
    found = add_texture(checkpoint, make_texture_cases())
    assert found.fitted_on["noise_level"] == 0.3
    assert found.sha256 == add_texture(checkpoint, make_texture_cases(noise_level=0.3)).sha256
    assert found.sha256 != add_texture(checkpoint, make_texture_cases(noise_level=0.0)).sha256


def test_the_grain_of_a_case_is_told_from_volumes_as_the_sampler_makes_them(checkpoint) -> None:
    add_texture(checkpoint, make_texture_cases())
    model, config, _ = load_latent_diffusion(checkpoint)
    cases = make_texture_cases()
    plain, sampled = (
        decode_pairs(model, config, cases, settings=TextureConfig(noise_level=level)) for level in (0.0, 3.0)
    )
    expected = fit_texture(plain, sampled=[y for _, y in sampled])
    assert model.texture.levels is not None and model.texture.sha256 == expected.sha256
    assert add_texture(checkpoint, make_texture_cases(is_of_case=False)).levels is None


def test_validation_cases_are_taken_and_training_cases_where_there_are_none() -> None:
    def chosen(n_validation: int, **options) -> TextureCases:
        cases = [{"id": str(number)} for number in range(40)]
        validation = cases[20 : 20 + n_validation]
        cohort = Cohort(training=cases[:20], validation=validation, schema=None, root=Path())
        return TextureFitting("m.safetensors", fit=True, cohort=cohort, transform=dict, **options).texture

    own = chosen(20, max_cases=4)
    assert own.held_out and [case["id"] for case in own.chosen()] == ["20", "25", "30", "35"]
    assert not chosen(0).held_out and len(chosen(0).chosen()) == 16


def test_a_case_that_cannot_be_loaded_is_named_and_left_out(caplog) -> None:
    cases = TextureCases(
        cases=[{"image": torch.full((1, 4, 4, 4), torch.nan)}, *make_cases(1)],
        held_out=True,
        transform=dict,
        config=TextureConfig(),
    )
    with caplog.at_level(logging.WARNING):
        assert len(list(cases.load())) == 1
    assert "left out of the fit of the texture" in caplog.text


def test_the_early_snapshot_gets_a_texture_of_its_own(checkpoint) -> None:
    early = checkpoint.with_name("model_early.safetensors")
    best = load_checkpoint(checkpoint)
    moved = {n: value * (1.5 if n.startswith("denoiser.") else 1) for n, value in best.weights.items()}
    save_checkpoint(early, moved, best.card)
    make_fitting(checkpoint, noise_level=0.5).run()
    textures = [load_latent_diffusion(file)[0].texture for file in (checkpoint, early)]
    assert textures[0].sha256 != textures[1].sha256
    assert textures[1].sha256 == add_texture(early, make_fitting(early, noise_level=0.5).texture).sha256


def test_label_maps_get_no_texture(checkpoint) -> None:
    content = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, content.weights, {**content.card, "label_schema": {"structures": {"1": "a"}}})
    with pytest.raises(ConfigError, match="makes label maps, which have no texture"):
        make_fitting(checkpoint).run()
