"""Train MONAI's own latent diffusion recipe for a given time and write a synthetic cohort, beside ours.

python benchmarks/hippocampus/monai_recipe.py DATASET_DIR OUTPUT_DIR --minutes 120

What is MONAI's, after its brats_mri_generative_diffusion bundle: AutoencoderKL and PatchDiscriminator with
L1, KL (1e-7) and least-squares adversarial (0.01) loss; DiffusionModelUNet with DDPMScheduler
(scaled_linear_beta, 0.0015 to 0.0195, 1000 steps, noise prediction); scale factor 1 / std of the latents of
one batch; intensities from 0 to the 99.5th percentile onto [0, 1]; the last weights, without averaging. Its
perceptual loss needs a download and is left out. The label map reaches the denoiser as one-hot channels,
downsampled to the latent grid and concatenated (`LatentDiffusionInferer`, mode "concat"). Sampling is DDIM
with as many steps as ours, or DDPM with all (--ddpm).

What is the same as ours: the cases and their split, the numbers of channels, the label maps of the new
volumes, the time of training, the precision (autocast, which MONAI's bundle uses too). Sizes are multiples of
16, as MONAI's networks ask for; ours takes 44 x 60 x 48. The affine is the label map's; MONAI's bundle writes
the identity. Time is that of the processor on a CPU, all threads together, so that work beside it takes none.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import LatentDiffusionInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, PatchDiscriminator
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from monai.transforms import ScaleIntensityRangePercentiles
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from medldm.data.case_checks import only_image
from medldm.data.cohort import read_cohort
from medldm.data.labels import LabelSchema
from medldm.generation.files import LabelGrid, SyntheticWriter
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.runtime.devices import choose_device
from medldm.training.precision import autocast
from medldm.transforms import CentreCropOrPad, IntensityMapping, LoadVolume, ResampleToSpacing

logger = logging.getLogger("monai_recipe")

SCHEDULE = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
KL_WEIGHT, ADVERSARIAL_WEIGHT = 1e-7, 0.01


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Channels as in docs/results/hippocampus.md, rates as tuned there.

    Args:
        size: voxels of a volume, multiples of 16.
        channels: of the autoencoder.
        latent_channels: of the latents.
        unet_channels: of the denoiser; attention in all levels but the first.
        learning_rates: of autoencoder, discriminator and denoiser.
        batch_sizes: of autoencoder and denoiser.
        autoencoder_share: of the time.
        precision: of autocast.
        adversarial_share: last part of the autoencoder's time, with the discriminator.
    """

    size: tuple[int, int, int] = (48, 64, 48)
    channels: tuple[int, ...] = (16, 32, 64)
    latent_channels: int = 4
    unet_channels: tuple[int, ...] = (48, 96, 192)
    learning_rates: tuple[float, float, float] = (8e-4, 5e-4, 6e-4)
    batch_sizes: tuple[int, int] = (1, 6)
    autoencoder_share: float = 0.5
    precision: str = "auto"
    adversarial_share: float = 0.25


