"""Train a wavelet diffusion model, which has no autoencoder, for a given time and write a synthetic cohort.

python -m benchmarks.wavelet.wavelet_recipe DATASET_DIR OUTPUT_DIR --minutes 120

After Friedrich et al. 2024, "WDM: 3D Wavelet Diffusion Models" (2402.19043): diffusion over the 8 subbands of
one level of the Haar transform, the lowest divided by 3; linear noise schedule of 1000 steps; the denoiser
predicts the clean subbands, with a plain squared error. All of the time goes into the one training, its last
weights are averaged, the rate falls along a cosine.

What is ours: the denoiser (`LatentUNet`), its label maps (one-hot, averaged onto the grid of the subbands and
joined to them), the loss, the solvers. What is the same as in `benchmarks/hippocampus/monai_recipe.py`: the
cases and their split, intensities, sizes, the label maps of the new volumes, the time, the precision; WDM's
intensities are those in [-1, 1].
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hippocampus.monai_recipe import Recipe, load_cases, report, timed_batches, write_cohort
from medldm import (
    ConditioningConfig,
    Conditions,
    LatentDiffusionConfig,
    LatentDiffusionModel,
    LatentDiffusionSampler,
    LatentUNetConfig,
    VAEConfig,
)
from medldm.data.cohort import read_cohort
from medldm.runtime.devices import choose_device
from medldm.training import DenoisingTask, autocast, average_weights

logger = logging.getLogger("wavelet_recipe")

LOWEST_BAND = 3.0
CONFIG = LatentDiffusionConfig(noise_schedule="linear", prediction_type="sample")
RECIPE = Recipe(channels=(1, 1), unet_channels=(32, 64, 128), learning_rates=(0.0, 0.0, 4e-4))
"""Of `channels` only their number counts here: volumes shrink by 2."""


class HaarTransform(nn.Module):
    """One level of the 3D Haar transform, orthogonal, behind the interface of a first stage.

    The 8 channels are the products of (1, 1) / sqrt(2) and (1, -1) / sqrt(2) along X, Y, Z, the lowest first.
    """

    latent_channels = 8
    downsampling = (2, 2, 2)
    linear_path = None
    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
        kernels = torch.einsum("ax,by,cz->abcxyz", pair, pair, pair)
        self.register_buffer("kernels", kernels.reshape(8, 1, 2, 2, 2), persistent=False)

    def encode_moments(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Transform volumes (B, 1, X, Y, Z) of even sizes; nothing is random."""
        bands = F.conv3d(volume, self.kernels.to(volume), stride=2)
        return bands, torch.zeros_like(bands)

    def decode(self, bands: Tensor) -> Tensor:
        """Invert the transform, to the bit but for rounding."""
        return F.conv_transpose3d(bands, self.kernels.to(bands), stride=2)


