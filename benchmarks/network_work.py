"""What a row of networks computes, once in MONAI and once in medldm, with equal weights.

`make_network_work` builds one side alone, so that each side runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from rows import Row, Setting
from torch import Tensor, nn

from medldm.diffusion import SOLVERS, DDPMPath, guided_denoiser, make_steps, run_solver
from medldm.networks import VAE, LatentUNet, StaticContext
from medldm.networks.kernels.cached_weights import clear_cached_weights
from medldm.networks.pretrained.monai_weights import unet_from_monai, vae_from_monai
from medldm.networks.quantiser import VectorQuantiser
from medldm.networks.streaming.encode_decode import stream_decode
from medldm.networks.streaming.memory_limit import decode_within

GUIDANCE = 7.5
AUTOENCODER: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (32, 64, 128),
    "latent_channels": 4,
    "num_res_blocks": 2,
    "norm_num_groups": 32,
    "attention_levels": (False, False, False),
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
}
UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "channels": (64, 128, 256),
    "attention_levels": (False, True, True),
    "num_res_blocks": 2,
    "norm_num_groups": 32,
    "num_head_channels": (32, 32, 32),
    "with_conditioning": True,
    "cross_attention_dim": 64,
}


Work = Callable[[], Tensor]


def make_network_work(row: Row, side: str, setting: Setting) -> Work:
    """Build what is to be measured: a function that computes and returns the tensor to compare."""
    size = row.quick if setting.quick else row.size
    make = {
        "autoencoder": _autoencoder_work,
        "decode": _decode_work,
        "unet": _unet_work,
        "sampling": _sampling_work,
        "quantisation": _quantisation_work,
    }[row.kind]
    work = make(row, size, side, setting)
    low = torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bfloat16")

    def run() -> Tensor:
        with low, torch.set_grad_enabled(row.is_step):
            return work().detach()

    return run


def make_autoencoder(side: str, setting: Setting) -> Any:
    """Build MONAI's AutoencoderKL, or the VAE with its weights."""
    torch.manual_seed(0)  # Building medldm's side draws numbers of its own.
    arguments = AUTOENCODER | {"use_flash_attention": setting.device == "cuda"}
    monai = AutoencoderKL(**arguments, use_checkpoint=setting.checkpointing and side == "MONAI")
    _fill_zeros(monai)
    if side == "MONAI":
        return monai.to(setting.device)
    return _with_checkpointing(vae_from_monai(monai), VAE, setting)


def make_unet(row: Row, side: str, setting: Setting) -> Any:
    """Build MONAI's DiffusionModelUNet, or the LatentUNet with its weights."""
    torch.manual_seed(0)
    arguments = UNET | {"in_channels": row.channels, "out_channels": row.channels}
    monai = DiffusionModelUNet(**arguments, use_flash_attention=setting.device == "cuda")
    _fill_zeros(monai)
    if side == "MONAI":
        return monai.to(setting.device)
    return _with_checkpointing(unet_from_monai(monai), LatentUNet, setting)


def _with_checkpointing(network: Any, network_class: type, setting: Setting) -> nn.Module:
    if setting.checkpointing:
        state = network.state_dict()
        network = network_class(replace(network.config, checkpointing=True))
        network.load_state_dict(state)
    return network.to(setting.device)


def _fill_zeros(network: nn.Module) -> None:
    """Draw the weights that start at zero, so that every layer counts in the comparison."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def _draw(shape: tuple[int, ...], setting: Setting) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(setting.device)


def _autoencoder_work(row: Row, size: tuple[int, ...], side: str, setting: Setting) -> Work:
    """Encode to the mean and decode; a training step adds loss, gradients and Adam."""
    network = make_autoencoder(side, setting).train(row.is_step)
    volume = _draw((row.batch, 1, *size), setting)

    def forward() -> tuple[Tensor, Tensor]:
        if side == "MONAI":
            mean, std = network.encode(volume)
            return network.decode(mean), mean.square() + std.square() - 2 * std.log()
        posterior = network.encode(volume)
        return network.decode(posterior.mean), 2 * posterior.kl() / posterior.mean[0].numel()

    if not row.is_step:
        return lambda: forward()[0]

    def loss() -> Tensor:
        reconstruction, kl = forward()
        return (reconstruction.float() - volume).abs().mean() + 1e-6 * kl.float().mean()

    return _step(network, side, loss)


def _decode_work(row: Row, size: tuple[int, ...], side: str, setting: Setting) -> Work:
    """Decode; medldm streams it by tiles, or as the row's limit on memory asks."""
    network = make_autoencoder(side, setting).eval()
    latents = _draw((row.batch, row.channels, *size), setting)
    if side == "MONAI":
        return lambda: network.decode(latents)
    if row.max_memory_gb is not None:
        return lambda: decode_within(network, latents, row.max_memory_gb)
    return lambda: stream_decode(network, latents, tile=row.tile, recompute=row.recompute)


