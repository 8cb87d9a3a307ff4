"""Which command line began this process."""

from __future__ import annotations

import sys

_COMMAND_LINE_OF_MONAI = "monai.bundle.__main__"


def is_command_of_monai() -> bool:
    """Say whether `python -m monai.bundle` began this process."""
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    return specification is not None and specification.name == _COMMAND_LINE_OF_MONAI
