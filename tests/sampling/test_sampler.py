"""LatentDiffusionSampler: guidance, conditions, seeds, statistics."""

from __future__ import annotations

import math

import pytest
import torch

from medldm import Conditions, LatentDiffusionConfig, LatentDiffusionSampler
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import save_checkpoint
from medldm.latent_diffusion.model_files import describe_latent_diffusion
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture
from medldm.sampling.config import SamplingConfig
from medldm.seeds import texture_seed

SHAPE = (2, 3, 4, 5, 4)
FEW = {"num_steps": 3, "seed": 7}


@pytest.fixture
def conditions() -> Conditions:
    torch.manual_seed(1)
    return Conditions({"class": torch.tensor([0, 2]), "label_map": torch.randint(0, 3, (2, 1, 16, 20, 16))})


@pytest.fixture
def sampler(make_model) -> LatentDiffusionSampler:
    return LatentDiffusionSampler(make_model(), LatentDiffusionConfig(prediction_type="v_prediction"))


def test_volumes_have_the_size_asked_for(sampler, conditions) -> None:
    assert sampler.sample(SHAPE, conditions=conditions, **FEW).shape == (2, 1, 16, 20, 16)
    assert sampler.sample(SHAPE, conditions=conditions, size=(15, 19, 16), **FEW).shape == (2, 1, 15, 19, 16)


def test_guidance_1_is_the_conditional_model_and_0_the_unconditional_one(sampler, conditions) -> None:
    torch.manual_seed(3)
    x, times = torch.randn(SHAPE), torch.full((2,), 500.0)
    path, denoiser = sampler.config.noise_path(), sampler.model.denoiser
    for weight, given in ((1.0, conditions), (0.0, None)):
        x_0, noise = sampler._denoiser(path, conditions, SamplingConfig(guidance_scale=weight))(x, 501)
        alpha, sigma = path.alpha_sigma(501)
        output = denoiser(x, times, given)
        assert torch.allclose(alpha * noise - sigma * x_0, output, atol=1e-5)
    first = sampler.sample(SHAPE, conditions=conditions, guidance_scale=0.0, **FEW)
    assert torch.allclose(first, sampler.sample(SHAPE, **FEW), atol=1e-5)


def test_guidance_is_linear_in_its_weight(sampler, conditions) -> None:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    path = sampler.config.noise_path()
    settings = {w: SamplingConfig(guidance_scale=w) for w in (0.0, 1.0, 4.0)}
    at = {w: sampler._denoiser(path, conditions, setting)(x, 300)[0] for w, setting in settings.items()}
    assert torch.allclose(at[4.0], at[0.0] + 4 * (at[1.0] - at[0.0]), atol=1e-4)


@pytest.mark.parametrize("name", ["class", "label_map"])
def test_output_changes_with_each_condition(sampler, conditions, name) -> None:
    changed = dict(conditions.values)
    changed[name] = (changed[name] + 1) % 3
    before = sampler.sample(SHAPE, conditions=conditions, **FEW)
    assert (sampler.sample(SHAPE, conditions=Conditions(changed), **FEW) - before).abs().max() > 1e-4


def test_context_is_short_for_the_text_condition(make_model) -> None:
    sampler = LatentDiffusionSampler(make_model(("text", "class")))
    context = torch.randn(2, 7, 6)
    first = sampler.sample(SHAPE, context=context, guidance_scale=7.5, eta=0.0, **FEW)
    assert torch.equal(
        first, sampler.sample(SHAPE, conditions=Conditions({"text": context}), guidance_scale=7.5, **FEW)
    )
    assert (first - sampler.sample(SHAPE, context=context + 1, guidance_scale=7.5, **FEW)).abs().max() > 1e-4


def test_a_volume_is_the_same_alone_and_in_a_batch(sampler, conditions) -> None:
    both = sampler.sample(SHAPE, conditions=conditions, eta=0.5, solver="ddim", **FEW)
    alone = sampler.sample(
        (1, *SHAPE[1:]), conditions=conditions[slice(1, 2)], indices=[1], eta=0.5, solver="ddim", **FEW
    )
    assert torch.equal(both[1:], alone)
    together = sampler.sample(SHAPE, conditions=conditions, eta=0.5, solver="ddim", batch_size=2, **FEW)
    assert torch.allclose(both, together, atol=1e-4)


