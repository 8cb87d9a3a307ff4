"""How a cohort is exported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from medldm.data.splits import TEST_FRACTION, VALIDATION_FRACTION
from medldm.errors import ConfigError

FORMATS = ("nnunet", "msd", "bids", "slicer", "dicom")
LINKS = ("copy", "hard", "symbolic")
MODALITIES = ("CT", "MR")
_SUFFIX = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export a cohort.

    Args:
        name: of the data set, in its description.
        modality: "CT" or "MR"; None takes CT where the images hold air in Hounsfield units, else MR.
        link: how a file that is right as it is gets there: "copy", a "hard" link or a "symbolic" one.
        suffixes: BIDS suffix, such as "T1w", of each channel; "" stands for the only one.
        enhanced: write one multi-frame DICOM object a series, not one object a slice.
        validation_fraction: share of the real subjects set aside, where the cohort has no such list.
        test_fraction: the same for the test, see `medldm.data.splits.split_by_subject`.
        seed: of that split.
        channels: the channels to export; () for all.
        overwrite: replace an earlier export.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    name: str = "medldm"
    modality: str | None = None
    link: str = "copy"
    suffixes: Mapping[str, str] = field(default_factory=dict)
    enhanced: bool = False
    validation_fraction: float = VALIDATION_FRACTION
    test_fraction: float = TEST_FRACTION
    seed: int = 0
    channels: tuple[str, ...] = ()
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_choice("modality", self.modality, (None, *MODALITIES))
        require_choice("link", self.link, LINKS)
        if bad := [suffix for suffix in self.suffixes.values() if not _SUFFIX.fullmatch(suffix)]:
            raise ConfigError(f"the suffix {bad[0]!r} is none of BIDS: letters and digits, such as T1w")
        if not self.name.strip():
            raise ConfigError("the data set's name is empty: give a text")


def require_choice(name: str, value: str | None, allowed: tuple[str | None, ...]) -> None:
    """Refuse a value that is none of those allowed.

    Raises:
        ConfigError: naming them.
    """
    if value not in allowed:
        listed = ", ".join(str(each) for each in allowed if each is not None)
        raise ConfigError(f"{name} is {value!r}; allowed are {listed}")
