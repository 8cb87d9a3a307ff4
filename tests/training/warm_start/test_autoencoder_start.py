"""A first stage starts from another one: what it reconstructs says what was taken."""

from __future__ import annotations

import pytest
import torch

from medldm.data.labels import LabelSchema
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.label_maps import build_label_map_autoencoder, encode_one_hot
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, VQVAE
from medldm.training.autoencoder_size import choose_autoencoder
from medldm.training.warm_start import plan_autoencoder_start
from medldm.training.warm_start.spaces import describe_kinds
from medldm.transforms import IntensityMapping
from tests.training.warm_start.started import opened, save_autoencoder, save_model

SMALL = {"down_channels": (4, 8), "n_groups": 4, "n_res_blocks": 1, "mid_attention": False}
MAPPING = IntensityMapping(kind="mr_percentile", lower=0.0, upper=9.0)


def make(kind=VAE, *, seed=0, **options):
    torch.manual_seed(seed)
    return shake(kind(**(SMALL | options)), seed)


def shake(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return network.eval()


def space(*channels):
    intensity = dict.fromkeys(channels, MAPPING) if channels else MAPPING
    return VolumeSpace(spacing_mm=(1, 1, 1), size=(8, 8, 8), intensity=intensity, channels=channels)


def start_with(path, network, **options):
    given = {name: options.pop(name) for name in ("names", "allow_other_intensity") if name in options}
    plan = plan_autoencoder_start(opened(path, stage="autoencoder", **given), network, **options)
    assert plan is not None
    plan.apply(network)
    return plan


def volume(n_channels=1):
    return torch.rand(1, n_channels, 8, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("kind", "options"), [(VAE, {"linear_path": "lapped"}), (VQVAE, {"n_codes": 8})])
def test_the_same_network_takes_every_weight_and_buffer_to_the_bit(tmp_path, kind, options) -> None:
    old, new = make(kind, **options), make(kind, seed=1, **options)
    if old.linear_path is not None:
        old.linear_path.mean += 0.5
        old.linear_path.is_fitted.fill_(True)
    start_with(save_autoencoder(old, tmp_path / "old.safetensors", space=space()), new)
    there = old.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in new.state_dict().items())


def test_an_autoencoder_comes_out_of_a_second_stage_too(make_model, tmp_path) -> None:
    model = make_model()
    new = VAE(model.autoencoder_config)
    start_with(save_model(model, tmp_path / "model.safetensors"), new)
    assert torch.equal(new.decoder.conv_out.weight, model.autoencoder.decoder.conv_out.weight)


def test_channels_in_another_order_make_the_same_volumes(tmp_path) -> None:
    old, new = (make(in_channels=2, out_channels=2, seed=seed) for seed in (0, 1))
    path = save_autoencoder(old, tmp_path / "old.safetensors", space=space("t1n", "t2w"))
    start_with(path, new, channels=("flair", "t1n"), names={"flair": "t2w"})
    with torch.no_grad():
        made, wanted = new.reconstruct(volume(2).flip(1)), old.reconstruct(volume(2))
    assert torch.allclose(made.flip(1), wanted, atol=1e-5)


def test_a_new_channel_begins_anew_beside_the_known_one(tmp_path) -> None:
    old, new = make(), make(in_channels=2, out_channels=2, seed=1)
    path = save_autoencoder(old, tmp_path / "old.safetensors", space=space("t1n"))
    own = new.decoder.conv_out.weight[0].clone()
    plan = start_with(path, new, channels=("flair", "t1n"))
    assert torch.equal(new.decoder.conv_out.weight[1], old.decoder.conv_out.weight[0])
    assert torch.equal(new.decoder.conv_out.weight[0], own)
    assert torch.equal(new.encoder.conv_in.weight[:, 1], old.encoder.conv_in.weight[:, 0])
    assert any("taken: t1n; new: flair" in line for line in plan.lines)
    with pytest.raises(ConfigError, match="of which this training has none"):
        start_with(path, make(in_channels=2, out_channels=2), channels=("flair", "t2w"))


