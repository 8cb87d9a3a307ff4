"""The networks: autoencoders, denoisers and the discriminator."""

from medldm.networks.attention import StaticContext
from medldm.networks.autoencoder import Autoencoder, AutoencoderOutput
from medldm.networks.autoencoder_config import AutoencoderConfig
from medldm.networks.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from medldm.networks.posterior import DiagonalGaussian
from medldm.networks.quantiser import Quantised
from medldm.networks.unet import LatentUNet, UNet
from medldm.networks.unet_config import LatentUNetConfig, UNetConfig
from medldm.networks.vae import VAE, VAEConfig
from medldm.networks.vqvae import VQVAE
from medldm.networks.vqvae_config import VQVAEConfig

__all__ = [
    "VAE",
    "VQVAE",
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderOutput",
    "DiagonalGaussian",
    "LatentUNet",
    "LatentUNetConfig",
    "PatchDiscriminator",
    "PatchDiscriminatorConfig",
    "Quantised",
    "StaticContext",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "VQVAEConfig",
]
