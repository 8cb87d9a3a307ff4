"""Drawing a region again: bits outside, seams inside, and what each method keeps of the original."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medldm import LatentDiffusionConfig, LatentDiffusionSampler
from medldm.conditioning import Conditions
from medldm.diffusion import SOLVERS, STOCHASTIC
from medldm.editing.editor import EditConfig, inpaint, regenerate_region
from medldm.latent_diffusion.texture import TABLE_SHAPE, Texture
from medldm.sampling.config import SamplingConfig

FEW = SamplingConfig(num_steps=3, solver="ddim", grid="trailing")
SIZE = (15, 20, 13)


@pytest.fixture
def sampler(make_model, volume) -> LatentDiffusionSampler:
    model = make_model(("label_map",))
    latents = model.unstandardise(model.encode(volume))
    model.set_latent_statistics(latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)))
    return LatentDiffusionSampler(model, LatentDiffusionConfig())


@pytest.fixture
def calm_sampler(sampler) -> LatentDiffusionSampler:
    """A network whose output hardly bends, as a trained one's, in the place of a random one's."""
    *_, weight, bias = sampler.model.denoiser.unet.parameters()
    with torch.no_grad():
        weight.mul_(0.03)
        bias.zero_()
    return sampler


@pytest.fixture
def volume(generator) -> Tensor:
    return torch.rand((2, 1, *SIZE), generator=generator) * 2 - 1


@pytest.fixture
def region() -> Tensor:
    mask = torch.zeros((2, 1, *SIZE), dtype=torch.bool)
    mask[0, :, 3:9, 8:12, 12:] = True
    mask[1, :, 14, 2, 4:9] = True
    return mask


def labels(value: int) -> Conditions:
    index = torch.zeros((2, 1, 16, 20, 16), dtype=torch.int64)
    index[:, :, 4:10, 6:14, 3:9] = value
    return Conditions({"label_map": index[..., : SIZE[0], : SIZE[1], : SIZE[2]]})


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        *((method, solver) for method in ("fresh", "noise") for solver in SOLVERS),
        *(("inversion", solver) for solver in SOLVERS if solver not in STOCHASTIC),
    ],
)
def test_voxels_outside_of_the_region_keep_every_bit(sampler, volume, region, method, solver) -> None:
    result = inpaint(
        sampler,
        volume,
        region,
        conditions=labels(2),
        conditions_before=labels(1),
        config=EditConfig(method=method, latent_margin=0),
        sampling=SamplingConfig(num_steps=2, solver=solver),
    )
    assert torch.equal(result[~region], volume[~region])
    assert (result[region] != volume[region]).all()


def test_the_conditions_and_the_seed_reach_the_region(sampler, volume, region) -> None:
    def edited(value: int, seed: int) -> Tensor:
        sampling = SamplingConfig(num_steps=3, solver="ddim", seed=seed)
        return inpaint(sampler, volume, region, conditions=labels(value), sampling=sampling)

    first = edited(1, 0)
    assert torch.equal(first, edited(1, 0))
    assert not torch.equal(first, edited(2, 0))
    assert not torch.equal(first, edited(1, 1))


def test_a_volume_is_edited_the_same_alone_or_in_a_batch(sampler, volume, region) -> None:
    both = inpaint(sampler, volume, region, conditions=labels(1), sampling=FEW)
    alone = inpaint(sampler, volume[1:], region[1:], conditions=labels(1)[1:], sampling=FEW, indices=[1])
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_fresh_noise_forgets_the_region_and_the_other_methods_do_not(sampler, volume, region) -> None:
    """Other voxels in the region change nothing for 'fresh', whose latents come from noise alone."""
    everywhere = torch.ones_like(region)
    other = volume.flip(0)
    for method, is_the_same in (("fresh", True), ("noise", False), ("inversion", False)):
        config = EditConfig(method=method, strength=0.7)
        one, two = (
            regenerate_region(
                sampler, original, everywhere, conditions=labels(1), config=config, sampling=FEW
            ).decoded
            for original in (volume, other)
        )
        assert torch.equal(one, two) is is_the_same


def test_less_strength_stays_nearer_to_the_original(calm_sampler, volume, region) -> None:
    distances = []
    for strength in (0.1, 0.4, 1.0):
        config = EditConfig(method="noise", strength=strength)
        sampling = SamplingConfig(num_steps=10, solver="ddim")
        redrawn = regenerate_region(
            calm_sampler, volume, region, conditions=labels(1), config=config, sampling=sampling
        )
        distances.append(float((redrawn.decoded - redrawn.reconstruction)[region].abs().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 0.7 * distances[-1]


def test_inversion_under_the_same_conditions_gives_the_reconstruction(calm_sampler, volume, region) -> None:
    """Nothing changes where nothing is asked to change, up to the inversion's error, which steps reduce."""
    errors = []
    for n_steps in (10, 40):
        redrawn = regenerate_region(
            calm_sampler,
            volume,
            region,
            conditions=labels(1),
            config=EditConfig(method="inversion", strength=0.5),
            sampling=SamplingConfig(num_steps=n_steps, solver="ddim", grid="trailing"),
        )
        spread = redrawn.reconstruction.std()
        errors.append(float((redrawn.decoded - redrawn.reconstruction)[region].abs().mean() / spread))
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method is 'magic'"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"margin_mm": -1}, "margin_mm is -1"),
        ({"resamplings": 0}, "resamplings is 0"),
        ({"method": "inversion", "resamplings": 2}, "set it to 1"),
    ],
)
def test_wrong_settings_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        EditConfig(**options)


def test_regions_and_solvers_that_do_not_fit_are_refused(sampler, volume, region) -> None:
    with pytest.raises(ValueError, match=r"torch.float32 of shape"):
        regenerate_region(sampler, volume, region.float())
    with pytest.raises(ValueError, match=r"\(B, 1, X, Y, Z\) is needed"):
        regenerate_region(sampler, volume[:, 0], region[:, 0])
    for solver in STOCHASTIC:
        with pytest.raises(ValueError, match="take 'ddim' with eta 0"):
            regenerate_region(
                sampler,
                volume,
                region,
                config=EditConfig(method="inversion"),
                sampling=SamplingConfig(solver=solver),
            )


def test_texture_is_drawn_within_the_region_alone(sampler, volume, region) -> None:
    plain = inpaint(sampler, volume, region, conditions=labels(2), sampling=FEW)
    sampler.model.texture = Texture(torch.ones(1, 1, 1, 1), torch.full((1, *TABLE_SHAPE), 0.1))
    off = inpaint(sampler, volume, region, conditions=labels(2), sampling=FEW.copy(texture=False))
    drawn = inpaint(sampler, volume, region, conditions=labels(2), sampling=FEW)
    assert torch.equal(off, plain)
    assert torch.equal(drawn[~region], volume[~region])
    assert (drawn[region] != plain[region]).float().mean() > 0.5
