"""Read the folder layouts that cohorts come in."""
