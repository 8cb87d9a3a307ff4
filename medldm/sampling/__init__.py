"""From noise to volumes."""
