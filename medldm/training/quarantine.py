"""Bad volumes that appear while a training runs: named, replaced, and borne only up to a share.

The check before a training finds most of them. A file can still become unreadable later. Its case is then
quarantined: the next sound case of the list takes its place, so that the length of an epoch and with it every
later batch stay what they were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose, RandomizableTrait, Transform

from medldm.errors import ConfigError, MedldmError
from medldm.runtime.distributed import world_size

logger = logging.getLogger(__name__)

FOUND = "quarantined"
"""A batch's key: the (number, reason) of the bad cases that were met when it was loaded."""


class QuarantineError(MedldmError, RuntimeError):
    """More training cases are bad than the training bears."""


class BadCase:
    """Stands in the place of a case that cannot be used.

    Args:
        reason: what is wrong, without the path of a file.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason


class GuardedTransforms(Compose):
    """Transforms that give a `BadCase` where they fail, or where "image" is not finite or of another shape.

    Args:
        transforms: from a case's files to tensors; what is not random comes first.
        size: (X, Y, Z) of "image" before random transforms; None for any.
    """

    def __init__(self, transforms: Compose, *, size: Sequence[int] | None = None) -> None:
        super().__init__(list(transforms.flatten().transforms))
        self.size = None if size is None else tuple(size)

    def __call__(  # type: ignore[override]
        self, input_: Any, start: int = 0, end: int | None = None, **options: Any
    ) -> Any:
        """Run the transforms from `start` to `end`, as `Compose` does."""
        if isinstance(input_, BadCase) or start > 0:
            return input_ if isinstance(input_, BadCase) else super().__call__(input_, start, end, **options)
        first_random = self.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )
        try:
            case = super().__call__(input_, 0, first_random, **options)
        except (ValueError, OSError, RuntimeError) as error:
            return BadCase(f"cannot be loaded ({name_error(error)})")
        if (bad := find_fault(case["image"], self.size)) is not None:
            return bad
        if first_random is None or end == first_random:
            return case
        return super().__call__(case, first_random, end, **options)


def find_fault(volume: Any, size: tuple[int, ...] | None = None) -> BadCase | None:
    """Return what is wrong with a volume or latents (C, X, Y, Z), if anything is."""
    tensor = torch.as_tensor(volume)
    if size is not None and tuple(tensor.shape[1:]) != size:
        return BadCase(f"has {tuple(tensor.shape[1:])} voxels, not {size}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return BadCase("has values that are not finite")
    return None


def name_error(error: BaseException) -> str:
    """Return the kind of the first cause of an error; its text may hold the path of a file."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


class Quarantine:
    """Remember the training cases that cannot be used; more than a share of them ends the training.

    Args:
        max_bad_share: of the training cases, 0 to 1; 0 bears none, as several processes must.

    Examples:
        >>> quarantine = Quarantine(max_bad_share=0.1)
        >>> quarantine.add(3, "has values that are not finite", n_cases=10)
        >>> quarantine.numbers
        [3]
    """

    def __init__(self, max_bad_share: float = 0.0) -> None:
        if not 0 <= max_bad_share < 1:
            raise ConfigError(f"max_bad_share is {max_bad_share}: a share from 0 to below 1 is needed")
        if max_bad_share > 0 and world_size() > 1:
            raise ConfigError(
                f"max_bad_share is {max_bad_share} with {world_size()} processes, which would not replace "
                "the same cases: set it to 0, or train in one process"
            )
        self.max_bad_share = max_bad_share
        self._reasons: dict[int, str] = {}

    @property
    def numbers(self) -> list[int]:
        """The quarantined cases, by their number from 0 in the list of the training cases."""
        return sorted(self._reasons)

    def add(self, number: int, reason: str, *, n_cases: int) -> None:
        """Quarantine a case; nothing happens if it is quarantined already.

        Args:
            number: of the case in the list of the training cases, from 0.
            reason: what is wrong, without the path of a file.
            n_cases: in that list.

        Raises:
            QuarantineError: if there are now more than the share.
        """
        if number in self._reasons:
            return
        self._reasons[number] = reason
        logger.warning("training case %d %s: quarantined, the next sound one replaces it", number, reason)
        if len(self._reasons) > self.max_bad_share * n_cases:
            raise QuarantineError(
                f"training case {number} {reason}; {self.describe(n_cases)}, and max_bad_share bears "
                f"{self.max_bad_share:g}: put the volume right (medldm check names its file), take the case "
                "out of the cohort, or raise max_bad_share"
            )

    def describe(self, n_cases: int) -> str:
        """Return one line for the log: how many are quarantined, which and why."""
        if not self._reasons:
            return f"none of {n_cases} training cases is quarantined"
        cases = ", ".join(f"{number} ({self._reasons[number]})" for number in self.numbers)
        return f"{len(self._reasons)} of {n_cases} training cases are quarantined: {cases}"

    def state_dict(self) -> dict[str, Any]:
        """Return the quarantined cases and why."""
        return {"reasons": dict(self._reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over quarantined cases; those that were found since are kept."""
        self._reasons = {**state["reasons"], **self._reasons}


class CollateSound:
    """Collate cases, and gather what they say under `FOUND`.

    Args:
        collate: makes a batch of dictionaries.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, cases: Sequence[dict[str, Any]]) -> Any:
        """Return the batch, with the bad cases that were met if there are any."""
        found = [pair for case in cases for pair in case.get(FOUND, ())]
        batch = self.collate([{k: v for k, v in case.items() if k != FOUND} for case in cases])
        return {**batch, FOUND: found} if found else batch
