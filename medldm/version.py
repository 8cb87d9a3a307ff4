"""The version of medldm, kept in one place."""

__version__ = "0.1.0"
