"""Split by subject: training; validation, which chooses epochs and limits; test, which chooses nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from medldm.errors import ConfigError
from medldm.seeds import subject_rank

logger = logging.getLogger(__name__)

Case = dict[str, Any]
SPLITS = ("training", "validation", "test")
VALIDATION_FRACTION = TEST_FRACTION = 0.1
"""What commands and bundles take where nothing else is said."""
FEWEST_FOR_TEST = 10
"""Subjects that a cohort needs to have any of them set aside as a test set."""


def check_fractions(*, validation_fraction: float, test_fraction: float) -> None:
    """Refuse shares of a split that leave no subject to train on.

    Raises:
        ConfigError: naming the share.
    """
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is {value}; 0 up to but not including 1 is allowed")
    if validation_fraction + test_fraction >= 1:
        raise ConfigError(
            f"validation_fraction is {validation_fraction} and test_fraction {test_fraction}: together they "
            "must leave subjects to train on, give less than 1"
        )


def complete_split(
    lists: Mapping[str, list[Case]], *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, list[Case]]:
    """Return all three lists of a split, cutting from the training list what is not stated.

    A stated validation list is a stated split: nothing is cut. Beside a stated test list alone, validation
    cases are cut. Test images without label map, as challenges publish them, state no test set where training
    cases have one: nothing can be compared with them.

    Args:
        lists: "training" and, where stated, "validation" and "test" -> cases.
        validation_fraction: see `split_by_subject`, like the following.
        test_fraction: share of the subjects.
        seed: of the split.
    """
    if "validation" in lists:
        return {split: list(lists.get(split, ())) for split in SPLITS}
    stated = lists.get("test", [])
    is_stated = any("label" in case for case in stated) or not any("label" in c for c in lists["training"])
    training, validation, test = split_by_subject(
        lists["training"],
        validation_fraction=validation_fraction,
        test_fraction=0.0 if stated and is_stated else test_fraction,
        seed=seed,
    )
    return {"training": training, "validation": validation, "test": [*stated, *test]}


def split_by_subject(
    cases: Sequence[Case], *, validation_fraction: float, test_fraction: float = 0.0, seed: int
) -> tuple[list[Case], list[Case], list[Case]]:
    """Set subjects aside for validation and for the test, all cases of a subject on the same side.

    Subjects are ranked by a hash of seed and identifier, so that the split depends on nothing else: not on
    the order of files, not on a library's generator. Validation takes the first of them and the test the
    last, so that another share of one moves no case of the other.

    Args:
        cases: with "subject".
        validation_fraction: share of the subjects; at least one where it is over 0 and there are two or more.
        test_fraction: share of the subjects; at least one where it is over 0 and there are
            `FEWEST_FOR_TEST` or more, none where there are fewer.
        seed: of the split.

    Returns:
        Training, validation and test cases in their given order.
    """
    ranked = sorted({case["subject"] for case in cases}, key=lambda subject: subject_rank(seed, subject))
    n_validation = round(validation_fraction * len(ranked))
    if validation_fraction > 0 and len(ranked) > 1:
        n_validation = max(1, min(n_validation, len(ranked) - 1))
    n_test = 0
    if test_fraction > 0 and len(ranked) >= FEWEST_FOR_TEST:
        n_test = min(max(1, round(test_fraction * len(ranked))), len(ranked) - n_validation - 1)
    elif test_fraction > 0 and ranked:
        message = "%d subjects, fewer than %d: none is set aside as a test set"
        logger.info(message, len(ranked), FEWEST_FOR_TEST)
    place = {subject: number for number, subject in enumerate(ranked)}
    parts: tuple[list[Case], list[Case], list[Case]] = ([], [], [])
    for case in cases:
        number = place[case["subject"]]
        parts[1 if number < n_validation else 2 if number >= len(ranked) - n_test else 0].append(case)
    return parts