def main() -> None:
    """Read the arguments, train, write the cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset_dir")
    parser.add_argument("output_dir", type=Path, help="receives the synthetic cohort: images/ and labels/")
    parser.add_argument("--minutes", type=float, required=True, help="of the training")
    parser.add_argument("--validation-fraction", type=float, default=0.1, help="as in our training")
    parser.add_argument("--test-fraction", type=float, default=0.0, help="as in our training")
    parser.add_argument("--split-seed", type=int, default=0, help="as in our training")
    parser.add_argument("--size", type=int, nargs=3, default=RECIPE.size)
    parser.add_argument("--label-maps", choices=("test", "validation", "training"), default="validation")
    parser.add_argument("--num-samples", type=int, help="one for each of these label maps if not given")
    parser.add_argument("--first-sample", type=int, default=0, help="index of the first volume")
    parser.add_argument("--solver", default="ddim", help="ddpm with 1000 steps is WDM's own")
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", help="of autocast; auto is bfloat16 where it is fast")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", type=Path, help="file that keeps them; taken where it exists")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    cohort = read_cohort(
        options.dataset_dir,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.split_seed,
    )
    if cohort.schema is None:
        raise SystemExit("error: the cohort has no label maps, which this recipe is conditioned on")
    recipe = Recipe(**{**vars(RECIPE), "size": tuple(options.size), "precision": options.precision})
    device = choose_device(options.device)
    model = make_model(recipe, cohort.schema.structures).to(device)
    if options.weights and options.weights.exists():
        model.denoiser.load_state_dict(load_file(options.weights))
    else:
        train(model, load_cases(cohort.training, recipe, cohort.schema), recipe, 60 * options.minutes)
        if options.weights:
            save_file({k: v.contiguous() for k, v in model.denoiser.state_dict().items()}, options.weights)
    label_maps = [case["label"] for case in getattr(cohort, options.label_maps)]
    write_cohort(
        label_maps,
        options.output_dir,
        make=lambda size, maps, seed: sample(model, size, maps, options, seed=seed),
        recipe=recipe,
        schema=cohort.schema,
        indices=range(options.first_sample, options.num_samples or len(label_maps)),
        seed=options.seed,
        name="wavelet",
    )


def make_model(recipe: Recipe, structures: Mapping[int, str]) -> LatentDiffusionModel:
    """Return the untrained model, the Haar transform in the place of its autoencoder."""
    channels = recipe.unet_channels
    model = LatentDiffusionModel(
        autoencoder_config=VAEConfig(latent_channels=8, down_channels=(8, 8), n_groups=8),
        conditioning_config=ConditioningConfig(
            conditioning_type=("label_map",), structures=structures, conditioning_dropout=0.0
        ),
        unet_config=LatentUNetConfig(
            down_channels=channels,
            attention_levels=(*(False for _ in channels[1:]), True),
            n_heads=4,
            n_groups=16,
        ),
    )
    model.autoencoder = HaarTransform()
    model.set_latent_statistics(torch.zeros(8), torch.tensor([LOWEST_BAND] + [1.0] * 7))
    return model


def train(
    model: LatentDiffusionModel, data: tuple[Tensor, Tensor], recipe: Recipe, seconds: float
) -> LatentDiffusionModel:
    """Train the denoiser until the time is over; it gets the averaged weights.

    Args:
        model: on its device.
        data: images (N, 1, X, Y, Z) in [0, 1] and label maps (N, X, Y, Z).
        recipe: rates, batch size, precision.
        seconds: as of `timed_batches`.
    """
    device, rate = model.latent_shift.device, recipe.learning_rates[2]
    task, average = DenoisingTask(model, CONFIG), average_weights(model.denoiser, 0.995)
    optimiser = torch.optim.AdamW(model.denoiser.parameters(), lr=rate, fused=True)
    model.train()
    for step, progress, (images, maps) in timed_batches(data, recipe.batch_sizes[1], seconds, device):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, step / 50) * (0.5 + 0.5 * math.cos(math.pi * progress))
        bands = model.standardise(model.autoencoder.encode_moments(2 * images - 1)[0])
        times = task.path.sample_times(len(bands), generator=torch.default_generator).to(device)
        told = Conditions({"label_map": maps[:, None]})
        with autocast(device, recipe.precision):
            losses = task.loss(model.denoiser, bands, told, t=times, noise=torch.randn_like(bands))
        optimiser.zero_grad()
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.denoiser.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model.denoiser)
        report("denoiser", step, progress, losses.mean())
    logger.info("%d steps", step)
    model.denoiser.load_state_dict(average.module.state_dict())
    return model.eval()


def sample(
    model: LatentDiffusionModel, size: Sequence[int], maps: Tensor, options: Any, *, seed: int
) -> Tensor:
    """Return a volume (1, X, Y, Z) in [0, 1], up to overshoot, for one label map (1, X, Y, Z).

    Args:
        model: trained.
        size: of the subbands.
        maps: 0 to K.
        options: solver, num_steps and precision.
        seed: of the noise.
    """
    device = model.latent_shift.device
    with autocast(device, options.precision):
        volume = LatentDiffusionSampler(model, CONFIG).sample(
            (1, 8, *size),
            conditions=Conditions({"label_map": maps[None].to(device)}),
            seed=seed,
            solver=options.solver,
            num_steps=options.num_steps,
        )
    return (volume[0].float().cpu() + 1) / 2


if __name__ == "__main__":
    main()