def main() -> None:
    """Read the arguments, train, write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset_dir")
    parser.add_argument("output_dir", type=Path, help="receives the synthetic cohort: images/ and labels/")
    parser.add_argument("--minutes", type=float, required=True, help="of both trainings together, see above")
    parser.add_argument("--autoencoder-share", type=float, default=Recipe.autoencoder_share)
    parser.add_argument("--validation-fraction", type=float, default=0.1, help="as in our training")
    parser.add_argument("--test-fraction", type=float, default=0.1, help="as in our training")
    parser.add_argument("--split-seed", type=int, default=0, help="as in our training")
    parser.add_argument("--size", type=int, nargs=3, default=Recipe.size)
    parser.add_argument("--label-maps", choices=("test", "validation", "training"), default="test")
    parser.add_argument("--num-samples", type=int, help="one for each of these label maps if not given")
    parser.add_argument("--first-sample", type=int, default=0, help="index of the first volume")
    parser.add_argument("--num-steps", type=int, default=50, help="of DDIM")
    parser.add_argument("--ddpm", action="store_true", help="all 1000 steps of DDPM in the place of DDIM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", help="of autocast; auto is bfloat16 where it is fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--weights", type=Path, help="safetensors file that keeps them; taken where it exists"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    recipe = Recipe(
        size=tuple(options.size), autoencoder_share=options.autoencoder_share, precision=options.precision
    )
    cohort = read_cohort(
        options.dataset_dir,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.split_seed,
    )
    if cohort.schema is None:
        raise SystemExit("error: the cohort has no label maps, which this recipe is conditioned on")
    device = choose_device(options.device)
    data = load_cases(cohort.training, recipe, cohort.schema)
    first, *second = trained_networks(data, recipe, options, device)
    label_maps = [case["label"] for case in getattr(cohort, options.label_maps)]
    write_cohort(
        label_maps,
        options.output_dir,
        make=lambda latent_size, maps, seed: sample(first, *second, latent_size, maps, options, seed=seed),
        recipe=recipe,
        schema=cohort.schema,
        indices=range(options.first_sample, options.num_samples or len(label_maps)),
        seed=options.seed,
    )


def trained_networks(
    data: tuple[Tensor, Tensor], recipe: Recipe, options: argparse.Namespace, device: torch.device
) -> tuple[AutoencoderKL, DiffusionModelUNet, float]:
    """Train both stages, or take them from the file of weights where there is one; the scale factor last."""
    if options.weights and options.weights.exists():
        first, second = make_autoencoder(recipe), make_denoiser(recipe, int(data[1].max()) + 1)
        tensors = load_file(options.weights)
        for name, network in (("autoencoder.", first), ("denoiser.", second)):
            own = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
            network.load_state_dict(own)
        return first.to(device).eval(), second.to(device).eval(), float(tensors["scale_factor"])
    seconds, share = 60 * options.minutes, recipe.autoencoder_share
    first = train_autoencoder(data[0], recipe, seconds * share, device)
    second, scale_factor = train_denoiser(*data, first, recipe, seconds * (1 - share), device)
    if options.weights:
        keep_weights(options.weights, first, second, scale_factor)
    return first, second, scale_factor


def load_cases(cases: Sequence[dict[str, Any]], recipe: Recipe, schema: LabelSchema) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, X, Y, Z) in [0, 1] and label maps (N, X, Y, Z) as 0..K."""
    scale = ScaleIntensityRangePercentiles(0, 99.5, 0, 1, clip=True)
    images, maps = [], []
    for case in cases:
        image = ResampleToSpacing((1, 1, 1))(LoadVolume()(only_image(case)))
        labels = ResampleToSpacing((1, 1, 1), is_label=True)(LoadVolume(is_label=True)(case["label"]))
        images.append(CentreCropOrPad(recipe.size)(scale(image)).as_tensor())
        maps.append(schema.index_map(CentreCropOrPad(recipe.size, fill=0.0)(labels).as_tensor())[0].long())
    return torch.stack(images).float(), torch.stack(maps)


def make_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """Return the untrained first stage."""
    return AutoencoderKL(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=recipe.channels,
        num_res_blocks=2,
        attention_levels=(False,) * len(recipe.channels),
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )


def make_denoiser(recipe: Recipe, n_labels: int) -> DiffusionModelUNet:
    """Return the untrained second stage."""
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=recipe.latent_channels + n_labels,
        out_channels=recipe.latent_channels,
        channels=recipe.unet_channels,
        num_res_blocks=2,
        attention_levels=(False, *(True for _ in recipe.unet_channels[1:])),
        num_head_channels=(0, *(channels // 4 for channels in recipe.unet_channels[1:])),
        norm_num_groups=16,
    )


def train_autoencoder(images: Tensor, recipe: Recipe, seconds: float, device: torch.device) -> AutoencoderKL:
    """Train the first stage until the time is over."""
    network = make_autoencoder(recipe).to(device)
    critic = PatchDiscriminator(spatial_dims=3, in_channels=1, channels=16, num_layers_d=3, out_channels=1)
    critic = critic.to(device)
    adversarial = PatchAdversarialLoss(criterion="least_squares")
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rates[0])
    of_critic = torch.optim.Adam(critic.parameters(), lr=recipe.learning_rates[1])
    for step, progress, (batch,) in timed_batches((images,), recipe.batch_sizes[0], seconds, device):
        # Autocast ends with the pass: what it keeps of the weights must not outlive a step.
        with autocast(device, recipe.precision):
            output, mean, deviation = (each.float() for each in network(batch))
        variance = deviation**2
        kl = 0.5 * (mean**2 + variance - torch.log(variance) - 1).sum(dim=(1, 2, 3, 4)).mean()
        loss = F.l1_loss(output, batch) + KL_WEIGHT * kl
        is_adversarial = progress > 1 - recipe.adversarial_share
        if is_adversarial:
            wrong = adversarial(critic(output)[-1], target_is_real=True, for_discriminator=False)
            loss = loss + ADVERSARIAL_WEIGHT * wrong
        update(optimiser, loss)
        if is_adversarial:
            fake = adversarial(critic(output.detach())[-1], target_is_real=False, for_discriminator=True)
            real = adversarial(critic(batch)[-1], target_is_real=True, for_discriminator=True)
            update(of_critic, ADVERSARIAL_WEIGHT * 0.5 * (fake + real))
        report("autoencoder", step, progress, loss)
    return network.eval()


