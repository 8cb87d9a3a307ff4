"""LatentDiffusionModel: statistics, geometry, the frozen autoencoder."""

from __future__ import annotations

import pytest
import torch

from medldm import LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig, VAEConfig
from medldm.errors import ConfigError


def test_odd_volumes_are_encoded_and_come_back_in_their_size(make_model) -> None:
    model = make_model()
    volume = torch.randn(2, 1, 17, 20, 15)
    assert model.encode(volume).shape == (2, 3, 5, 5, 4)
    assert model.reconstruct(volume).shape == volume.shape


def test_standardising_has_an_exact_inverse_and_gives_mean_0_sd_1(make_model) -> None:
    model = make_model()
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.1, 3.0, 1.0])
    model.set_latent_statistics(mean, std)
    latents = mean.view(1, 3, 1, 1, 1) + std.view(1, 3, 1, 1, 1) * torch.randn(8, 3, 10, 10, 10)
    standard = model.standardise(latents)
    assert torch.allclose(standard.mean((0, 2, 3, 4)), torch.zeros(3), atol=0.05)
    assert torch.allclose(standard.std((0, 2, 3, 4)), torch.ones(3), atol=0.02)
    assert torch.allclose(model.unstandardise(standard), latents, atol=1e-5)


def make_linear_model() -> LatentDiffusionModel:
    """Return a model whose linear path has components of variance 16, 1 and 0.0001."""
    options = {"linear_path": True, "latent_channels": 3, "mid_attention": False, "n_res_blocks": 1}
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(down_channels=(4,), n_groups=2, **options),
        unet_config=LatentUNetConfig(down_channels=(4,), n_groups=2, n_heads=1, n_res_blocks=1),
    )
    assert model.autoencoder.linear_path is not None
    model.autoencoder.linear_path.variances.copy_(torch.tensor([16.0, 1.0, 1e-4]))
    return model


@pytest.mark.parametrize("scaling", ["spectral", "auto"])
def test_spectral_scaling_is_the_fourth_root_of_the_variances_and_is_undone(scaling: str) -> None:
    model = make_linear_model()
    std = torch.tensor([0.5, 1.0, 2.0])
    model.set_latent_statistics(torch.ones(3), std, scaling=scaling)
    torch.testing.assert_close(model.latent_scale * std, torch.tensor([1.0, 0.5, 0.05]))
    latents = torch.randn(2, 3, 4, 4, 4)
    torch.testing.assert_close(model.unstandardise(model.standardise(latents)), latents)
    restored = make_linear_model()
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored.latent_scale, model.latent_scale)
    torch.testing.assert_close(restored.latent_spread, torch.tensor([1.0, 0.5, 0.05]))


def test_the_spread_is_that_of_modes_where_it_was_measured(make_model) -> None:
    model, spectrum = make_model(), torch.rand(3, 2, 4, 2) + 0.1
    assert torch.equal(model.spread, model.latent_spread.double())
    model.set_latent_spectrum(spectrum)
    assert torch.equal(model.spread, spectrum.double())
    restored = make_model()
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored.spread, model.spread)
    restored.load_state_dict(make_model().state_dict())
    assert restored.latent_spectrum is None
    with pytest.raises(ConfigError, match=r"shape \(2, 2, 4, 2\): 3 channels and 3 axes"):
        model.set_latent_spectrum(spectrum[:2])
    with pytest.raises(ConfigError, match="a standard deviation above 0"):
        model.set_latent_spectrum(0 * spectrum)


def test_spectral_scaling_needs_a_linear_path(make_model) -> None:
    with pytest.raises(ConfigError, match="no linear path, whose variances it takes: set it to 'unit'"):
        make_model().set_latent_statistics(torch.zeros(3), torch.ones(3), scaling="spectral")
    model = make_model()
    model.set_latent_statistics(torch.zeros(3), torch.ones(3), scaling="auto")
    assert torch.equal(model.latent_scale, torch.ones(3))
    assert torch.equal(model.latent_spread, torch.ones(3))
    assert LatentDiffusionConfig().latent_scaling == "unit"


def test_latents_beyond_1_survive(make_model) -> None:
    model = make_model()
    latents = 50 * torch.randn(1, 3, 4, 4, 4)
    assert torch.allclose(model.standardise(model.unstandardise(latents)), latents, rtol=1e-5)


def test_a_collapsed_channel_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="never varies"):
        make_model().set_latent_statistics(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]))


def test_without_statistics_the_scaling_factor_of_rombach_holds(make_model) -> None:
    assert torch.allclose(make_model().latent_scale, torch.full((3,), 0.18215))


def test_autoencoder_is_frozen_and_stays_in_evaluation_mode(make_model) -> None:
    model = make_model().train()
    assert model.denoiser.training
    assert not model.autoencoder.training
    assert not any(weight.requires_grad for weight in model.autoencoder.parameters())


@pytest.mark.parametrize(
    ("conditions", "channels", "cross_attention"),
    [
        ((), 3, False),
        (("label_map",), 11, False),
        (("class",), 3, True),
        (("class", "label_map", "text"), 11, True),
    ],
)
def test_the_denoiser_fits_its_conditions(make_model, conditions, channels, cross_attention) -> None:
    config = make_model(conditions).unet_config
    assert (config.in_channels, config.out_channels, config.cross_attention) == (channels, 3, cross_attention)


def test_defaults_of_the_denoiser_are_those_of_the_design() -> None:
    config = LatentUNetConfig()
    assert (config.down_channels, config.time_emb_dim, config.n_heads) == ((320, 640, 1280, 1280), 320, 8)
    assert config.cross_attention
