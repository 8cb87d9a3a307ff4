"""The cases of an evaluation."""
