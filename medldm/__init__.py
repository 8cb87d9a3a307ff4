"""medldm: 3D latent diffusion for medical images."""

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.networks import (
    VAE,
    VQVAE,
    LatentUNet,
    LatentUNetConfig,
    PatchDiscriminator,
    UNet,
    VAEConfig,
    VQVAEConfig,
)
from medldm.sampling.sampler import LatentDiffusionSampler
from medldm.training import LatentDiffusionTrainer
from medldm.version import __version__

__all__ = [
    "VAE",
    "VQVAE",
    "ConditioningConfig",
    "Conditions",
    "LatentDiffusionConfig",
    "LatentDiffusionModel",
    "LatentDiffusionSampler",
    "LatentDiffusionTrainer",
    "LatentUNet",
    "LatentUNetConfig",
    "PatchDiscriminator",
    "UNet",
    "VAEConfig",
    "VQVAEConfig",
    "__version__",
]
