"""Dropout: masks that follow from seeds alone, in training alone, in the plain and in the faster forms."""

from __future__ import annotations

import copy

import pytest
import torch

from medldm import LatentUNet, LatentUNetConfig
from medldm.errors import ConfigError
from medldm.networks.dropout import DropoutSeeds, SeededDropout
from medldm.networks.kernels.dispatch import plain_form

CONFIG = LatentUNetConfig(
    down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1, cross_attention=False, context_dim=None
)
SEEDS = (5, 2**62 - 1, 7)


def make_unet(dropout: float = 0.3, **options) -> LatentUNet:
    torch.manual_seed(0)
    unet = LatentUNet(CONFIG.copy(dropout=dropout, **options))
    # Some layers start at zero; random weights make every part matter.
    for weight in unet.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return unet


def make_input(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, 4, 6, 4, generator=generator), torch.tensor([3, 500, 900])[:n]


def test_a_share_of_the_values_is_dropped_and_the_mean_stays() -> None:
    seeds = DropoutSeeds()
    seeds.set((1, 2), batch_size=2)
    layer = SeededDropout(0.25, number=3, seeds=seeds)
    y = layer(torch.ones(2, 8, 20, 20, 20))
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1 / 0.75]))
    # 128,000 draws: sd 0.0012.
    assert (y == 0).float().mean() == pytest.approx(0.25, abs=0.006)
    assert not torch.equal(y[0], y[1])
    assert torch.equal(layer.eval()(y), y)


def test_at_0_and_outside_of_training_every_bit_stays() -> None:
    x, t = make_input()
    plain = make_unet(0.0)
    assert plain.state_dict().keys() == make_unet().state_dict().keys()
    assert not any(isinstance(module, SeededDropout) for module in plain.modules())
    for mode in (True, False):
        expected = plain.train(mode)(x, t)
        if not mode:
            assert torch.equal(make_unet().eval()(x, t), expected)
    assert not torch.equal(make_unet().train()(x, t, dropout_seeds=SEEDS), plain.train()(x, t))


def test_a_sample_drops_the_same_in_whatever_batch_it_is() -> None:
    x, t = make_input()
    unet = make_unet().train()
    together = unet(x, t, dropout_seeds=SEEDS)
    parts = [unet(x[i : i + 1], t[i : i + 1], dropout_seeds=SEEDS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), together, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(unet(x, t, dropout_seeds=(6, 8, 9)), together, atol=1e-3)


def test_without_seeds_torch_s_generator_decides() -> None:
    x, t = make_input()
    unet = make_unet().train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(unet(x, t))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    with pytest.raises(ValueError, match="2 dropout seeds are given: one for each of 3 samples"):
        unet(x, t, dropout_seeds=(1, 2))


@pytest.mark.parametrize("residual_resampling", [False, True])
def test_faster_forms_and_checkpointing_drop_what_the_plain_form_drops(residual_resampling) -> None:
    x, t = make_input()

    def gradients(unet: LatentUNet) -> list[torch.Tensor]:
        unet.train()(x, t, dropout_seeds=SEEDS).square().mean().backward()
        return [weight.grad for weight in unet.parameters() if weight.grad is not None]

    options = {"residual_resampling": residual_resampling}
    fast = gradients(make_unet(**options))
    again = gradients(make_unet(**options, checkpointing=True))
    with plain_form():
        plain = gradients(make_unet(**options))
    for found in (fast, again):
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_a_copy_has_seeds_of_its_own() -> None:
    x, t = make_input()
    unet = make_unet().train()
    other = copy.deepcopy(unet)
    expected = unet(x, t, dropout_seeds=SEEDS)
    assert torch.equal(other(x, t, dropout_seeds=SEEDS), expected)


def test_a_share_of_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="dropout"):
        CONFIG.copy(dropout=1.0)
