"""LatentDiffusionModel: the one module that holds autoencoder, denoiser, conditions and latent statistics.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models", Section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medldm.conditioning import ConditionEncoder, ConditioningConfig, Conditions, EncodedConditions
from medldm.errors import ConfigError
from medldm.latent_diffusion import appearance
from medldm.latent_diffusion.config import LATENT_SCALING_FACTOR
from medldm.latent_diffusion.lineage import Lineage
from medldm.latent_diffusion.recipe import Recipe
from medldm.latent_diffusion.texture import Texture
from medldm.latent_diffusion.volume_space import VolumeSpace
from medldm.networks import VAE, VQVAE, LatentUNet, LatentUNetConfig, VAEConfig, VQVAEConfig
from medldm.networks.streaming.memory_limit import decode_within, encode_moments_within

AUTOENCODER_CONFIGS: dict[str, type[VAEConfig] | type[VQVAEConfig]] = {"vae": VAEConfig, "vqvae": VQVAEConfig}


def make_autoencoder(config: VAEConfig | VQVAEConfig) -> VAE | VQVAE:
    """Build the autoencoder that a configuration describes."""
    return VAE(config) if isinstance(config, VAEConfig) else VQVAE(config)


def build_autoencoder(
    autoencoder_type: str,
    *,
    options: Mapping[str, Any],
    vae_options: Mapping[str, Any] | None = None,
    vqvae_options: Mapping[str, Any] | None = None,
) -> VAE | VQVAE:
    """Build an autoencoder of the type that a bundle's one key names.

    Args:
        autoencoder_type: "vae" or "vqvae".
        options: of the configuration, shared by both types.
        vae_options: those of the VAE alone.
        vqvae_options: those of the VQ-VAE alone.

    Raises:
        ConfigError: if the type or an option is unknown.
    """
    if autoencoder_type not in AUTOENCODER_CONFIGS:
        raise ConfigError(
            f"autoencoder_type is {autoencoder_type!r}: choose from {list(AUTOENCODER_CONFIGS)}"
        )
    own = {"vae": vae_options, "vqvae": vqvae_options}[autoencoder_type]
    config_class = AUTOENCODER_CONFIGS[autoencoder_type]
    return make_autoencoder(config_class.from_dict({**options, **(own or {})}))


def name_autoencoder_type(config: VAEConfig | VQVAEConfig) -> str:
    """Return "vae" or "vqvae"."""
    return "vae" if isinstance(config, VAEConfig) else "vqvae"


class ConditionalDenoiser(nn.Module):
    """The trainable part: the U-Net with the encoders of its conditions.

    The U-Net predicts from (B, latent channels + spatial channels, x, y, z).
    """

    def __init__(self, unet: LatentUNet, conditioning: ConditionEncoder) -> None:
        super().__init__()
        self.unet = unet
        self.conditioning = conditioning

    def encode_conditions(
        self, conditions: Conditions | None, latents: Tensor, *, drop: Mapping[str, Tensor] | None = None
    ) -> EncodedConditions:
        """Encode conditions for latents (B, C, x, y, z)."""
        return self.conditioning(
            conditions, batch_size=len(latents), latent_size=latents.shape[2:], drop=drop
        )

    def predict(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        told: EncodedConditions,
        *,
        augmentation: Tensor | None = None,
        appearance: Tensor | None = None,
        dropout_seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Predict from noisy latents (B, C, x, y, z), told what `encode_conditions` returns.

        Args:
            x_t: noisy latents.
            timesteps: (B,) network times.
            told: of the conditions.
            augmentation: (B, n) how samples of a training were augmented; sampling gives none.
            appearance: (B, n) what samples look like, see `LatentDiffusionModel.appearance_of`; None for the
                mean case.
            dropout_seeds: see `LatentUNet.forward`.
        """
        hidden = x_t if told.spatial is None else torch.cat([x_t, told.spatial.to(x_t.dtype)], dim=1)
        pooled = told.pooled if self.unet.config.pooled_context else None
        return self.unet(
            hidden,
            timesteps,
            context=told.context,
            pooled=pooled,
            augmentation=augmentation,
            appearance=appearance,
            dropout_seeds=dropout_seeds,
        )

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        conditions: Conditions | None = None,
        *,
        drop: Mapping[str, Tensor] | None = None,
        augmentation: Tensor | None = None,
        appearance: Tensor | None = None,
        dropout_seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Predict what the training's prediction type says.

        Args:
            x_t: (B, C, x, y, z) noisy standardised latents.
            timesteps: (B,) network times.
            conditions: values for the batch; None for the null of each condition.
            drop: name to (B,) bool, the samples whose condition is replaced by its null.
            augmentation: (B, n) how samples of a training were augmented; None for samples as they are.
            appearance: (B, n) what samples look like; None for the mean case.
            dropout_seeds: see `LatentUNet.forward`.

        Returns:
            (B, C, x, y, z).
        """
        told = self.encode_conditions(conditions, x_t, drop=drop)
        return self.predict(
            x_t,
            timesteps,
            told,
            augmentation=augmentation,
            appearance=appearance,
            dropout_seeds=dropout_seeds,
        )


class LatentDiffusionModel(nn.Module):
    """Hold all that generation needs; the autoencoder is frozen.

    Args:
        autoencoder_config: of the first stage, VAE or VQ-VAE; a mapping holds the fields of a VAE's.
        conditioning_config: the conditions; None for an unconditional model.
        unet_config: of the denoiser. Its input and output channels, its context width and whether it has
            cross-attention follow from the two configurations above and are set here.
        latent_scaling_factor: scale of the latents where no statistics were measured (Rombach et al. 2022,
            Appendix G).
        space: spacing, size and intensity of the training volumes; None for a model outside of a cohort.
        makes_label_maps: whether its channels are structures, not those of an image.

    Attributes:
        latent_spread: (C,) standard deviation of each channel of standardised latents.
        latent_spectrum: (C, x, y, z) that of each of their cosine modes; None where it was not measured.
        appearance_mean: (n,) of the statistics of the training cohort's latents; None for a denoiser that is
            not told what a case looks like.
        appearance_basis: (appearance_channels, n) their components, see `measure_appearance`.
        texture: what sampling draws on decoded volumes, see `Texture`; None for nothing.
        lineage: the checkpoints that its parts were started from, see `medldm.latent_diffusion.lineage`.
        recipe: the settings that its stages were trained with, see `medldm.latent_diffusion.recipe`.

    Examples:
        >>> from medldm import LatentDiffusionModel, LatentUNetConfig, VAEConfig
        >>> model = LatentDiffusionModel(
        ...     autoencoder_config=VAEConfig(down_channels=[8, 16], n_groups=4),
        ...     unet_config=LatentUNetConfig(down_channels=[16, 32], n_groups=4, n_heads=2),
        ... )
        >>> model.encode(torch.zeros(1, 1, 16, 16, 16)).shape
        torch.Size([1, 4, 8, 8, 8])
    """

    latent_shift: Tensor
    latent_scale: Tensor
    latent_spread: Tensor
    latent_spectrum: Tensor | None
    appearance_mean: Tensor | None
    appearance_basis: Tensor | None

    def __init__(
        self,
        *,
        autoencoder_config: VAEConfig | VQVAEConfig | Mapping[str, Any],
        conditioning_config: ConditioningConfig | Mapping[str, Any] | None = None,
        unet_config: LatentUNetConfig | Mapping[str, Any] | None = None,
        latent_scaling_factor: float = LATENT_SCALING_FACTOR,
        space: VolumeSpace | None = None,
        makes_label_maps: bool = False,
    ) -> None:
        super().__init__()
        self.conditioning_config = ConditioningConfig.coerce(conditioning_config)
        if isinstance(autoencoder_config, Mapping):
            autoencoder_config = VAEConfig.from_dict(autoencoder_config)
        self.autoencoder = make_autoencoder(autoencoder_config)
        self.autoencoder_config = self.autoencoder.config
        self.autoencoder.requires_grad_(False).eval()
        self.unet_config = fit_unet_config(
            LatentUNetConfig.coerce(unet_config), self.autoencoder.latent_channels, self.conditioning_config
        )
        self.denoiser = ConditionalDenoiser(
            LatentUNet(self.unet_config),
            ConditionEncoder(self.conditioning_config, downsampling=self.autoencoder.downsampling),
        )
        channels = self.autoencoder.latent_channels
        self.register_buffer("latent_shift", torch.zeros(channels))
        self.register_buffer("latent_scale", torch.full((channels,), float(latent_scaling_factor)))
        self.register_buffer("latent_spread", torch.ones(channels))
        self.register_buffer("latent_spectrum", None)
        n_told, n_statistics = self.unet_config.appearance_channels, appearance.count_statistics(channels)
        for name, shape in (("mean", (n_statistics,)), ("basis", (n_told, n_statistics))):
            self.register_buffer(f"appearance_{name}", torch.zeros(shape) if n_told else None)
        self.space = space
        self.makes_label_maps = makes_label_maps
        self.texture: Texture | None = None
        self.lineage: Lineage = {}
        self.recipe: Recipe = {}

    def train(self, mode: bool = True) -> LatentDiffusionModel:
        """Set the mode of the denoiser; the frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def set_latent_statistics(self, mean: Tensor, std: Tensor, *, scaling: str = "unit") -> None:
        """Store the statistics (C,) of the training cohort's latents.

        Standardised latents have mean 0 and sd 1, or what `scaling` says; `unstandardise` undoes either.

        Args:
            mean: of each channel.
            std: of each channel.
            scaling: `latent_scaling` of `LatentDiffusionConfig`.

        Raises:
            ConfigError: if a channel never varies, or "spectral" is asked of an autoencoder without a path.
        """
        if not bool((std > 0).all()) or not bool(torch.isfinite(mean).all()):
            raise ConfigError(
                f"latent statistics have mean {mean.tolist()} and sd {std.tolist()}: a channel that never "
                "varies means that the autoencoder has collapsed; train it longer or with less regularisation"
            )
        self.latent_shift.copy_(mean)
        self.latent_spread.copy_(self._spread_of_channels(scaling))
        self.latent_scale.copy_(self.latent_spread.to(std) / std)

    @property
    def spread(self) -> Tensor:
        """What `diffusion` takes as the spread of x_0, float64: of modes if measured, else of channels."""
        return (self.latent_spread if self.latent_spectrum is None else self.latent_spectrum).double()

    def set_latent_spectrum(self, spectrum: Tensor | None) -> None:
        """Store the standard deviations (C, x, y, z) of the modes of standardised latents; None for none.

        Raises:
            ConfigError: if it is of another shape, or holds what is no standard deviation.
        """
        if spectrum is not None:
            n_axes = len(self.autoencoder.downsampling)
            if spectrum.ndim != 1 + n_axes or len(spectrum) != self.autoencoder.latent_channels:
                raise ConfigError(
                    f"latent spectrum has shape {tuple(spectrum.shape)}: {self.autoencoder.latent_channels} "
                    f"channels and {n_axes} axes are needed"
                )
            if not spectrum.is_meta and not bool(((spectrum > 0) & spectrum.isfinite()).all()):
                raise ConfigError("latent spectrum: each mode needs a standard deviation above 0")
            spectrum = spectrum.to(self.latent_spread).clone()
        self.latent_spectrum = spectrum

    def set_appearance(self, mean: Tensor, basis: Tensor) -> None:
        """Store what `measure_appearance` returns of the training cohort, if the denoiser is told of it."""
        if self.appearance_mean is not None and self.appearance_basis is not None:
            self.appearance_mean.copy_(mean)
            self.appearance_basis.copy_(basis)

    def appearance_of(self, latents: Tensor) -> Tensor | None:
        """Return what standardised latents (B, C, x, y, z) look like as a whole, (B, appearance_channels).

        None for a denoiser that is not told.
        """
        if self.appearance_mean is None or self.appearance_basis is None:
            return None
        return appearance.appearance_of(latents, self.appearance_mean, self.appearance_basis)

    def draw_appearance(self, seeds: Sequence[int]) -> Tensor | None:
        """Draw what samples shall look like as a whole, one from each seed; None where none is told."""
        if self.appearance_basis is None:
            return None
        return appearance.draw_appearance(self.appearance_basis, seeds)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room for a spectrum, or none, as the state has it."""
        spectrum = state_dict.get(f"{prefix}latent_spectrum")
        if spectrum is None or self.latent_spectrum is None or self.latent_spectrum.shape != spectrum.shape:
            self.set_latent_spectrum(None if spectrum is None else torch.ones_like(spectrum))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _spread_of_channels(self, scaling: str) -> Tensor:
        """Return the standard deviation (C,) that standardised latents have."""
        path = self.autoencoder.linear_path
        if scaling == "unit" or (scaling == "auto" and path is None):
            return torch.ones(self.autoencoder.latent_channels)
        if path is None:
            raise ConfigError(
                "latent_scaling is 'spectral', but the autoencoder has no linear path, whose variances it "
                "takes: set it to 'unit', or train stage 1 with linear_path: true"
            )
        return (path.deviations / path.deviations[0]).sqrt()

    def set_scaling_factor(self, factor: float) -> None:
        """Scale the latents by one number, unless statistics were measured or another number is loaded."""
        if not self.latent_shift.any() and bool((self.latent_scale == LATENT_SCALING_FACTOR).all()):
            self.latent_scale.fill_(factor)

    def standardise(self, latents: Tensor) -> Tensor:
        """Map the autoencoder's latents (B, C, x, y, z) to those the denoiser works on."""
        return (latents - _per_channel(self.latent_shift, latents)) * _per_channel(self.latent_scale, latents)

    def unstandardise(self, latents: Tensor) -> Tensor:
        """Invert `standardise`."""
        return latents / _per_channel(self.latent_scale, latents) + _per_channel(self.latent_shift, latents)

    @torch.no_grad()
    def encode(
        self, volume: Tensor, *, generator: torch.Generator | None = None, max_memory_gb: float | None = None
    ) -> Tensor:
        """Encode volumes (B, C, X, Y, Z) in [-1, 1] to standardised latents (B, C, x, y, z).

        Args:
            volume: sizes that are no multiple of the downsampling are padded.
            generator: if given, the posterior is sampled with it; else its mean is taken.
            max_memory_gb: 10^9 bytes above weights and volume; where the estimate exceeds them, the volume is
                streamed through the layers, with the same result. None for no limit.
        """
        mean, std = encode_moments_within(self.autoencoder, volume, max_memory_gb)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
            mean = mean + std * noise
        return self.standardise(mean)

    @torch.no_grad()
    def decode(
        self, latents: Tensor, *, size: tuple[int, ...] | None = None, max_memory_gb: float | None = None
    ) -> Tensor:
        """Decode standardised latents to volumes, cropped to `size` if given; memory as in `encode`."""
        volume = decode_within(self.autoencoder, self.unstandardise(latents), max_memory_gb)
        if size is None:
            return volume
        x, y, z = size
        return volume[..., :x, :y, :z]

    def reconstruct(self, volume: Tensor) -> Tensor:
        """Return what the latent space keeps of volumes (B, C, X, Y, Z): encode to the mean and decode."""
        return self.decode(self.encode(volume), size=tuple(volume.shape[2:]))


def fit_unet_config(
    config: LatentUNetConfig, latent_channels: int, conditioning: ConditioningConfig
) -> LatentUNetConfig:
    """Set the denoiser's channels and context to those of its autoencoder and conditions."""
    return config.copy(
        in_channels=latent_channels + conditioning.spatial_channels,
        out_channels=latent_channels,
        cross_attention=conditioning.has_tokens,
        pooled_context=config.pooled_context and conditioning.has_tokens,
        context_dim=conditioning.context_dim if conditioning.has_tokens else config.context_dim,
    )


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(1, -1, *[1] * (like.ndim - 2))
