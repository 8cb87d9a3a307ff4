"""The losses of the first stage."""
