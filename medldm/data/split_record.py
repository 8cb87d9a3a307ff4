"""What a training says of its split, so that whoever splits the cohort again meets no training case unseen.

A record names no case. It holds the settings of the split, a hash of all cases of each part together, and a
keyed hash of what each case holds. The key is the user's own, see `medldm.data.identity`: who has it can ask
whether the model was trained on a volume; who has the model alone cannot. Without the key a cohort that has
not changed is still recognised, by the hashes of the parts.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medldm.configs import Config
from medldm.data.identity import default_key_file, keyed_hash, load_key
from medldm.data.splits import SPLITS
from medldm.errors import ConfigError
from medldm.runtime.distributed import is_main_process

logger = logging.getLogger(__name__)

CONTENT = "content"
"""Key of a case: for each key that names files of it, a hash of voxels and grid of each file."""
_DIGITS = 16
_PURPOSE = "split"


@dataclass(kw_only=True)
class SplitRecord(Config):
    """The split of a training.

    Args:
        validation_fraction: see `medldm.data.splits.split_by_subject`, like the following.
        test_fraction: share of the subjects that chose nothing.
        seed: of the split.
        parts: "training", "validation" and "test" -> hash of all that the cases of the part hold.
        key_id: tells the key of `cases` from others; None where there was none.
        cases: the parts -> keyed hashes of their cases' images and label maps, in the order of the hashes.
    """

    validation_fraction: float
    test_fraction: float
    seed: int
    parts: dict[str, str]
    key_id: str | None = None
    cases: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `read_cohort` that made the split."""
        return {name: getattr(self, name) for name in ("validation_fraction", "test_fraction", "seed")}

    def is_of(self, lists: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
        """Whether parts of cases, by name, hold what the training's did, whatever their order."""
        return all(_hash_part(cases) == self.parts[name] for name, cases in lists.items())

    def roles(self, cases: Sequence[Mapping[str, Any]]) -> list[str | None] | None:
        """Return in which part each case was, None for one that was in none; None without the key.

        Args:
            cases: with `CONTENT`. A scan that the training did not know belongs to the part of its subject.
        """
        key = _known_key()
        if not self.cases or key is None or _name_key(key) != self.key_id:
            return None
        part_of = {each: part for part in SPLITS for each in self.cases.get(part, ())}
        found = [
            next((part_of[each] for each in _hash_files(_telling(case), key) if each in part_of), None)
            for case in cases
        ]
        of_subject = {case["subject"]: role for case, role in zip(cases, found, strict=True) if role}
        return [role or of_subject.get(case["subject"]) for case, role in zip(cases, found, strict=True)]


def record_split(
    lists: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> SplitRecord:
    """Return the record of a cohort's split.

    Only the first of several processes has the key; it is the one that writes.

    Args:
        lists: the parts of the cohort, whose cases have `CONTENT`.
        validation_fraction: with which it was read, like the following.
        test_fraction: share of the test cases.
        seed: of the split.
    """
    record = SplitRecord(
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
        parts={name: _hash_part(cases) for name, cases in lists.items()},
    )
    if not is_main_process():
        return record
    try:
        key = load_key()
    except (OSError, ConfigError) as error:
        logger.warning("the split is recorded without its cases, for there is no identity key: %s", error)
        return record
    hashes = {
        name: tuple(sorted({each for case in cases for each in _hash_files(_files(case), key)}))
        for name, cases in lists.items()
    }
    return record.copy(key_id=_name_key(key), cases=hashes)


def _files(case: Mapping[str, Any]) -> list[str]:
    """Return the hashes of a case's images and label map."""
    contents = case.get(CONTENT, {})
    return [*contents.get("image", ()), *contents.get("label", ())]


def _telling(case: Mapping[str, Any]) -> list[str]:
    """Return the hashes that tell a case from others: those of its images, else of its label map."""
    contents = case.get(CONTENT, {})
    return list(contents.get("image") or contents.get("label", ()))


def _hash_part(cases: Sequence[Mapping[str, Any]]) -> str:
    lines = sorted(" ".join(sorted(_telling(case))) for case in cases)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]


def _hash_files(contents: Sequence[str], key: bytes) -> list[str]:
    return [keyed_hash(each, key=key, purpose=_PURPOSE, digits=_DIGITS) for each in contents]


def _name_key(key: bytes) -> str:
    return keyed_hash("", key=key, purpose="name of the key")


def _known_key() -> bytes | None:
    """Return the key of this user, None where there is none that can be read."""
    try:
        return load_key() if default_key_file().exists() else None
    except (OSError, ConfigError):
        return None
