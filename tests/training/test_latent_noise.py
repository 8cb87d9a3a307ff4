"""The noise of the first stage's latents: its size in their own units, and a decoder that forgives it."""

from __future__ import annotations

import pytest
import torch

from medldm.networks import VAE, VQVAE
from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.seeds import seed_everything
from medldm.training import (
    AutoencoderLoss,
    AutoencoderLossConfig,
    AutoencoderTrainingConfig,
    RunConfig,
    build_autoencoder_training,
)
from medldm.training.latent_noise import LatentNoise
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after

SMALL = {"down_channels": (4, 8), "n_groups": 4, "mid_attention": False, "n_res_blocks": 1}


def test_the_spread_is_that_of_all_latents_seen(generator) -> None:
    batches = [
        torch.randn(2, 3, 4, 5, 6, generator=generator) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1, 1) + i
        for i in range(7)
    ]
    noise = LatentNoise(3, largest=0.5)
    assert (noise.draw(whole_batch(2)) == 0).all()
    for batch in batches:
        noise.follow(batch, whole_batch(2))
    together = torch.cat(batches).movedim(1, 0).flatten(1).double()
    assert torch.allclose(noise.spread, together.std(dim=1, correction=0), rtol=1e-6)


def test_levels_are_even_up_to_the_largest_and_one_for_each_sample(generator) -> None:
    noise = LatentNoise(2, largest=0.4)
    noise.follow(
        torch.randn(4, 2, 8, 8, 8, generator=generator) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1),
        whole_batch(4),
    )
    torch.manual_seed(0)
    drawn = noise.draw(whole_batch(4000))
    levels = drawn / noise.spread.float()
    assert torch.allclose(levels[:, 0], levels[:, 1])
    assert 0 <= levels.min() < 0.01 and 0.39 < levels.max() <= 0.4
    assert levels[:, 0].mean().item() == pytest.approx(0.2, abs=0.01)
    torch.manual_seed(0)
    part = noise.draw(BatchShard(start=1000, stop=3000, total=4000, n_shards=2))
    assert torch.equal(part, drawn[1000:3000])


@pytest.mark.parametrize("linear_path", [False, True])
@pytest.mark.parametrize("make", [VAE, VQVAE])
def test_noise_of_no_size_changes_nothing_and_noise_reaches_the_decoder(make, linear_path, generator) -> None:
    torch.manual_seed(0)
    network = make(**SMALL, linear_path=linear_path).eval()
    volume = torch.rand(2, 1, 9, 8, 8, generator=generator)

    def run(sd):
        return network(volume, generator=torch.Generator().manual_seed(1), noise_sd=sd)

    plain, none, some = run(None), run(torch.zeros(2, 4)), run(torch.tensor([[0.0] * 4, [3.0] * 4]))
    assert torch.equal(plain.reconstruction, none.reconstruction)
    assert torch.equal(plain.reconstruction[0], some.reconstruction[0])
    assert not torch.allclose(plain.reconstruction[1], some.reconstruction[1])
    assert torch.equal(plain.regularisation, some.regularisation)


@pytest.mark.parametrize("linear_path", [False, True])
@pytest.mark.parametrize("make", [VAE, VQVAE])
def test_the_parts_of_decoding_are_all_that_decoding_takes_and_encoding_does_not(
    make, linear_path, generator
) -> None:
    torch.manual_seed(0)
    network = make(**SMALL, linear_path=linear_path).eval()
    volume = torch.rand(1, 1, 8, 8, 8, generator=generator)
    latents = network.encode_moments(volume)[0].detach()
    decoding = [weight for part in network.decoding_modules() for weight in part.parameters()]
    network.decode(latents.clone().requires_grad_()).sum().backward()
    assert {id(w) for w in network.parameters() if w.grad is not None} == {id(w) for w in decoding}
    network.zero_grad()
    sum(moment.sum() for moment in network.encode_moments(volume)).backward()
    assert all(weight.grad is None for weight in decoding)
    last = network.last_layer
    assert any(last is weight for weight in decoding) and last.shape[0 if last.ndim else 1] >= 1


def balls(n: int) -> list[dict[str, torch.Tensor]]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 8)] * 3, indexing="ij"))
    return [{"image": (2 * (grid.norm(dim=0, keepdim=True) < 0.3 + 0.2 * i) - 1).float()} for i in range(n)]


def make_training(folder, **options):
    seed_everything(0)
    return build_autoencoder_training(
        VAE(**SMALL),
        balls(4),
        loss=AutoencoderLoss(AutoencoderLossConfig()),
        config=AutoencoderTrainingConfig(
            **{"n_epochs": 2, "warmup_steps": 2, "learning_rate": 1e-2} | options
        ),
        run=RunConfig(output_dir=str(folder), batch_size=2, save_batches=2),
    ).trainer


def test_a_killed_training_with_noise_ends_as_the_straight_one(tmp_path) -> None:
    straight = make_training(tmp_path / "straight", latent_noise=0.5)
    straight.run()
    run_killed_after(make_training(tmp_path / "killed", latent_noise=0.5), 3)
    seed_everything(9)
    last = make_training(tmp_path / "killed", latent_noise=0.5)
    last.run()
    assert differences(everything(straight), everything(last)) == []
    plain = make_training(tmp_path / "plain")
    plain.run()
    assert "latent_noise" not in plain.state_parts()
    own, other = (t.state.g_network.decoder.conv_out.weight for t in (straight, plain))
    assert not torch.equal(own, other)
