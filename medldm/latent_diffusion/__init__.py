"""The latent diffusion model, its configuration, its space and its files."""
