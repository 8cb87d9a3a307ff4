"""What a bundle's workflow does before it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from medldm.training.precision import seed_everything

logger = logging.getLogger(__name__)


def check_required_packages(required: Mapping[str, str]) -> None:
    """Refuse to run with packages older than a bundle asks for; MONAI reads these versions but checks none.

    Args:
        required: package name to the oldest version that will do.

    Raises:
        RuntimeError: listing every package that is missing or too old.
    """
    problems = []
    for name, oldest in required.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed ({oldest} or newer is needed)")
            continue
        if Version(found) < Version(oldest):
            problems.append(f"{name} is {found} ({oldest} or newer is needed)")
    if problems:
        raise RuntimeError("this bundle cannot run here: " + "; ".join(problems))


def initialise_run(*, required_packages: Mapping[str, str], seed: int) -> None:
    """Check the packages and seed all generators; the first entry of every workflow's `initialize`."""
    check_required_packages(required_packages)
    seed_everything(seed)
    logger.info("seed %d", seed)