def test_the_structures_of_label_maps_are_matched_by_name(tmp_path) -> None:
    before = LabelSchema(structures={1: "shell", 5: "core"})
    after = LabelSchema(structures={2: "core", 3: "shell"})
    old, new = (
        shake(build_label_map_autoencoder(schema, **SMALL), seed)
        for seed, schema in enumerate((before, after))
    )
    path = save_autoencoder(old, tmp_path / "old.safetensors", space=space(), schema=before)
    start_with(path, new, schema=after)
    labels = torch.randint(3, (1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    order = torch.tensor([0, 2, 1])
    with torch.no_grad():
        made = new.reconstruct(encode_one_hot(order[labels], 3))
        wanted = old.reconstruct(encode_one_hot(labels, 3))
    assert torch.allclose(made[:, order], wanted, atol=1e-5)
    with pytest.raises(ConfigError, match="a model of label maps, but this training is of images"):
        start_with(path, make(in_channels=3, out_channels=3))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": VQVAE}, "a 'vae', but this training is of a 'vqvae': set autoencoder_type to vae"),
        ({"latent_channels": 5}, "latent_channels is 5 here and 4 in the checkpoint"),
        ({"down_channels": (4, 12)}, r"down_channels is \[4, 12\] here and \[4, 8\] in the checkpoint"),
        ({"downsampling": (2, 2, 1)}, r"downsampling is \[2, 2, 1\] here and \[2, 2, 2\] in the"),
        ({"linear_path": True}, "linear_path is True here and False in the checkpoint"),
    ],
)
def test_another_architecture_is_refused_with_both_values(tmp_path, network, message) -> None:
    path = save_autoencoder(make(), tmp_path / "old.safetensors", space=space())
    with pytest.raises(ConfigError, match=message):
        start_with(path, make(**network))


def test_the_components_of_other_channels_are_refused(tmp_path) -> None:
    linear = {"linear_path": "blocked", "latent_channels": 8}
    path = save_autoencoder(make(**linear), tmp_path / "old.safetensors", space=space("t1n"))
    with pytest.raises(ConfigError, match="the components of a linear path are of all channels together"):
        start_with(path, make(in_channels=2, out_channels=2, **linear), channels=("t1n", "t2w"))
    start_with(path, make(**linear), channels=("t2w",))


def test_mr_weights_for_ct_are_refused_unless_allowed(tmp_path) -> None:
    path = save_autoencoder(make(), tmp_path / "old.safetensors", space=space())
    with pytest.raises(ConfigError, match="ct_window of image here and mr_percentile in the checkpoint"):
        start_with(path, make(seed=1), intensity="ct_window")
    plan = start_with(path, make(seed=1), intensity="ct_window", allow_other_intensity=True)
    assert any("ct_window of image here" in line for line in plan.lines)
    start_with(path, make(seed=1), intensity="mr_percentile", spacing_mm=(1, 1, 1))


def test_a_size_left_open_is_that_of_the_checkpoint(tmp_path) -> None:
    path = save_autoencoder(make(latent_channels=5), tmp_path / "old.safetensors")
    auto = SMALL | {"down_channels": "auto", "latent_channels": "auto"}
    built = choose_autoencoder("vae", size=(8, 8, 8), options=auto, start=opened(path, stage="autoencoder"))
    assert built.config.down_channels == (4, 8) and built.config.latent_channels == 5


@pytest.mark.parametrize(
    ("intensity", "channels", "kinds"),
    [
        ("ct_window", ("image",), {"image": "ct_window"}),
        ({"kind": "ct_window", "dense_upper": 3000}, ("a", "b"), {"a": "ct_window", "b": "ct_window"}),
        (
            {"a": "mr_percentile", "b": {"kind": "ct_window"}},
            ("a", "b"),
            {"a": "mr_percentile", "b": "ct_window"},
        ),
    ],
)
def test_the_kind_of_intensity_is_read_as_the_space_reads_it(intensity, channels, kinds) -> None:
    assert describe_kinds(intensity, channels) == kinds


def test_a_denoiser_does_not_start_from_an_autoencoder(tmp_path) -> None:
    path = save_autoencoder(make(), tmp_path / "old.safetensors")
    with pytest.raises(CheckpointError, match="of the stage diffusion starts from one of 'latent_diffusion'"):
        opened(path)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        opened(tmp_path / "none.safetensors")
