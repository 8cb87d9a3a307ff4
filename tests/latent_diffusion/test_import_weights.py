"""Weights of MONAI's networks become checkpoints; MONAI's own networks are the oracle."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from safetensors.torch import save_file
from torch import Tensor, nn

from medldm.cli.import_weights import KINDS
from medldm.errors import CheckpointError, ConfigError, MissingFileError
from medldm.files import hash_file
from medldm.latent_diffusion.checkpoints import load_checkpoint
from medldm.latent_diffusion.foreign_weights import read_arguments, read_foreign_weights
from medldm.latent_diffusion.import_weights import NETWORKS, import_weights, load_denoiser
from medldm.latent_diffusion.model_files import load_autoencoder, make_latent_diffusion
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import LatentUNetConfig
from medldm.transforms import IntensityMapping

ONE = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1}
LEVELS = {"num_res_blocks": (1, 2), "attention_levels": (False, False), "norm_num_groups": 4}
MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "maisi-autoencoder": (
        AutoencoderKlMaisi,
        ONE | LEVELS | {"num_channels": (4, 8), "num_splits": 1, "save_mem": False, "norm_float16": True},
    ),
    "monai-autoencoder": (AutoencoderKL, ONE | LEVELS | {"channels": (4, 8), "latent_channels": 3}),
    "monai-vqvae": (
        MonaiVQVAE,
        ONE
        | {"channels": (4, 6), "num_res_layers": 1, "num_res_channels": (4, 6), "num_embeddings": 16}
        | {"embedding_dim": 4, "downsample_parameters": (2, 4, 1, 1), "upsample_parameters": (2, 4, 1, 1, 0)},
    ),
    "monai-unet": (
        DiffusionModelUNet,
        LEVELS
        | {"spatial_dims": 3, "in_channels": 4, "out_channels": 4, "channels": (8, 16)}
        | {"attention_levels": (False, True), "num_head_channels": 4},
    ),
}
AUTOENCODERS = [kind for kind in MODULES if NETWORKS[kind].is_autoencoder]
TOLD = ("norm_num_groups", "num_head_channels")
CT = IntensityMapping(kind="ct_window")


def make_module(kind: str) -> nn.Module:
    """A module with random weights, none of them zero."""
    network, arguments = MODULES[kind]
    module = network(**arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.normal_(0.5 * (parameter.ndim == 1), spread, generator=generator)
    return module


def make_space(channels: tuple[str, ...] = ()) -> VolumeSpace:
    intensity = dict.fromkeys(channels, CT) if channels else CT
    return VolumeSpace(spacing_mm=(1, 1, 2), size=(16, 16, 8), intensity=intensity, channels=channels)


def run(folder: Path, kind: str, content: Any = None, *, told: Any = None, **options: Any) -> Any:
    """Import weights, or a file's content; of the arguments those are told that no weight tells."""
    path = folder / "foreign.pt"
    torch.save(make_module(kind).state_dict() if content is None else content, path)
    (folder / "network.json").write_text(
        json.dumps({name: MODULES[kind][1][name] for name in TOLD if name in MODULES[kind][1]} | (told or {}))
    )
    options = {"space": make_space() if NETWORKS[kind].is_autoencoder else None} | options
    return import_weights(
        path, folder / "out.safetensors", kind=kind, arguments=folder / "network.json", **options
    )


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", AUTOENCODERS)
@torch.no_grad()
def test_an_autoencoder_gives_what_monai_s_gives_of_volumes_from_0_to_1(kind: str, tmp_path: Path) -> None:
    run(tmp_path, kind)
    autoencoder, _ = load_autoencoder(tmp_path / "out.safetensors")
    oracle: Any = make_module(kind)
    if kind == "maisi-autoencoder":
        exact = AutoencoderKlMaisi(**MODULES[kind][1] | {"norm_float16": False}).eval()
        exact.load_state_dict(oracle.state_dict())
        oracle = exact
    volume = 2 * torch.rand(1, 1, 8, 12, 4, generator=torch.Generator().manual_seed(2)) - 1
    as_there = (volume + 1) / 2
    if kind == "monai-vqvae":
        same(autoencoder.encode_moments(volume)[0], oracle.encode(as_there))
        same(autoencoder.reconstruct(volume), 2 * oracle(as_there)[0] - 1)
    else:
        mean, std = oracle.encode(as_there)
        found_mean, found_std = autoencoder.encode_moments(volume)
        same(found_mean, mean)
        same(found_std, std)
        same(autoencoder.decode(mean), 2 * oracle.decode(mean) - 1)


def test_the_command_names_the_same_networks() -> None:
    assert KINDS == tuple(NETWORKS) == tuple(MODULES)


