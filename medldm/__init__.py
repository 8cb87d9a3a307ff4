"""medldm: 3D latent diffusion for medical images."""
