"""The first stage's losses."""

from __future__ import annotations

import pytest
import torch

from medldm.networks import AutoencoderOutput, PatchDiscriminator, PatchDiscriminatorConfig
from medldm.training import AutoencoderLoss, AutoencoderLossConfig
from medldm.training.losses.reconstruction import match_features


@pytest.fixture
def discriminator() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=2))


def test_total_is_the_weighted_sum_of_the_terms(discriminator) -> None:
    config = AutoencoderLossConfig(regularisation_weight=0.5, adversarial_weight=0.25, perceptual_weight=2.0)
    volume, fake = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    output = AutoencoderOutput(fake, torch.tensor(3.0), {})
    terms = AutoencoderLoss(config).for_autoencoder(output, volume, discriminator=discriminator)
    expected = (fake - volume).abs().mean() + 0.5 * 3 + 2 * terms["perceptual"] + 0.25 * terms["adversarial"]
    assert torch.allclose(terms["loss"], expected)
    logits = discriminator(fake)[-1]
    assert torch.allclose(terms["adversarial"], ((logits - 1) ** 2).mean())


def test_before_the_discriminator_there_is_reconstruction_and_regularisation_only() -> None:
    volume = torch.rand(1, 1, 8, 8, 8)
    terms = AutoencoderLoss().for_autoencoder(
        AutoencoderOutput(volume, torch.tensor(0.0), {}), volume, discriminator=None
    )
    assert set(terms) == {"loss", "l1", "regularisation"}
    assert terms["loss"] == 0


def test_discriminator_loss_is_least_squares_and_spares_the_autoencoder(discriminator) -> None:
    real = torch.rand(1, 1, 16, 16, 16)
    fake = torch.rand(1, 1, 16, 16, 16, requires_grad=True)
    loss = AutoencoderLoss().for_discriminator(real, fake, discriminator=discriminator)
    expected = 0.5 * (((discriminator(real)[-1] - 1) ** 2).mean() + (discriminator(fake)[-1] ** 2).mean())
    assert torch.allclose(loss, expected)
    loss.backward()
    assert fake.grad is None


def test_feature_matching_is_zero_for_equal_features_and_weighs_layers_alike() -> None:
    small, large = torch.zeros(1, 2, 2), torch.zeros(1, 8, 8)
    assert match_features([small, large], [small, large]) == 0
    assert match_features([small + 1, large], [small, large]) == match_features(
        [small, large + 1], [small, large]
    )


def test_a_missing_weight_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"perceptual_weights names 'none\.pth', which is not a file"):
        AutoencoderLossConfig(perceptual_weights="none.pth")
    with pytest.raises(ValueError, match="adversarial_weight is -1"):
        AutoencoderLossConfig(adversarial_weight=-1)


def test_volumes_of_other_channels_than_the_reconstruction_are_refused() -> None:
    """Else one channel would be spread over all of them, and the loss be that of no image."""
    output = AutoencoderOutput(torch.rand(1, 1, 8, 8, 8), torch.tensor(0.0), {})
    with pytest.raises(ValueError, match=r"\(1, 2, 8, 8, 8\), their reconstructions \(1, 1, 8, 8, 8\)"):
        AutoencoderLoss().for_autoencoder(output, torch.rand(1, 2, 8, 8, 8), discriminator=None)
