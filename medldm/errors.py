"""The errors that a user can mend; everything else is a fault of the program and keeps its traceback.

A command line ends with the message and the exit code of one of these, without traceback (see
`medldm.runtime.endings`). Python code catches them as what they also are, such as ValueError or OSError, or
all of them as `MedldmError`.
"""

from __future__ import annotations


class MedldmError(Exception):
    """Base of all errors that a user can mend: a command ends with their message alone.

    The message says what is wrong, the value received, what is allowed and what to do next.

    Attributes:
        exit_code: of a command that ends so. Another code than 1 says that nothing failed: a training was
            told to stop, a report has gaps.
    """

    exit_code: int = 1


class ConfigError(MedldmError, ValueError):
    """Report a setting, or a combination of settings, that is not allowed."""


class StorageError(MedldmError, OSError):
    """Report a file or a folder that cannot be written: no room, no permission, not a folder."""


class CheckpointError(MedldmError, ValueError):
    """Report a checkpoint that is missing, damaged, or not the one that is needed."""


class MissingFileError(MedldmError, FileNotFoundError):
    """Report a file or a folder that a setting names and that is not there."""


class OutputExistsError(MedldmError, FileExistsError):
    """Report files that would be written over."""


class MissingPackageError(MedldmError, ImportError):
    """Report a package that is not installed, or too old, and how to install it."""
