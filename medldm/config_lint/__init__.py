"""Run bundles whose configs nobody vouches for: they name listed components and write where they are told."""

from medldm.config_lint.errors import ConfigRefused
from medldm.config_lint.run import CheckedWorkflow, run_checked, run_command
from medldm.config_lint.tree import check_config

__all__ = ["CheckedWorkflow", "ConfigRefused", "check_config", "run_checked", "run_command"]
