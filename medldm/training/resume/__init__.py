"""State on disk, so that a training goes on bit for bit."""