def train_denoiser(
    images: Tensor, maps: Tensor, first: AutoencoderKL, recipe: Recipe, seconds: float, device: torch.device
) -> tuple[DiffusionModelUNet, float]:
    """Train the second stage until the time is over; return it with the scale factor."""
    n_labels = int(maps.max()) + 1
    network = make_denoiser(recipe, n_labels).to(device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, **SCHEDULE)
    with torch.no_grad():
        one_batch = first.encode_stage_2_inputs(images[: recipe.batch_sizes[1]].to(device))
    scale_factor = float(1 / one_batch.std())
    inferer = LatentDiffusionInferer(scheduler, scale_factor=scale_factor)
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rates[2])
    batches = timed_batches((images, maps), recipe.batch_sizes[1], seconds, device)
    for step, progress, (batch, labels) in batches:
        noise = torch.randn((len(batch), *one_batch.shape[1:]), device=device)
        times = torch.randint(0, 1000, (len(batch),), device=device)
        with autocast(device, recipe.precision):
            predicted = inferer(
                batch,
                autoencoder_model=first,
                diffusion_model=network,
                noise=noise,
                timesteps=times,
                condition=to_latent_grid(labels, n_labels, noise.shape[2:]),
                mode="concat",
            )
        loss = F.mse_loss(predicted.float(), noise)
        update(optimiser, loss)
        report("denoiser", step, progress, loss)
    return network.eval(), scale_factor


def keep_weights(path: Path, first: AutoencoderKL, second: DiffusionModelUNet, scale_factor: float) -> None:
    """Write both networks and the scale factor into one file."""
    networks = {"autoencoder": first, "denoiser": second}
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    save_file(tensors | {"scale_factor": torch.tensor(scale_factor)}, path)


def to_latent_grid(maps: Tensor, n_labels: int, size: Sequence[int]) -> Tensor:
    """Return one-hot channels (B, K + 1, x, y, z), nearest neighbour, of label maps (B, X, Y, Z)."""
    channels = F.one_hot(maps, n_labels).movedim(-1, 1).float()
    return F.interpolate(channels, size=tuple(size), mode="nearest")


@torch.no_grad()
def sample(
    first: AutoencoderKL,
    network: DiffusionModelUNet,
    scale_factor: float,
    latent_size: Sequence[int],
    maps: Tensor,
    options: argparse.Namespace,
    *,
    seed: int,
) -> Tensor:
    """Return a volume (1, X, Y, Z) for one label map (1, X, Y, Z)."""
    device = next(network.parameters()).device
    scheduler = (DDPMScheduler if options.ddpm else DDIMScheduler)(num_train_timesteps=1000, **SCHEDULE)
    scheduler.set_timesteps(1000 if options.ddpm else options.num_steps)
    torch.manual_seed(seed)
    n_latents = network.out_channels
    noise = torch.randn((1, n_latents, *latent_size), device=device)
    n_labels = network.in_channels - n_latents
    with autocast(device, options.precision):
        volume = LatentDiffusionInferer(scheduler, scale_factor=scale_factor).sample(
            input_noise=noise,
            autoencoder_model=first,
            diffusion_model=network,
            scheduler=scheduler,
            conditioning=to_latent_grid(maps.to(device), n_labels, latent_size),
            mode="concat",
            verbose=False,
        )
    return volume[0].float().cpu()


def write_cohort(
    label_maps: Sequence[str],
    output_dir: Path,
    *,
    make: Any,
    recipe: Recipe,
    schema: LabelSchema,
    indices: range,
    seed: int,
    name: str = "MONAI",
) -> None:
    """Write images/, labels/ and sidecars/, each image on its label map's grid with its affine."""
    multiple = 2 ** (len(recipe.channels) - 1)
    intensity = IntensityMapping(kind="identity_range", lower=0.0, upper=1.0)
    space = VolumeSpace(spacing_mm=(1, 1, 1), size=recipe.size, intensity=intensity)
    writer = SyntheticWriter(output_dir)
    writer.refuse_existing(indices)
    for index in indices:
        grid = LabelGrid(label_maps[index % len(label_maps)], space, multiple=(multiple,) * 3)
        maps = schema.index_map(grid.prepared).long()
        volume = make([size // multiple for size in grid.size], maps, seed + index)
        writer.write(
            index,
            np.asarray(grid.to_file_grid(volume), dtype=np.float32),
            affine=grid.affine,
            sidecar={"synthetic": True, "index": index, "recipe": name, "seed": seed + index},
            labels=grid.file_labels(),
            schema=schema,
        )
        logger.info("volume %d", index)


def timed_batches(
    tensors: tuple[Tensor, ...], size: int, seconds: float, device: torch.device
) -> Iterator[tuple[int, float, tuple[Tensor, ...]]]:
    """Yield step, share of the time that is over, and a random batch, until the time is over."""
    clock = time.process_time if device.type == "cpu" else time.monotonic
    start, step = clock(), 0
    while (progress := (clock() - start) / seconds) < 1 or step == 0:
        step += 1
        places = torch.randperm(len(tensors[0]))[:size]
        yield step, min(progress, 1.0), tuple(each[places].to(device) for each in tensors)


def update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def report(stage: str, step: int, progress: float, loss: Tensor) -> None:
    """Log every fiftieth step."""
    if step % 50 == 1:
        logger.info("%s: step %d, %.0f %% of the time, loss %.4f", stage, step, 100 * progress, loss.item())


if __name__ == "__main__":
    main()
