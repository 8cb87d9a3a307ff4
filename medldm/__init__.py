"""medldm: 3D latent diffusion for medical images."""

from medldm.conditioning import ConditioningConfig, Conditions
from medldm.latent_diffusion import LatentDiffusionModel
from medldm.latent_diffusion_config import LatentDiffusionConfig
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
from medldm.sampling import LatentDiffusionSampler
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
