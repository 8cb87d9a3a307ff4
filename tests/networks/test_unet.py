from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medldm.networks import LatentUNet, LatentUNetConfig, UNet
from medldm.networks.attention import StaticContext
from medldm.networks.embeddings import channel_statistics
from medldm.networks.unet_config import UNetConfig

Randomise = Callable[[nn.Module], nn.Module]
SMALL = LatentUNetConfig(
    down_channels=[8, 8, 16], n_groups=4, n_heads=2, context_dim=5, n_res_blocks=1, n_class_embeds=3
)


def make_inputs(
    generator: torch.Generator, *, size: tuple[int, ...] = (4, 8, 4), batch: int = 3
) -> dict[str, Tensor]:
    return {
        "x": torch.randn(batch, 4, *size, generator=generator),
        "timesteps": torch.tensor([0, 500, 999])[:batch],
        "context": torch.randn(batch, 2, 5, generator=generator),
        "class_labels": torch.tensor([2, 0, 1])[:batch],
    }


def test_output_starts_at_zero(generator: torch.Generator) -> None:
    assert not LatentUNet(SMALL)(**make_inputs(generator)).any()


def test_permuting_the_batch_permutes_the_output(randomise: Randomise, generator: torch.Generator) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    order = torch.tensor([2, 0, 1])
    permuted = unet(**{name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(permuted, unet(**inputs)[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(5, 6, 7), (1, 1, 3), (4, 8, 4), (9, 2, 5)])
def test_any_size_is_padded_with_its_edge_and_cropped(
    size: tuple[int, int, int], randomise: Randomise, generator: torch.Generator
) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator, size=size)
    output = unet(**inputs)
    assert output.shape == inputs["x"].shape
    padded = inputs["x"]
    for axis, n in enumerate(size, start=2):
        edge = padded.narrow(axis, n - 1, 1)
        padded = torch.cat([padded, *[edge] * (-n % 4)], dim=axis)
    expected = unet(**inputs | {"x": padded})[..., : size[0], : size[1], : size[2]]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_residual", [False, True])
def test_padding_at_the_levels_equals_padding_once_where_nothing_is_padded(
    is_residual: bool, randomise: Randomise, generator: torch.Generator
) -> None:
    once = randomise(LatentUNet(SMALL, residual_resampling=is_residual))
    levels = LatentUNet(SMALL, residual_resampling=is_residual, padding="levels")
    levels.load_state_dict(once.state_dict())
    inputs = make_inputs(generator)
    assert torch.equal(levels(**inputs), once(**inputs))
    odd = make_inputs(generator, size=(5, 9, 3))
    output = levels(**odd)
    assert output.shape == odd["x"].shape
    assert not torch.equal(output, once(**odd))


def test_padding_at_the_levels_adds_one_voxel_to_odd_sizes_alone(
    randomise: Randomise, generator: torch.Generator
) -> None:
    unet, seen = randomise(LatentUNet(SMALL, padding="levels")), []
    for level in [*unet.down, *unet.up]:
        level.layers[0].register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[2:])))
    unet(**make_inputs(generator, size=(9, 8, 5)))
    assert seen == [(9, 8, 5), (5, 4, 3), (3, 2, 2), (3, 2, 2), (5, 4, 3), (9, 8, 5)]


@pytest.mark.parametrize("name", ["timesteps", "context", "class_labels"])
def test_output_follows_each_input_of_its_own_sample(
    name: str, randomise: Randomise, generator: torch.Generator
) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    changed = inputs[name].clone()
    changed[1] = 1 + changed[2] if name == "context" else (17 if name == "timesteps" else 1)
    first, second = unet(**inputs), unet(**inputs | {name: changed})
    torch.testing.assert_close(first[[0, 2]], second[[0, 2]], rtol=0, atol=1e-6)
    assert not torch.allclose(first[1], second[1], rtol=0, atol=1e-3)


def test_times_may_be_float(randomise: Randomise, generator: torch.Generator) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    assert torch.equal(unet(**inputs), unet(**inputs | {"timesteps": inputs["timesteps"].double()}))


def test_static_context_stands_for_its_tensor(randomise: Randomise, generator: torch.Generator) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    static = inputs | {"context": StaticContext(inputs["context"])}
    with torch.no_grad():
        for shift in (0, 1):
            x = inputs["x"] + shift
            assert torch.equal(unet(**static | {"x": x}), unet(**inputs | {"x": x}))
    wrong = StaticContext(torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match=r"context has shape \(3, 2, 4\): \(3, tokens, 5\) is needed"):
        unet(**inputs | {"context": wrong})


