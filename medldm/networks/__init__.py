"""The networks: autoencoders, denoisers and the discriminator."""

from medldm.networks.attention import StaticContext
from medldm.networks.autoencoder import AutoencoderOutput
from medldm.networks.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from medldm.networks.unet import LatentUNet, UNet
from medldm.networks.unet_config import LatentUNetConfig, UNetConfig
from medldm.networks.vae import VAE, DiagonalGaussian, VAEConfig
from medldm.networks.vqvae import VQVAE
from medldm.networks.vqvae_config import VQVAEConfig

__all__ = [
    "VAE",
    "VQVAE",
    "AutoencoderOutput",
    "DiagonalGaussian",
    "LatentUNet",
    "LatentUNetConfig",
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "StaticContext",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "VQVAEConfig",
]
