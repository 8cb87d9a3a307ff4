"""Run bundles whose configs nobody vouches for: they name listed components and write where they are told.

The names below are loaded when they are first used: reading a config imports no MONAI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medldm.bundle_sandbox.errors import ConfigRefused
    from medldm.bundle_sandbox.run import CheckedWorkflow, run_checked, run_command
    from medldm.bundle_sandbox.tree import check_config

__all__ = ["CheckedWorkflow", "ConfigRefused", "check_config", "run_checked", "run_command"]

_HOMES = {"ConfigRefused": "errors", "check_config": "tree"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'run')}"), name)