@torch.no_grad()
def test_a_denoiser_gives_what_monai_s_gives(tmp_path: Path) -> None:
    run(tmp_path, "monai-unet")
    x, timesteps = torch.randn(1, 4, 8, 4, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([300])
    oracle = make_module("monai-unet")
    same(load_denoiser(tmp_path / "out.safetensors")(x, timesteps), oracle(x, timesteps))


def test_the_card_says_where_the_weights_come_from(tmp_path: Path) -> None:
    imported = run(tmp_path, "maisi-autoencoder", licence="for research, by contract")
    card = load_checkpoint(tmp_path / "out.safetensors", kind="autoencoder").card
    origin = card["origin"]
    assert origin["file_sha256"] == hash_file(tmp_path / "foreign.pt")
    assert (origin["file"], origin["licence"]) == ("foreign.pt", "for research, by contract")
    assert origin["as"] == "maisi-autoencoder"
    assert origin["assumed"] == ["norm_eps"] == list(imported.assumed)
    assert origin["arguments"]["num_channels"] == [4, 8]
    assert card["space"] == make_space().to_dict()
    assert str(tmp_path) not in json.dumps(card)
    small = LatentUNetConfig(down_channels=[8], n_groups=4, n_heads=2)
    model = make_latent_diffusion(tmp_path / "out.safetensors", unet_config=small)
    (ancestor,) = model.lineage["autoencoder"]
    assert (ancestor["file_sha256"], ancestor["licence"]) == (origin["file_sha256"], origin["licence"])
    assert (model.space, model.autoencoder_config.value_range) == (make_space(), (0.0, 1.0))


def test_a_file_and_its_wrappings_give_the_same_weights(tmp_path: Path) -> None:
    weights = make_module("monai-autoencoder").state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    contents = [
        OrderedDict(wrapped),
        {"epoch": 3, "state_dict": weights, "optimizer": {"state": {0: {"step": torch.ones(())}}}},
        {
            "autoencoder_state_dict": wrapped,
            "unet_state_dict": {"a": torch.ones(1)},
            "scale_factor": torch.ones(()),
        },
        {"model": {"state_dict": wrapped}},
        {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
    ]
    sections = NETWORKS["monai-autoencoder"].sections
    for content in contents:
        torch.save(content, tmp_path / "x.pt")
        found = read_foreign_weights(tmp_path / "x.pt", sections=sections)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)
    save_file({name: tensor.contiguous() for name, tensor in wrapped.items()}, tmp_path / "x.safetensors")
    assert read_foreign_weights(tmp_path / "x.safetensors").keys() == weights.keys()


def test_arguments_are_read_from_the_config_of_a_bundle(tmp_path: Path) -> None:
    config = {
        "image_channels": 1,
        "autoencoder_def": {"_target_": "x", "in_channels": "@image_channels", "norm_num_groups": 4},
    }
    (tmp_path / "network.json").write_text(json.dumps(config))
    found = read_arguments(tmp_path / "network.json", definitions=("autoencoder_def",))
    assert found == {"in_channels": 1, "norm_num_groups": 4}
    (tmp_path / "network.json").write_text('{"in_channels": "$__import__(\'os\').getpid()"}')
    with pytest.raises(ConfigError, match=r"in_channels is .*nothing is evaluated"):
        read_arguments(tmp_path / "network.json")
    with pytest.raises(MissingFileError, match="no arguments at"):
        read_arguments(tmp_path / "none.json")


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("monai-vqvae", lambda _: make_module("monai-unet").state_dict(), "not those of a MONAI VQVAE.*UNet"),
        (
            "monai-autoencoder",
            lambda _: make_module("maisi-autoencoder").state_dict(),
            "import them --as maisi-autoencoder",
        ),
        (
            "maisi-autoencoder",
            lambda _: make_module("monai-autoencoder").state_dict(),
            "import them --as monai-autoencoder",
        ),
        (
            "maisi-autoencoder",
            lambda weights: without(weights, "decoder.blocks.2.norm2.weight"),
            r"not found for 1 weights \['decoder.blocks.2.norm2.weight'\].*num_channels.*\[4, 8\]",
        ),
        (
            "monai-unet",
            lambda weights: weights | {"controlnet.x": torch.ones(1)},
            r"no use for 1 weights \['controlnet.x'\]",
        ),
        (
            "monai-autoencoder",
            lambda weights: weights | {"decoder.blocks.0.conv.weight": torch.ones(8, 5, 3, 3, 3)},
            r"decoder.blocks.0.conv.weight: \(8, 5, 3, 3, 3\) in the weights, \(8, 3, 3, 3, 3\) by",
        ),
        (
            "monai-autoencoder",
            lambda weights: weights | {"encoder.blocks.0.conv.bias": torch.full((4,), torch.nan)},
            "encoder.blocks.0.conv.bias holds values that are not finite",
        ),
        ("monai-unet", lambda _: {"unet_state_dict": 1}, "has no weights by name"),
        ("monai-unet", lambda _: [1, 2], "has no weights by name.*list"),
        ("monai-unet", lambda _: {"a": torch.ones(1)}, "are of no network that is known here"),
    ],
)
def test_a_wrong_file_is_named(kind: str, change: Any, message: str, tmp_path: Path) -> None:
    content = change(make_module(kind).state_dict())
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, kind, content)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"channels": [4, 8, 16]}, r"channels is \[4, 8, 16\], the weights have \[4, 8\]"),
        ({"num_res_blocks": 2}, r"num_res_blocks is \[2, 2\], the weights have \[1, 2\]"),
        (
            {"latent_channels": 8, "in_channels": 2},
            "in_channels is 2, the weights have 1; latent_channels is 8",
        ),
        ({"chanels": [4, 8]}, "Did you mean 'channels'"),
        ({"norm_num_groups": 3}, r"no multiples of n_groups = 3.*norm_eps"),
    ],
)
def test_wrong_arguments_are_named(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, "monai-autoencoder", told=told)


def test_what_no_weight_tells_must_be_told_where_monai_s_default_does_not_fit(tmp_path: Path) -> None:
    torch.save(make_module("monai-autoencoder").state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"n_groups = 32.*'norm_num_groups': 32.*--arguments"):
        import_weights(
            tmp_path / "x.pt", tmp_path / "y.safetensors", kind="monai-autoencoder", space=make_space()
        )


def test_the_space_belongs_to_autoencoders_and_has_their_channels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs spacing, size and intensity"):
        run(tmp_path, "monai-autoencoder", space=None)
    with pytest.raises(ConfigError, match="has no spacing"):
        run(tmp_path, "monai-unet", space=make_space())
    with pytest.raises(ConfigError, match="takes 1 channels and makes 1, the intensity is that of 2"):
        run(tmp_path, "monai-autoencoder", space=make_space(("t1", "t2")))
