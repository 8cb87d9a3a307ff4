"""Change a region of real volumes and leave the rest."""
