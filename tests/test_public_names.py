"""The snippets that the library was asked for run as written; only the networks' sizes are small here."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import medldm
from medldm import (
    VAE,
    VQVAE,
    LatentDiffusionConfig,
    LatentDiffusionTrainer,
    LatentUNet,
    LatentUNetConfig,
    VAEConfig,
    VQVAEConfig,
)
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.model_files import load_autoencoder, make_latent_diffusion

REPOSITORY = Path(__file__).resolve().parents[1]
# Its error names the call.
PRETRAINED = "medldm/networks/pretrained/monai_weights.py"

FIRST_STAGE = """
vae_config = VAEConfig()
vae_config.down_channels = [64, 128, 256, 512]; vae_config.up_channels = [512, 256, 128, 64]
vae_config.latent_channels = 4; vae_config.n_groups = 32
vae = VAE(in_channels=1)                                   # also VAE(vae_config), VQVAE(in_channels=1)
"""
CONFIGS = """
conditioning_config = ConditioningConfig()
conditioning_config.conditioning_type = "text"             # or "class", "image", None, ["text", "class"]
conditioning_config.text_embed_dim = 512; conditioning_config.num_classes = 1000; conditioning_config.conditioning_dropout = 0.1
ld_config = LatentDiffusionConfig()
ld_config.autoencoder_type = "vae"; ld_config.autoencoder_path = "trained_vae.pth"; ld_config.latent_scaling_factor = 0.18215
ld_config.n_timesteps = 1000; ld_config.beta_start = 1e-4; ld_config.beta_end = 0.02; ld_config.learning_rate = 1e-4; ld_config.n_epochs = 100
"""  # noqa: E501 (as it was asked for)
MODEL = """
model = LatentDiffusionModel(autoencoder_config={"in_channels": 1, "latent_channels": 4}, conditioning_config=conditioning_config)
"""  # noqa: E501 (as it was asked for)
SECOND_STAGE = """
torch.save(vae.state_dict(), "trained_vae.pth")
LatentDiffusionTrainer(model, ld_config).train(data_loader)
sampler = LatentDiffusionSampler(model, ld_config); sampler.load_checkpoint(path)
sample = sampler.sample((4, 4, 16, 64, 64), context=context, guidance_scale=7.5, num_steps=50, eta=0.0)
"""


def public_names() -> dict[str, Any]:
    return {"torch": torch, **{name: getattr(medldm, name) for name in medldm.__all__}}


def test_networks_of_the_asked_sizes_are_built_as_written() -> None:
    names = public_names()
    exec(CONFIGS, names)
    with torch.device("meta"):
        exec(FIRST_STAGE + MODEL, names)
        variants = VAE(names["vae_config"]), VQVAE(in_channels=1)
    assert variants[0].config == names["vae"].config == names["vae_config"]
    assert isinstance(variants[1].config, VQVAEConfig)
    assert names["model"].autoencoder_config == VAEConfig(latent_channels=4)
    unet = names["model"].unet_config
    assert (unet.down_channels, unet.up_channels) == ((320, 640, 1280, 1280), (2560, 1920, 960, 320))
    assert (unet.time_emb_dim, unet.n_heads, unet.cross_attention) == (320, 8, True)
    assert names["model"].denoiser.conditioning.names == ("text",)


def test_both_stages_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_defaults(
        monkeypatch, VAEConfig, down_channels=(4, 8), n_groups=4, n_res_blocks=1, mid_attention=False
    )
    set_defaults(monkeypatch, LatentUNetConfig, down_channels=(8, 16), n_groups=4, n_heads=2, n_res_blocks=1)
    names = public_names() | {
        "data_loader": [{"image": torch.rand(2, 1, 8, 8, 8), "text": torch.rand(2, 3, 512)}],
        "path": "outputs/latent_diffusion.safetensors",
        "context": torch.rand(4, 3, 512),
    }
    exec(FIRST_STAGE, names)
    exec(CONFIGS.replace("n_epochs = 100", "n_epochs = 2") + MODEL, names)
    exec(SECOND_STAGE.replace("(4, 4, 16, 64, 64)", "(4, 4, 2, 4, 4)"), names)
    assert names["sample"].shape == (4, 1, 4, 8, 8)
    own = names["model"].autoencoder.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in names["vae"].state_dict().items())


def set_defaults(monkeypatch: pytest.MonkeyPatch, kind: type, **defaults: Any) -> None:
    for name, value in defaults.items():
        monkeypatch.setitem(kind.__init__.__kwdefaults__, name, value)  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["class", "image", None, ["text", "class"]])
def test_other_conditions_are_set_as_written(kind: Any) -> None:
    names = public_names()
    exec(CONFIGS.replace('conditioning_type = "text"', f"conditioning_type = {kind!r}"), names)
    with torch.device("meta"):
        exec(MODEL, names)
    wanted = () if kind is None else (kind,) if isinstance(kind, str) else tuple(kind)
    assert names["model"].conditioning_config.conditioning_type == wanted


def test_widths_on_the_way_up_are_accepted_and_checked() -> None:
    config = LatentUNetConfig(up_channels=[2560, 1920, 960, 320])  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"up_channels is \(1280, 320\), but \(2560, .* follows"):
        config.up_channels = [1280, 320]  # type: ignore[misc,assignment]
    config.down_channels = (64, 128)
    assert config.up_channels == (192, 64)
    assert config.time_emb_dim == 64
    with torch.device("meta"):
        unet = LatentUNet(config)
    joined = [level.layers[-1].residual.conv1.in_channels for level in unet.up[:-1]]  # type: ignore[union-attr,index]
    assert (*joined, unet.conv_out.in_channels) == config.up_channels


def test_weights_of_another_autoencoder_are_refused_by_name(tmp_path: Path, make_model) -> None:
    torch.save(VAE(down_channels=(4, 8), n_groups=4).state_dict(), tmp_path / "other.pth")
    config = LatentDiffusionConfig(autoencoder_path=tmp_path / "other.pth")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"other.pth do not fit this model .*missing"):
        LatentDiffusionTrainer(make_model(()), config)


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2))]
)
def test_code_in_a_file_of_weights_does_not_run(save: Any, tmp_path: Path, make_model) -> None:
    save({"weight": Hostile(tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil.pth does not hold plain tensors"):
        LatentDiffusionTrainer(
            make_model(()), LatentDiffusionConfig(autoencoder_path=str(tmp_path / "evil.pth"))
        )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": {"weight": torch.zeros(1)}}])
def test_other_contents_of_a_file_of_weights_are_named(content: Any, tmp_path: Path, make_model) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x.pt holds a \w+ that is no mapping of names to tensors"):
        LatentDiffusionTrainer(make_model(()), LatentDiffusionConfig(autoencoder_path=str(tmp_path / "x.pt")))


def test_workflows_read_no_pickled_weights(tmp_path: Path) -> None:
    torch.save(VAE(down_channels=(4, 8), n_groups=4).state_dict(), tmp_path / "vae.pth")
    for load in (load_autoencoder, make_latent_diffusion):
        with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
            load(tmp_path / "vae.pth")
    readers = {
        str(file.relative_to(REPOSITORY))
        for file in (REPOSITORY / "medldm").rglob("*.py")
        if "load_plain_weights(" in file.read_text() or "load_first_stage(" in file.read_text()
    }
    assert readers == {
        "medldm/latent_diffusion/checkpoints.py",
        "medldm/latent_diffusion/model_files.py",
        "medldm/training/trainer.py",
    }


def test_the_command_that_imports_weights_alone_reads_archives_of_torch() -> None:
    def holding(text: str) -> set[str]:
        files = (REPOSITORY / "medldm").rglob("*.py")
        return {str(file.relative_to(REPOSITORY)) for file in files if text in file.read_text()}

    folder = "medldm/latent_diffusion/"
    assert holding("torch.load(") == {f"{folder}checkpoints.py", f"{folder}torch_archives.py", PRETRAINED}
    assert holding("load_archive(") == {f"{folder}foreign_weights.py", f"{folder}torch_archives.py"}
    assert holding("read_foreign_weights(") == {f"{folder}foreign_weights.py", f"{folder}import_weights.py"}
    assert holding("import_weights(") == {f"{folder}import_weights.py", "medldm/cli/import_weights.py"}


def test_the_scaling_factor_stands_until_statistics_are_measured(make_model) -> None:
    model = make_model(())
    LatentDiffusionTrainer(model, LatentDiffusionConfig(latent_scaling_factor=0.5))
    assert torch.equal(model.latent_scale, torch.full((3,), 0.5))
    model.set_latent_statistics(torch.zeros(3), torch.full((3,), 4.0))
    LatentDiffusionTrainer(model, LatentDiffusionConfig(latent_scaling_factor=0.7))
    assert torch.equal(model.latent_scale, torch.full((3,), 0.25))
