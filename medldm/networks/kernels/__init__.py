"""Faster equal computations behind the blocks."""
