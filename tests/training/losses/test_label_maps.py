"""The loss of label maps against hand-worked values and independent implementations."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss

from medldm.networks import AutoencoderOutput, PatchDiscriminator, PatchDiscriminatorConfig
from medldm.training.losses.label_maps import (
    LabelMapLoss,
    LabelMapLossConfig,
    measure_class_weights,
    soft_dice_loss,
)

SHAPE = (2, 4, 5, 6, 3)


def make_output(logits: torch.Tensor, kl: float = 0.0) -> AutoencoderOutput:
    return AutoencoderOutput(logits, torch.tensor(kl), {})


def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(SHAPE, generator=generator)
    return logits, torch.randint(4, (2, 1, 5, 6, 3), generator=generator, dtype=torch.uint8)


def test_cross_entropy_is_the_mean_nats_of_the_true_class(generator) -> None:
    logits, indices = draw(generator)
    terms = LabelMapLoss().for_autoencoder(make_output(logits), indices, discriminator=None)
    probability = logits.double().exp() / logits.double().exp().sum(1, keepdim=True)
    expected = -probability.gather(1, indices.long()).log().mean()
    assert terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes(generator) -> None:
    _, indices = draw(generator)
    terms = LabelMapLoss().for_autoencoder(make_output(torch.zeros(SHAPE)), indices, discriminator=None)
    assert terms["cross_entropy"].item() == pytest.approx(math.log(4))


def test_total_is_the_weighted_sum(generator) -> None:
    logits, indices = draw(generator)
    loss = LabelMapLoss(LabelMapLossConfig(regularisation_weight=0.5, dice_weight=2.0))
    terms = loss.for_autoencoder(make_output(logits, kl=3.0), indices, discriminator=None)
    expected = terms["cross_entropy"] + 0.5 * 3.0 + 2.0 * terms["dice_loss"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_cross_entropy_of_a_batch_is_the_mean_of_its_cases_even_with_class_weights(generator) -> None:
    logits, indices = draw(generator)
    loss = LabelMapLoss(class_weights=torch.tensor([0.1, 1.0, 3.0, 5.0]))

    def value(rows: slice) -> float:
        terms = loss.for_autoencoder(make_output(logits[rows]), indices[rows], discriminator=None)
        return terms["cross_entropy"].item()

    assert value(slice(0, 2)) == pytest.approx((value(slice(0, 1)) + value(slice(1, 2))) / 2, rel=1e-6)


def test_soft_dice_finds_a_thin_structure_that_cross_entropy_gives_up() -> None:
    """Every voxel holds the structure with probability 0.3: at the optimum of cross-entropy none is it."""
    truth = torch.zeros(1, 1, 10, 10, 10, dtype=torch.uint8)
    truth.view(-1)[:300] = 1
    found = {}
    for weight in (0.0, 0.2, 4.0):
        bias = torch.zeros(2, requires_grad=True)
        optimiser = torch.optim.Adam([bias], lr=0.1)
        loss = LabelMapLoss(LabelMapLossConfig(dice_weight=weight))
        for _ in range(300):
            logits = bias.view(1, 2, 1, 1, 1).expand(1, 2, 10, 10, 10)
            optimiser.zero_grad()
            loss.for_autoencoder(make_output(logits), truth, discriminator=None)["loss"].backward()
            optimiser.step()
        found[weight] = bias.detach().softmax(0)[1].item()
    assert found[0.0] == pytest.approx(0.3, abs=0.01)
    assert 0.3 + 0.01 < found[0.2] < 0.5 < found[4.0]


def test_half_precision_logits_are_summed_in_single(generator) -> None:
    logits, indices = draw(generator)
    terms = LabelMapLoss().for_autoencoder(make_output(logits.bfloat16()), indices, discriminator=None)
    assert terms["loss"].dtype == torch.float32


def test_soft_dice_agrees_with_monai(generator) -> None:
    logits, indices = draw(generator)
    reference = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1.0, smooth_dr=1.0
    )
    expected = reference(logits, indices.long())
    assert soft_dice_loss(logits, indices[:, 0].long()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_soft_dice_of_the_truth_is_none(generator) -> None:
    _, indices = draw(generator)
    logits = 100.0 * torch.nn.functional.one_hot(indices[:, 0].long(), 4).movedim(-1, 1).float()
    assert soft_dice_loss(logits, indices[:, 0].long()).item() == pytest.approx(0.0, abs=1e-6)


def test_a_discriminator_is_refused(generator) -> None:
    logits, indices = draw(generator)
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    with pytest.raises(TypeError, match="no adversary"):
        LabelMapLoss().for_autoencoder(make_output(logits), indices, discriminator=discriminator)
    with pytest.raises(TypeError, match="no adversary: train without"):
        LabelMapLoss().for_discriminator(logits, logits, discriminator=discriminator)


@pytest.mark.parametrize("name", ["regularisation_weight", "dice_weight"])
def test_negative_weights_are_refused(name) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1"):
        LabelMapLossConfig(**{name: -1})


def make_cases() -> list[dict[str, torch.Tensor]]:
    indices = torch.tensor([0] * 12 + [1] * 3 + [2] * 1, dtype=torch.uint8).reshape(1, 4, 2, 2)
    return [{"image": indices}, {"image": indices}]


def test_class_weights_are_powers_of_the_shares_with_a_mean_of_1() -> None:
    share = torch.tensor([12 / 16, 3 / 16, 1 / 16])
    for power in (0.5, 1.0):
        weights = measure_class_weights(make_cases(), n_classes=3, power=power)
        assert (share * weights).sum().item() == pytest.approx(1.0)
        assert torch.allclose(weights / weights[0], (share / share[0]) ** -power)
    assert torch.allclose(share * weights, torch.full((3,), 1 / 3))  # power 1: equal weight of all classes


def test_a_class_that_never_occurs_gets_the_largest_weight() -> None:
    weights = measure_class_weights(make_cases(), n_classes=4, power=1.0)
    assert weights[3] == weights[2] == weights.max()


def test_without_balancing_nothing_is_read() -> None:
    assert measure_class_weights(iter([]), n_classes=3, power=0.0) is None


def test_powers_beyond_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"power is 1\.5"):
        measure_class_weights(make_cases(), n_classes=3, power=1.5)