def _unet_work(row: Row, size: tuple[int, ...], side: str, setting: Setting) -> Work:
    """Predict for noisy latents, a time and a context of 8 tokens; a training step adds the rest."""
    network = make_unet(row, side, setting).train(row.is_step)
    latents = _draw((row.batch, row.channels, *size), setting)
    context = _draw((row.batch, 8, UNET["cross_attention_dim"]), setting)
    times = torch.full((row.batch,), 500, device=setting.device)
    if not row.is_step:
        return lambda: network(latents, times, context=context)

    def loss() -> Tensor:
        return (network(latents, times, context=context).float() - latents).square().mean()

    return _step(network, side, loss)


def _step(network: nn.Module, side: str, compute_loss: Callable[[], Tensor]) -> Work:
    """Make a training step with Adam as MONAI's trainings make it, fused as medldm's do; returns the loss.

    The first step returns the norm of the gradient besides, for the comparison.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-6, fused=side == "medldm")
    compared: list[Tensor] = []

    def step() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = compute_loss()
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        if not compared:
            total = sum(p.grad.double().square().sum() for p in network.parameters() if p.grad is not None)
            compared.append(torch.stack([loss.detach().double(), torch.as_tensor(total).sqrt()]))
        optimiser.step()
        return compared[0]

    return step


def _sampling_work(row: Row, size: tuple[int, ...], side: str, setting: Setting) -> Work:
    """Sample by the same solver and guidance with either side's networks, then decode."""
    unet = make_unet(row, side, setting).eval()
    autoencoder = make_autoencoder(side, setting).eval()
    noise = _draw((1, row.channels, *size), setting)
    tokens = torch.cat([torch.zeros_like(_context(setting)), _context(setting)])
    path = DDPMPath()
    steps = make_steps(path, 4 if setting.quick else row.steps)

    def work() -> Tensor:
        context: Any = tokens if side == "MONAI" else StaticContext(tokens)
        denoise = guided_denoiser(
            lambda x, times, passes: unet(x, times, context=context).float(),
            GUIDANCE,
            path=path,
            prediction_type="epsilon",
            conditions=("class",),
        )
        latents = run_solver(SOLVERS["ddim"], denoise, noise, steps)
        if side == "medldm":
            clear_cached_weights(unet)  # as LatentDiffusionSampler does
        return autoencoder.decode(latents / latents.std())

    return work


def _context(setting: Setting) -> Tensor:
    return _draw((1, 8, UNET["cross_attention_dim"]), setting)


def _quantisation_work(row: Row, size: tuple[int, ...], side: str, setting: Setting) -> Work:
    """Replace each vector by its nearest code."""
    n_codes = 512 if setting.quick else 8192
    codes = torch.randn(n_codes, row.channels, generator=torch.Generator().manual_seed(2))
    latents = _draw((1, row.channels, *size), setting)
    if side == "MONAI":
        monai = EMAQuantizer(spatial_dims=3, num_embeddings=n_codes, embedding_dim=row.channels).eval()
        monai.embedding.weight.data.copy_(codes)
        monai = monai.to(setting.device)
        return lambda: monai(latents)[0]
    quantiser = VectorQuantiser(
        n_codes,
        row.channels,
        commitment_weight=0.25,
        learning="ema",
        decay=0.99,
        restart_after=None,
        is_initialised=True,
    ).eval()
    quantiser.codebook.copy_(codes)
    quantiser = quantiser.to(setting.device)
    return lambda: quantiser(latents).latents
