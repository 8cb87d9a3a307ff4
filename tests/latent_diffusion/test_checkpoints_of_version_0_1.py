"""Checkpoints that version 0.1.0 wrote load, and give what that version gave.

`files/*.safetensors` and `files/expected.json` were written by version 0.1.0: tiny networks with random
weights, and what they give for inputs that need no random generator (`waves`), in double precision but for
the samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm import LatentDiffusionSampler
from medldm.conditioning import Conditions
from medldm.latent_diffusion.model_files import load_autoencoder, load_latent_diffusion

FILES = Path(__file__).parent / "files"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FILES / "expected.json").read_text())
VOLUME = (1, 1, 8, 10, 8)


def waves(shape: tuple[int, ...]) -> Tensor:
    n_values = int(torch.tensor(shape).prod())
    return torch.sin(torch.arange(n_values, dtype=torch.float64) * 0.7 + 0.3).reshape(shape)


def conditions(name: str, dtype: torch.dtype) -> Conditions | None:
    if name == "latent_diffusion_flow":
        return None
    label_map = (torch.arange(2 * 8 * 10 * 8) // 7 % 3).reshape(2, 1, 8, 10, 8)
    text = waves((2, 5, 6)).float().to(dtype)
    values = {"class": torch.tensor([0, 2]), "label_map": label_map, "text": text}
    return Conditions(values, {"text": torch.tensor([False, True])})


def compare(name: str, key: str, found: Tensor, *, tolerance: float = 1e-6) -> None:
    wanted = torch.tensor(EXPECTED[name][key], dtype=torch.float64)
    torch.testing.assert_close(found.double().flatten(), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["vae", "vqvae", "vqvae_strided"])
@torch.no_grad()
def test_autoencoders_encode_and_decode_as_before(name: str) -> None:
    autoencoder, _ = load_autoencoder(FILES / f"{name}.safetensors")
    autoencoder.double()
    mean, std = autoencoder.encode_moments(waves(VOLUME))
    compare(name, "mean", mean)
    compare(name, "std", std)
    latents = waves((1, 3, *EXPECTED[name]["latent_size"]))
    compare(name, "decoded", autoencoder.decode(latents))


@pytest.mark.parametrize("name", ["latent_diffusion", "latent_diffusion_flow"])
@torch.no_grad()
def test_latent_models_predict_and_reconstruct_as_before(name: str) -> None:
    model, _, _ = load_latent_diffusion(FILES / f"{name}.safetensors")
    model.double()
    times = torch.tensor([3.0, 700.0], dtype=torch.float64)
    x_t = waves((2, 3, 4, 5, 4))
    compare(name, "prediction", model.denoiser(x_t, times, conditions(name, torch.float64)))
    compare(name, "reconstruction", model.decode(model.encode(waves(VOLUME))))


@pytest.mark.parametrize("name", ["latent_diffusion", "latent_diffusion_flow"])
def test_samples_are_drawn_as_before(name: str) -> None:
    model, config, _ = load_latent_diffusion(FILES / f"{name}.safetensors")
    given = conditions(name, torch.float32)
    guidance = {} if given is None else {"guidance_scale": 2.0}
    volumes = LatentDiffusionSampler(model, config).sample(
        (2, 3, 4, 5, 4), conditions=given, num_steps=4, solver="ddim", seed=7, **guidance
    )
    compare(name, "sample", volumes[:, :, ::2, ::2, ::2], tolerance=1e-4)


@pytest.mark.parametrize(("name", "first"), [("latent_diffusion", "vae"), ("latent_diffusion_flow", "vqvae")])
def test_a_latent_model_still_knows_its_autoencoder(name: str, first: str) -> None:
    load_latent_diffusion(FILES / f"{name}.safetensors", autoencoder_path=FILES / f"{first}.safetensors")
