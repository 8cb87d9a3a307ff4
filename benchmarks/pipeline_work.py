"""What a row around the networks computes: reading, loading, the latent cache, the sampling loop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset
from network_work import AUTOENCODER, GUIDANCE, UNET, Work
from reading import CHAINS, write_phantom
from rows import Row, Setting
from torch import Tensor

from medldm import LatentDiffusionConfig, LatentDiffusionModel, LatentUNetConfig, VAEConfig
from medldm.diffusion import SOLVERS, DDPMPath, guided_denoiser, make_steps, run_solver
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import LatentUNet, StaticContext
from medldm.training import DenoisingTask, cache_latents, training_loader, volume_transforms
from medldm.transforms import IntensityMapping

VAE_OPTIONS = {"down_channels": AUTOENCODER["channels"], "n_groups": 32, "mid_attention": False}
UNET_OPTIONS = {
    "down_channels": UNET["channels"],
    "attention_levels": UNET["attention_levels"],
    "n_heads": 8,
    "n_groups": 32,
}


def make_pipeline_work(row: Row, side: str, setting: Setting) -> Work:
    """Build what is to be measured: a function that computes and returns the tensor to compare."""
    make: Callable[..., Work] = {
        "reading": _reading_work,
        "stage_2": _stage_2_work,
        "loop": _loop_work,
        "loading": _loading_work,
    }[row.kind]
    torch.manual_seed(0)
    return make(row, row.quick if setting.quick else row.size, is_second=side == row.sides[1])


def _reading_work(row: Row, size: tuple[int, ...], *, is_second: bool) -> Work:
    """Read a compressed NIfTI, turn it to RAS+, resample to 1.5 mm and normalise."""
    folder = tempfile.TemporaryDirectory()
    path = write_phantom(Path(folder.name), size=size[0])[0]
    chain = CHAINS["medldm" if is_second else "monai"](1.5)

    def work() -> Tensor:
        # The folder lives as long as this function.
        return chain({"image": str(Path(folder.name) / path.name)})["image"].as_tensor()

    return work


def _make_model() -> LatentDiffusionModel:
    return LatentDiffusionModel(
        autoencoder_config=VAEConfig(**VAE_OPTIONS), unet_config=LatentUNetConfig(**UNET_OPTIONS)
    )


def _stage_2_work(row: Row, size: tuple[int, ...], *, is_second: bool) -> Work:
    """Train the denoiser for an epoch; the volumes are in memory."""
    model = _make_model()
    volumes = [{"image": torch.randn(1, 1, *size)} for _ in range(row.steps)]
    task = DenoisingTask(model, LatentDiffusionConfig())
    optimiser = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-6, fused=True)
    cached = cache_latents(model, volumes) if is_second else None

    def posterior(index: int) -> dict[str, Tensor]:
        if cached is not None:
            return {name: cached[index][name][None] for name in ("mean", "std")}
        with torch.no_grad():
            mean, std = model.autoencoder.encode_moments(volumes[index]["image"])
        return {"mean": mean, "std": std}

    def epoch() -> Tensor:
        generator = torch.Generator().manual_seed(1)
        for index in range(row.steps):
            x_0 = task.draw_latents(posterior(index), generator=generator)
            noise = torch.randn(x_0.shape, generator=generator)
            optimiser.zero_grad(set_to_none=True)
            times = torch.full((1,), 500)
            loss = task.loss(model.denoiser, x_0, None, t=times, noise=noise).mean()
            loss.backward()
            optimiser.step()
        return loss.detach()

    return epoch


def _loop_work(row: Row, size: tuple[int, ...], *, is_second: bool) -> Work:
    """Run the denoiser as often as the sampling does, and the sampling."""
    unet = LatentUNet(LatentUNetConfig(**UNET_OPTIONS, context_dim=UNET["cross_attention_dim"])).eval()
    noise, tokens = torch.randn(1, 4, *size), torch.randn(2, 8, UNET["cross_attention_dim"])
    path = DDPMPath()

    @torch.no_grad()
    def alone() -> Tensor:
        x, context = torch.cat([noise, noise]), StaticContext(tokens)
        for _ in range(row.steps):
            unet(x, torch.full((2,), 500.0), context=context)
        return torch.zeros(1)

    @torch.no_grad()
    def loop() -> Tensor:
        context: Any = StaticContext(tokens)
        denoise = guided_denoiser(
            lambda x, times, passes: unet(x, times, context=context),
            GUIDANCE,
            path=path,
            prediction_type="epsilon",
            conditions=("class",),
        )
        steps = make_steps(path, row.steps)
        run_solver(SOLVERS["ddim"], denoise, noise, steps)
        return torch.zeros(1)

    return loop if is_second else alone


def _loading_work(row: Row, size: tuple[int, ...], *, is_second: bool) -> Work:
    """Train the autoencoder for an epoch, with the loader of the bundle or with its batches in memory."""
    folder = tempfile.TemporaryDirectory()
    path = write_phantom(Path(folder.name), size=size[0])[0]
    mapping = IntensityMapping(kind="mr_percentile", foreground_only=False)
    space = VolumeSpace(spacing_mm=(1.3,) * 3, size=size, intensity=mapping)  # type: ignore[arg-type]
    cases = [{"image": str(path)} for _ in range(row.steps)]
    dataset = CacheDataset(cases, volume_transforms(space), progress=False)
    loader = training_loader(dataset, batch_size=1, seed=0)
    batches = list(loader)
    network = _make_model().autoencoder.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def epoch() -> Tensor:
        for batch in loader if is_second else batches:
            optimiser.zero_grad(set_to_none=True)
            volume = torch.as_tensor(batch["image"])
            (network(volume).reconstruction - volume).abs().mean().backward()
            optimiser.step()
        return torch.zeros(1)

    # The folder lives as long as the work.
    epoch.folder = folder  # type: ignore[attr-defined]
    return epoch
