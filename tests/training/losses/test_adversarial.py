"""When the adversary begins, and the adaptive weight of its term against closed forms."""

from __future__ import annotations

import pytest
import torch

from medldm.errors import ConfigError
from medldm.networks import AutoencoderOutput, PatchDiscriminator, PatchDiscriminatorConfig
from medldm.runtime.batch_shard import BatchShard
from medldm.training import AutoencoderLoss, AutoencoderLossConfig
from medldm.training.decoder.assembly import _make_loss
from medldm.training.decoder.config import DecoderConfig
from medldm.training.losses.adversarial import LARGEST_WEIGHT, adaptive_weight, batches_before_adversary


@pytest.mark.parametrize("n_batches", [1, 3, 480, 18_000])
def test_a_share_is_of_any_length_and_a_number_counts(n_batches) -> None:
    assert batches_before_adversary(0, n_batches=n_batches) == 0
    assert batches_before_adversary(0.75, n_batches=n_batches) == round(0.75 * n_batches)
    assert batches_before_adversary(2, n_batches=n_batches) == 2
    assert batches_before_adversary(360, n_batches=n_batches) == 360
    for never in (float("inf"), None):
        assert batches_before_adversary(never, n_batches=n_batches) > n_batches


@pytest.mark.parametrize("start", [1, 1.0, 1.5, 2.5, -0.1, float("-inf")])
def test_what_may_be_a_share_or_a_number_is_refused(start) -> None:
    with pytest.raises(ConfigError, match=r"adversarial_start is .*: give a share .* null for never"):
        batches_before_adversary(start, n_batches=100)
    with pytest.raises(ConfigError, match="adversarial_start"):
        AutoencoderLossConfig(adversarial_start=start)


@pytest.mark.parametrize(("share", "before"), [(0.0, None), (0.1, 9), (0.5, 5), (0.95, 1), (1.0, 0)])
def test_the_last_share_of_a_decoders_steps_has_the_adversary(make_model, share, before) -> None:
    """Also where one step, or none, is left before it: a number of 1 would be ambiguous."""
    loss = _make_loss(DecoderConfig(n_steps=10, adversarial_share=share), make_model())
    found = batches_before_adversary(loss.adversarial_start, n_batches=10)
    assert found == before if before is not None else found > 10


def test_on_a_linear_toy_the_weight_is_the_ratio_of_the_slopes(generator) -> None:
    """With terms a.L and b.L the gradients are a and b, whatever else L went through."""
    last_layer = torch.randn(4, 3, generator=generator, requires_grad=True)
    a, b = torch.randn(2, 4, 3, generator=generator)
    found = adaptive_weight((a * last_layer).sum(), 7 * (b * last_layer).sum(), last_layer=last_layer)
    assert found.item() == pytest.approx((a.norm() / (7 * b.norm())).item(), rel=1e-5)
    assert not found.requires_grad
    assert last_layer.grad is None


def test_a_term_without_slope_gets_the_largest_weight_and_none_of_infinity(generator) -> None:
    last_layer = torch.randn(3, generator=generator, requires_grad=True)
    found = adaptive_weight(last_layer.sum(), 0 * last_layer.sum(), last_layer=last_layer)
    assert found == LARGEST_WEIGHT


def test_the_rows_of_two_processes_give_the_weight_of_the_whole_batch(generator) -> None:
    """The gradient of a batch is the mean of its rows', which is not the mean of their lengths."""
    last_layer = torch.randn(5, generator=generator, requires_grad=True)
    rows = torch.randn(3, 2, 5, generator=generator)

    def terms(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        own = rows[part] @ last_layer
        return own[:, 0].mean(), own[:, 1].mean()

    whole = adaptive_weight(*terms(slice(0, 3)), last_layer=last_layer)
    sent: list[torch.Tensor] = []
    parts = [slice(0, 1), slice(1, 3)]

    def shard(part: slice, reduce) -> BatchShard:
        return BatchShard(start=part.start, stop=part.stop, total=3, n_shards=2, reduce=reduce)

    def send(values: torch.Tensor) -> torch.Tensor:
        sent.append(values)
        return values

    adaptive_weight(*terms(parts[0]), last_layer=last_layer, shard=shard(parts[0], send))
    received = iter(sent[:2])
    found = adaptive_weight(
        *terms(parts[1]),
        last_layer=last_layer,
        shard=shard(parts[1], lambda values: values + next(received)),
    )
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)


def test_the_adversarial_gradient_is_then_as_long_as_told(generator) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    last_layer = torch.randn(1, 2, 3, 3, 3, generator=generator).requires_grad_()
    features = torch.randn(2, 2, 8, 8, 8, generator=generator)
    volume = torch.rand(2, 1, 8, 8, 8, generator=generator)
    fake = torch.nn.functional.conv3d(features, last_layer, padding=1)
    output = AutoencoderOutput(fake, torch.tensor(0.0), {})
    loss = AutoencoderLoss(AutoencoderLossConfig(adaptive_weight=0.3, perceptual_weight=0.7))
    terms = loss.for_autoencoder(output, volume, discriminator=discriminator, last_layer=last_layer)

    def gradient(term: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(term, last_layer, retain_graph=True)[0]

    others = terms["l1"] + 0.7 * terms["perceptual"]
    adversarial = gradient(terms["loss"]) - gradient(others)
    assert adversarial.norm().item() == pytest.approx(0.3 * gradient(others).norm().item(), rel=1e-3)
    cosine = torch.cosine_similarity(adversarial.flatten(), gradient(terms["adversarial"]).flatten(), dim=0)
    assert cosine > 0.999


def test_an_adaptive_weight_without_the_last_layer_is_refused() -> None:
    discriminator = PatchDiscriminator(PatchDiscriminatorConfig(channels=4, n_layers=1))
    volume = torch.rand(1, 1, 8, 8, 8)
    loss = AutoencoderLoss(AutoencoderLossConfig(adaptive_weight=1.0))
    with pytest.raises(ValueError, match="give last_layer"):
        loss.for_autoencoder(
            AutoencoderOutput(volume, torch.tensor(0.0), {}), volume, discriminator=discriminator
        )
