"""Change a region of real volumes by a model, and leave everything else as it is, to the bit.

The region's latents are drawn again, under new conditions, while those around it are kept (see
`diffusion.inpainting`). Within the region the decoded volume takes the original's place (see
`editing.regions.blend_region`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from medldm.conditioning import Conditions
from medldm.configs import Config
from medldm.diffusion import STOCHASTIC, InpaintingMask, PartialStart
from medldm.editing.regions import blend_region, editable_latents, feather_weights
from medldm.errors import ConfigError
from medldm.sampling.config import SamplingConfig
from medldm.sampling.sampler import LatentDiffusionSampler, choose_texture
from medldm.seeds import texture_seed


@dataclass(kw_only=True)
class EditConfig(Config):
    """Set how a region is drawn again.

    Args:
        method: what the region's latents begin from. "fresh": noise alone, so that nothing of the original
            stays in the region; "noise": the original, partly noised (Meng et al. 2022, SDEdit);
            "inversion": the original, taken back to the noise that leads to it under the old conditions
            (Song et al. 2021, DDIM), so that most of it stays.
        strength: time to begin at, as a share of the final time, in (0, 1]; "fresh" has always 1.
        margin_mm: how far around the voxels that change the region reaches.
        latent_margin: latents, around those whose block of voxels has a part in the region, that are drawn
            again, too.
        feather_mm: depth within the region at which the original's last trace has gone.
        resamplings: see `InpaintingMask`; more make the region fit better to what surrounds it, at as many
            times the cost. 1 for "inversion", whose noise it would replace.
        jump: see `InpaintingMask`.

    Raises:
        ValueError: if an argument is outside its range.
    """

    method: Literal["fresh", "noise", "inversion"] = "inversion"
    strength: float = 0.8
    margin_mm: float = 3.0
    latent_margin: int = 0
    feather_mm: float = 3.0
    resamplings: int = 1
    jump: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("(0, 1]", "strength")
        self.require("[0, inf)", "margin_mm", "latent_margin", "feather_mm")
        self.require("[1, inf)", "resamplings", "jump")
        if self.method == "inversion" and self.resamplings > 1:
            raise ConfigError(
                f"resamplings is {self.resamplings}, but its fresh noise would take the place of that of the "
                "method 'inversion': set it to 1"
            )

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Refuse solvers whose fresh noise would take the place of inverted noise."""
        if self.method == "inversion" and (sampling.solver_name in STOCHASTIC or sampling.eta > 0):
            raise ConfigError(
                f"the method 'inversion' needs a solver without noise, not {sampling.solver_name!r} with eta "
                f"{sampling.eta}: take 'ddim' with eta 0"
            )


class RegeneratedRegion(NamedTuple):
    """What a model makes of volumes (B, 1, X, Y, Z) whose region it has drawn again.

    Attributes:
        decoded: the new volumes, outside of the region only as good as the autoencoder.
        reconstruction: the original ones through the autoencoder.
        textured: `decoded` with texture; None where none is drawn.
    """

    decoded: Tensor
    reconstruction: Tensor
    textured: Tensor | None = None


@torch.no_grad()
def regenerate_region(
    sampler: LatentDiffusionSampler,
    volume: Tensor,
    region: Tensor,
    *,
    conditions: Conditions | None = None,
    conditions_before: Conditions | None = None,
    config: EditConfig | None = None,
    sampling: SamplingConfig | None = None,
    indices: Sequence[int] | None = None,
) -> RegeneratedRegion:
    """Draw the latents of a region again.

    Args:
        sampler: of the model.
        volume: (B, 1, X, Y, Z) in [-1, 1].
        region: (B, 1, X, Y, Z) bool, True where voxels may change.
        conditions: of the edited volumes.
        conditions_before: of the volumes as they are, for the method "inversion"; None for `conditions`.
        config: how the region is drawn again.
        sampling: how volumes are drawn.
        indices: of the volumes in the seed; 0 to B - 1 if None.

    Raises:
        ValueError: if shapes do not fit or arguments contradict each other.
    """
    config, sampling = config or EditConfig(), sampling or SamplingConfig()
    config.check_sampling(sampling)
    _check_region(volume, region)
    model = sampler.model
    device = model.latent_shift.device
    volume, region = volume.to(device), region.to(device)
    original = model.encode(volume)
    free = editable_latents(region, downsampling=model.autoencoder.downsampling, margin=config.latent_margin)
    start: PartialStart | None = None
    x_0_at: Mapping[float, Tensor] = {}
    if config.method == "inversion":
        before = conditions if conditions_before is None else conditions_before
        noise, x_0_at = sampler.invert(
            original, conditions=before, strength=config.strength, settings=sampling
        )
        start = PartialStart(latents=original, strength=config.strength, noise=noise)
    elif config.method == "noise":
        start = PartialStart(latents=original, strength=config.strength)
    inpainting = InpaintingMask(
        original=original, is_kept=~free, resamplings=config.resamplings, jump=config.jump, x_0_at=x_0_at
    )
    latents = sampler.sample_latents(
        tuple(original.shape),
        conditions=conditions,
        indices=indices,
        inpainting=inpainting,
        start=start,
        settings=sampling,
    )
    size = tuple(volume.shape[2:])
    decoded, texture = model.decode(latents, size=size), choose_texture(model, sampling)
    textured = None
    if texture is not None:
        numbers = range(len(volume)) if indices is None else indices
        textured = texture.draw(decoded, [texture_seed(sampling.seed, number) for number in numbers])
    return RegeneratedRegion(decoded, model.decode(original, size=size), textured)


def inpaint(
    sampler: LatentDiffusionSampler,
    volume: Tensor,
    region: Tensor,
    *,
    config: EditConfig | None = None,
    **options: Any,
) -> Tensor:
    """Draw a region of volumes again and keep all voxels outside of it.

    Args:
        sampler: see `regenerate_region`, as for the other arguments.
        volume: (B, 1, X, Y, Z) float32 in [-1, 1].
        region: (B, 1, X, Y, Z) bool, True where voxels change.
        config: how the region is drawn again; by default from fresh noise.
        options: conditions, conditions_before, sampling, indices.

    Returns:
        (B, 1, X, Y, Z) like `volume`, equal to it to the bit where `region` is False.
    """
    config = config or EditConfig(method="fresh", strength=1.0)
    redrawn = regenerate_region(sampler, volume, region, config=config, **options)
    space = sampler.model.space
    spacing_mm = (1.0, 1.0, 1.0) if space is None else space.spacing_mm
    result = volume.clone()
    for row, mask in enumerate(region):
        edge = mask[0].cpu().numpy()
        weights = feather_weights(edge, feather_mm=config.feather_mm, spacing_mm=spacing_mm)
        parts = [part[row, 0].cpu().numpy() for part in (volume, redrawn.decoded, redrawn.reconstruction)]
        textured = None if redrawn.textured is None else redrawn.textured[row, 0].cpu().numpy()
        edited = blend_region(*parts, region=edge, weights=weights, textured=textured)
        result[row, 0] = torch.from_numpy(edited).to(volume)
    return result


def _check_region(volume: Tensor, region: Tensor) -> None:
    if volume.ndim != 5 or volume.shape[1] != 1:
        raise ValueError(f"the volume has the shape {tuple(volume.shape)}: (B, 1, X, Y, Z) is needed")
    if region.dtype != torch.bool or region.shape != volume.shape:
        raise ValueError(
            f"the region is {region.dtype} of shape {tuple(region.shape)}: torch.bool of the volume's "
            f"{tuple(volume.shape)} is needed"
        )