def test_seed_and_index_both_matter(sampler) -> None:
    draws = [
        sampler.sample((1, *SHAPE[1:]), num_steps=2, seed=seed, indices=[index])
        for seed, index in ((7, 0), (7, 1), (8, 0), (7, 0))
    ]
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_latent_statistics_reach_the_output(sampler) -> None:
    before = sampler.sample(SHAPE, **FEW)
    sampler.model.set_latent_statistics(torch.full((3,), 0.7), torch.full((3,), 2.0))
    assert (sampler.sample(SHAPE, **FEW) - before).abs().max() > 1e-3


def test_a_checkpoint_rebuilds_the_sampler(sampler, conditions, tmp_path) -> None:
    sampler.model.set_latent_statistics(torch.full((3,), 0.7), torch.full((3,), 2.0))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(sampler.model, sampler.config)())
    rebuilt = LatentDiffusionSampler.from_checkpoint(path)
    assert rebuilt.config.prediction_type == "v_prediction"
    expected = sampler.sample(SHAPE, conditions=conditions, **FEW)
    assert torch.equal(rebuilt.sample(SHAPE, conditions=conditions, **FEW), expected)


def test_load_checkpoint_takes_weights_and_noise_path(sampler, make_model, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(sampler.model, sampler.config)())
    other = LatentDiffusionSampler(make_model(), LatentDiffusionConfig(prediction_type="epsilon"))
    torch.nn.init.normal_(other.model.denoiser.unet.conv_in.weight)
    other.load_checkpoint(path)
    assert other.config.prediction_type == "v_prediction"
    assert torch.equal(other.sample(SHAPE, **FEW), sampler.sample(SHAPE, **FEW))


def test_a_checkpoint_of_other_conditions_is_refused(sampler, make_model, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, *describe_latent_diffusion(sampler.model, sampler.config)())
    with pytest.raises(CheckpointError, match=r"other conditions.*conditioning_type"):
        LatentDiffusionSampler(make_model(("class",))).load_checkpoint(path)


def test_bad_arguments_are_named(sampler) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, x, y, z\) of the latents is needed"):
        sampler.sample((1, 4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"trained without the conditions \['text'\]"):
        sampler.sample(SHAPE, context=torch.zeros(2, 7, 6))


def test_an_unknown_setting_is_refused_with_the_nearest_name(sampler) -> None:
    with pytest.raises(ValueError, match="Did you mean 'num_steps'"):
        sampler.sample(SHAPE, num_step=3)


def test_each_condition_has_its_own_guidance_weight(sampler, conditions) -> None:
    """The guided estimate is y_0 + w_c (y_c - y_0) + w_m (y_m - y_0), each y from a pass of its own."""
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    path = sampler.config.noise_path()

    def estimate(weights) -> torch.Tensor:
        settings = SamplingConfig(guidance_scale=weights)
        return sampler._denoiser(path, conditions, settings)(x, 300)[0]

    none, both = estimate(0.0), estimate({"class": 3.0, "label_map": 2.0})
    only_class, only_map = (
        estimate({"class": 1.0, "label_map": 0.0}),
        estimate({"class": 0.0, "label_map": 1.0}),
    )
    assert torch.allclose(both, none + 3 * (only_class - none) + 2 * (only_map - none), atol=1e-4)
    assert (only_class - only_map).abs().max() > 1e-4


def test_conditions_are_projected_once_for_all_steps(sampler, conditions, monkeypatch) -> None:
    from medldm.networks.attention import CrossAttention

    layers = [module for module in sampler.denoiser.modules() if isinstance(module, CrossAttention)]
    calls = []
    for layer in layers:
        layer.to_kv.register_forward_hook(lambda *_: calls.append(1))
    sampler.sample((1, *SHAPE[1:]), conditions=conditions[slice(0, 1)], guidance_scale=2.0, num_steps=5)
    assert len(calls) == len(layers) > 0


def test_guidance_interval_and_rescaling_reach_the_output(sampler, conditions) -> None:
    strong = {"conditions": conditions, "guidance_scale": 5.0, **FEW}
    plain = sampler.sample(SHAPE, **strong)
    assert (sampler.sample(SHAPE, guidance_rescale=0.7, **strong) - plain).abs().max() > 1e-4
    nowhere = sampler.sample(SHAPE, guidance_interval=(1e8, 1e9), **strong)
    unguided = sampler.sample(SHAPE, conditions=conditions, **FEW)
    assert torch.allclose(nowhere, unguided, atol=1e-5)


def test_a_memory_limit_streams_the_decoder_with_the_same_result(sampler, conditions) -> None:
    whole = sampler.sample(SHAPE, conditions=conditions, **FEW)
    streamed = sampler.sample(SHAPE, conditions=conditions, max_memory_gb=1e-6, **FEW)
    assert torch.allclose(streamed, whole, atol=1e-4)


def test_the_decoder_does_not_run_beside_the_denoisers_reordered_weights(sampler, monkeypatch) -> None:
    forgotten = []
    decode = type(sampler.model).decode
    monkeypatch.setattr("medldm.sampling.sampler.clear_cached_weights", forgotten.append)
    monkeypatch.setattr(
        type(sampler.model),
        "decode",
        lambda *args, **options: decode(*args, **options) if forgotten else pytest.fail("decoded beside"),
    )
    sampler.sample(SHAPE, **FEW)
    assert set(forgotten) == {sampler.model.denoiser}


@pytest.mark.parametrize("num_steps", [1, 4])
def test_denoising_gives_back_latents_that_the_denoiser_knows(sampler, monkeypatch, num_steps) -> None:
    """With an exact estimate every level and number of steps leads to the latents themselves."""
    known, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))

    def exact(path, conditions, settings, **_):
        return lambda x, t: (known, (x - path.alpha_sigma(t)[0] * known) / path.alpha_sigma(t)[1])

    monkeypatch.setattr(sampler, "_denoiser", exact)
    for level in (0.05, 0.5, 3.0):
        found = sampler.denoise(known, noise, level=level, num_steps=num_steps)
        assert torch.allclose(found, known, atol=1e-4)


