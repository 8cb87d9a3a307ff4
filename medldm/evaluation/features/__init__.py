"""Features of volumes, and their cache."""
