"""The error of a config that is refused."""

from __future__ import annotations

from medldm.errors import MedldmError


class ConfigRefused(MedldmError, ValueError):
    """A config asks for what one that nobody vouches for may not do."""


def refuse(key: str, problem: str) -> ConfigRefused:
    """Word the error of one key.

    Args:
        key: its id in the config, such as train::handlers::0, or the file.
        problem: what is wrong with it, the value included.
    """
    return ConfigRefused(
        f"{key}: {problem}; nothing was run. Correct it; or, if you have read the whole bundle and trust it, "
        "run it with --trusted-bundle"
    )