def test_one_step_of_denoising_is_the_estimate_at_the_level(sampler, conditions) -> None:
    latents, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    path = sampler.config.noise_path()
    t = path.time_at(-math.log(0.5))
    denoise = sampler._denoiser(path, conditions, SamplingConfig())
    with torch.no_grad():
        expected, _ = denoise(path.add_noise(latents, noise, t), t)
    found = sampler.denoise(latents, noise, level=0.5, num_steps=1, conditions=conditions)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, sampler.denoise(latents, noise, level=0.5, num_steps=3), atol=1e-3)


@pytest.fixture
def texture() -> Texture:
    return Texture(torch.rand(1, 3, 3, 3), torch.full((1, *TABLE_SHAPE), 0.05))


def test_texture_is_drawn_with_the_seed_of_each_volume_and_off_changes_no_bit(sampler, texture) -> None:
    plain = sampler.sample(SHAPE, **FEW)
    sampler.model.texture = texture
    assert torch.equal(sampler.sample(SHAPE, texture=False, **FEW), plain)
    drawn = sampler.sample(SHAPE, **FEW)
    assert torch.equal(drawn, texture.draw(plain, [texture_seed(7, 0), texture_seed(7, 1)]))
    assert not torch.equal(drawn, plain)
    alone = sampler.sample((1, *SHAPE[1:]), indices=[1], **FEW)
    assert torch.equal(alone[0], drawn[1])


def test_a_checkpoint_brings_its_texture_along(sampler, make_model, texture, tmp_path) -> None:
    for name, own in (("with", texture), ("without", None)):
        sampler.model.texture = own
        described = describe_latent_diffusion(sampler.model, sampler.config)()
        save_checkpoint(tmp_path / f"{name}.safetensors", *described)
    found = LatentDiffusionSampler.from_checkpoint(tmp_path / "with.safetensors").model.texture
    torch.testing.assert_close(found.filters, texture.filters, rtol=1e-5, atol=0)
    other = LatentDiffusionSampler(make_model())
    other.load_checkpoint(tmp_path / "with.safetensors")
    assert other.model.texture.sha256 == found.sha256
    other.load_checkpoint(tmp_path / "without.safetensors")
    assert other.model.texture is None
    with pytest.raises(ConfigError, match="texture is true, but the model has none"):
        other.sample(SHAPE, texture=True, **FEW)
