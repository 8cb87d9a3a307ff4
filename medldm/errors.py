"""The errors that a user can mend; everything else is a fault of the program and keeps its traceback."""

from __future__ import annotations


class MedldmError(Exception):
    """Base of all errors that a user can mend: a command ends with their message alone and exit code 1.

    The message says what is wrong, the value received, what is allowed and what to do next.
    """


class ConfigError(MedldmError, ValueError):
    """Report a setting, or a combination of settings, that is not allowed."""


class StorageError(MedldmError, OSError):
    """Report a file or a folder that cannot be written: no room, no permission, not a folder."""