@pytest.mark.parametrize("residual_resampling", [False, True])
def test_checkpointing_changes_neither_output_nor_gradients(
    residual_resampling: bool, randomise: Randomise, generator: torch.Generator
) -> None:
    config = replace(SMALL, residual_resampling=residual_resampling)
    plain = randomise(LatentUNet(config))
    saving = LatentUNet(replace(config, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    inputs = make_inputs(generator, size=(5, 4, 4))
    outputs = []
    for unet in (plain, saving):
        outputs.append(unet(**inputs))
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-6, atol=1e-7)


def test_every_parameter_learns(randomise: Randomise, generator: torch.Generator) -> None:
    unet = randomise(LatentUNet(SMALL))
    unet(**make_inputs(generator)).square().mean().backward()
    for name, parameter in unet.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_autocast_is_near_float32(randomise: Randomise, generator: torch.Generator) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    exact = unet(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rough = unet(**inputs)
    rough.float().mean().backward()
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_network_in_bfloat16_runs(randomise: Randomise, generator: torch.Generator) -> None:
    unet, inputs = randomise(LatentUNet(SMALL)).bfloat16(), make_inputs(generator)
    low = {name: inputs[name].bfloat16() for name in ("x", "context")}
    assert unet(**inputs | low).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": None}, "no context was given but the network has cross-attention"),
        ({"class_labels": None}, "no class_labels was given but the network has class embeddings"),
        ({"timesteps": torch.tensor([1])}, r"timesteps have shape \(1,\): give one for each of 3 samples"),
        ({"context": torch.zeros(3, 2, 4)}, r"context has shape \(3, 2, 4\): \(3, tokens, 5\) is needed"),
        ({"x": torch.zeros(3, 5, 4, 4, 4)}, r"x has shape \(3, 5, 4, 4, 4\): \(B, 4, X, Y, Z\) is needed"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    changes: dict[str, Tensor | None], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(ValueError, match=message):
        LatentUNet(SMALL)(**make_inputs(generator) | changes)


def test_inputs_without_use_are_refused(generator: torch.Generator) -> None:
    inputs = make_inputs(generator)
    unet = LatentUNet(replace(SMALL, cross_attention=False, n_class_embeds=None))
    with pytest.raises(ValueError, match="context was given but the network has no cross-attention"):
        unet(inputs["x"], inputs["timesteps"], context=inputs["context"])
    with pytest.raises(ValueError, match="class_labels was given but the network has no class embeddings"):
        unet(inputs["x"], inputs["timesteps"], class_labels=inputs["class_labels"])


def test_two_dimensions_work(generator: torch.Generator) -> None:
    inputs = make_inputs(generator, size=(5, 7))
    assert LatentUNet(replace(SMALL, spatial_dims=2))(**inputs).shape == (3, 4, 5, 7)


def test_pixel_space_has_the_same_trunk_without_cross_attention(generator: torch.Generator) -> None:
    config = UNetConfig(down_channels=[8, 16], n_groups=4, n_heads=2)
    unet = UNet(config)
    same = LatentUNet(config)
    assert unet.state_dict().keys() == same.state_dict().keys()
    assert not any("cross_attention" in name for name in unet.state_dict())
    assert unet(torch.randn(2, 1, 5, 6, 7, generator=generator), torch.tensor([1, 2])).shape == (
        2,
        1,
        5,
        6,
        7,
    )
    with pytest.raises(ValueError, match="use LatentUNet"):
        UNet(SMALL)


def test_a_pooled_context_changes_nothing_at_first_and_then_its_own_sample(
    randomise: Randomise, generator: torch.Generator
) -> None:
    plain = LatentUNet(SMALL)
    pooling = LatentUNet(replace(SMALL, pooled_context=True))
    randomise(plain)
    pooling.load_state_dict(plain.state_dict(), strict=False)
    inputs = make_inputs(generator)
    pooled = torch.randn(3, 5, generator=generator)
    torch.testing.assert_close(pooling(**inputs, pooled=pooled), plain(**inputs))
    randomise(pooling)
    changed = pooled.clone()
    changed[1] += 1.0
    difference = (pooling(**inputs, pooled=changed) - pooling(**inputs, pooled=pooled)).flatten(1)
    assert (difference.abs().amax(dim=1) > 1e-4).tolist() == [False, True, False]


def test_a_pooled_context_is_given_if_and_only_if_it_is_used(generator: torch.Generator) -> None:
    inputs, pooled = make_inputs(generator), torch.zeros(3, 5)
    with pytest.raises(ValueError, match="has no pooled context"):
        LatentUNet(SMALL)(**inputs, pooled=pooled)
    with pytest.raises(ValueError, match="no pooled was given"):
        LatentUNet(replace(SMALL, pooled_context=True))(**inputs)
    with pytest.raises(ValueError, match="no context to pool"):
        replace(SMALL, cross_attention=False, pooled_context=True)


@pytest.mark.parametrize("residual_resampling", [False, True])
def test_blocks_run_in_the_order_in_which_they_are_listed(residual_resampling: bool) -> None:
    unet = UNet(UNetConfig(down_channels=(8, 16), n_groups=4, residual_resampling=residual_resampling))
    ran: list[nn.Module] = []
    blocks = unet.blocks()
    for block in blocks:
        block.register_forward_hook(lambda block, inputs, output: ran.append(block))
    unet(torch.zeros(1, 1, 4, 4, 4), torch.tensor([3]))
    assert ran == blocks
    outside = {id(weight) for weight in unet.parameters()} - {
        id(weight) for block in blocks for weight in block.parameters()
    }
    outer = (unet.time_embedding, unet.conv_in, unet.norm_out, unet.conv_out)
    assert outside == {id(weight) for module in outer for weight in module.parameters()}


def test_a_network_told_of_augmentations_starts_as_the_one_told_of_none(
    randomise: Randomise, generator: torch.Generator
) -> None:
    """At the start any augmentation, and with any weights zeros, give what no augmentation gives."""
    plain, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    told = LatentUNet(SMALL.copy(augmentation_channels=4))
    told.load_state_dict(plain.state_dict(), strict=False)
    done = torch.randn(3, 4, generator=generator)
    assert torch.equal(told(**inputs, augmentation=done), plain(**inputs))
    randomise(told.augmentation_embedding)
    assert torch.equal(told(**inputs, augmentation=torch.zeros(3, 4)), plain(**inputs))
    assert torch.equal(told(**inputs), plain(**inputs))
    changed = told(**inputs, augmentation=torch.stack([done[0], 0 * done[1], done[2]]))
    assert torch.equal(changed[1], plain(**inputs)[1])
    assert not torch.allclose(changed[0], plain(**inputs)[0], atol=1e-4)


def test_an_augmentation_the_network_is_not_told_of_is_refused(generator: torch.Generator) -> None:
    for n_channels in (0, 3):
        unet = LatentUNet(SMALL.copy(augmentation_channels=n_channels))
        with pytest.raises(ValueError, match=r"augmentation has shape \(3, 4\)"):
            unet(**make_inputs(generator), augmentation=torch.zeros(3, 4))


def test_a_network_told_of_its_input_starts_as_the_one_that_is_not(
    randomise: Randomise, generator: torch.Generator
) -> None:
    plain, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    told = LatentUNet(SMALL.copy(input_statistics=True))
    told.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(told(**inputs), plain(**inputs))
    randomise(told.statistics_embedding)
    changed = told(**inputs)
    assert not torch.allclose(changed, plain(**inputs), atol=1e-4)
    alone = told(**{name: value[1:2] for name, value in inputs.items()})
    torch.testing.assert_close(alone, changed[1:2])


def test_gains_start_at_zero_and_are_a_level_and_factors_of_the_input_and_its_fine_part(
    randomise: Randomise, generator: torch.Generator
) -> None:
    plain, inputs = randomise(LatentUNet(SMALL)), make_inputs(generator)
    told = LatentUNet(SMALL.copy(input_gains=True))
    told.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(told(**inputs), plain(**inputs))
    gains = told.input_gains
    n = SMALL.out_channels
    torch.nn.init.zeros_(gains.linear2.weight)
    gains.linear2.bias.data = torch.tensor([0.5, 2.0, -1.0]).repeat_interleave(n)
    added = told(**inputs) - plain(**inputs)
    x = inputs["x"][:, :n].double()
    around = torch.nn.functional.pad(x, [1] * 6)
    counted = torch.nn.functional.pad(torch.ones_like(x), [1] * 6)
    box = [(i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    sizes = x.shape[2:]

    def total(of: torch.Tensor) -> torch.Tensor:
        return sum(of[:, :, i : i + sizes[0], j : j + sizes[1], k : k + sizes[2]] for i, j, k in box)  # type: ignore[return-value]

    expected = -1 + 0.5 * x + 2 * (x - total(around) / total(counted))
    torch.testing.assert_close(added.double(), expected, atol=1e-5, rtol=1e-5)


def test_statistics_tell_level_contrast_and_grain() -> None:
    """White noise has log sds of 0; twice the contrast adds log 2; smooth volumes have small differences."""
    noise = torch.randn(2, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    plain = channel_statistics(noise)
    torch.testing.assert_close(plain, torch.zeros(10), rtol=0, atol=0.03)
    scaled = channel_statistics(2 * noise + 3)
    torch.testing.assert_close(scaled[:2], 2 * plain[:2] + 3)
    torch.testing.assert_close(scaled[2:], plain[2:] + math.log(2))
    wave = torch.sin(torch.arange(24) * math.pi / 12).view(1, -1, 1, 1).expand(2, 24, 24, 24)
    along, across = channel_statistics(wave)[4:6], channel_statistics(wave)[6:]
    assert along.max() < -1 and across.max() < -6
    assert channel_statistics(noise[:, :1]).isfinite().all()
