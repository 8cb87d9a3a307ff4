"""Conditioning."""
