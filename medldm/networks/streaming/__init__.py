"""Encode and decode within a memory limit."""
