"""Run bundles whose configs nobody vouches for: they name listed components and write where they are told."""

from medldm.bundle_sandbox.errors import ConfigRefused
from medldm.bundle_sandbox.run import CheckedWorkflow, run_checked, run_command
from medldm.bundle_sandbox.tree import check_config

__all__ = ["CheckedWorkflow", "ConfigRefused", "check_config", "run_checked", "run_command"]
