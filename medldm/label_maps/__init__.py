"""Diffusion over label maps, and operations on label maps."""
