"""The split in a checkpoint's card, and cohorts that are split as it says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from medldm.data.cohort import Cohort, describe_split, read_cohort
from medldm.data.contents import with_contents
from medldm.data.issues import Issue
from medldm.data.split_record import SplitRecord
from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.checkpoints import read_card
from medldm.latent_diffusion.model_files import Describe

logger = logging.getLogger(__name__)

SPLIT_KEY = "split"
"""Name in a card of the split of the training; older cards have none."""
SPLIT = "split"
"""Name of an issue of a cohort that may not be split as the training split it."""
NOT_RECORDED = (
    "The model does not say how its training split the cohort: it may have been trained on some of the real "
    "test cases, where another seed or other fractions were given then."
)
NOT_RECOGNISED = (
    "The cohort is not the one that the model was trained on, or it has changed, and the key that tells its "
    "cases one by one is not here: the model may have been trained on some of the real test cases."
)


def describe_with_split(describe: Describe, record: SplitRecord | None) -> Describe:
    """Return a function that adds the split to what a checkpoint's card says; nothing for None."""

    def described() -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        weights, card = describe()
        return weights, card if record is None else {**card, SPLIT_KEY: record.to_dict()}

    return described


def split_in(card: Mapping[str, Any]) -> SplitRecord | None:
    """Return the split in a card, None where it has none.

    Raises:
        CheckpointError: if it does not describe one.
    """
    try:
        return SplitRecord.from_dict(card[SPLIT_KEY]) if SPLIT_KEY in card else None
    except ConfigError as error:
        raise CheckpointError(f"the card of the checkpoint does not describe a split: {error}") from error


def split_of(path: str | Path) -> SplitRecord | None:
    """Return the split that a checkpoint's training recorded, None where it recorded none."""
    return split_in(read_card(path))


def read_as_trained(
    dataset_dir: str | Path,
    *,
    checkpoint: str | Path | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    **options: Any,
) -> Cohort:
    """Read a cohort in the split of a model's training.

    Cases that the training did not know are test cases. Where a model recorded no split, or its cases are
    not recognised, an issue of the cohort and the log say so.

    Args:
        dataset_dir: as of `read_cohort`.
        checkpoint: of the model; None, or no file, for the split that the other arguments say.
        validation_fraction: where the model recorded no split, like the following.
        test_fraction: share of the test cases.
        seed: of the split.
        options: further ones of `read_cohort`.
    """
    given: dict[str, Any] = {
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    if checkpoint is None or not Path(checkpoint).is_file():
        logger.info("no model says how its training split the cohort: the settings do")
        return read_cohort(dataset_dir, **given, **options)
    record = split_of(checkpoint)
    if record is None:
        return with_remark(read_cohort(dataset_dir, **given, **options), NOT_RECORDED)
    if record.settings != given:
        message = "the split is the one that %s was trained with, %s, in the place of %s"
        logger.warning(message, Path(checkpoint).name, record.settings, given)
    cohort = with_contents(read_cohort(dataset_dir, **record.settings, **options))
    roles = record.roles(cohort.cases)
    if roles is None or not any(roles):
        return cohort if record.is_of(cohort.splits) else with_remark(cohort, NOT_RECOGNISED)
    lists: dict[str, list[Any]] = {name: [] for name in cohort.splits}
    for case, role in zip(cohort.cases, roles, strict=True):
        lists[role or "test"].append(case)
    if n_new := roles.count(None):
        logger.info("%d cases that the training did not know are test cases", n_new)
    cohort = replace(cohort, **lists)  # type: ignore[arg-type]
    logger.info("cohort, as the training split it: %s", describe_split(cohort))
    return cohort


def with_remark(cohort: Cohort, message: str) -> Cohort:
    """Return a cohort with one more remark on its split, which the log has too."""
    logger.warning("%s", message)
    return replace(cohort, issues=(*cohort.issues, Issue.warning(SPLIT, cohort.root.name, message)))


def require_untrained(path: str | Path, cohort: Cohort, *, what: str) -> None:
    """Refuse a cohort whose validation or test cases a model was trained on.

    Args:
        path: checkpoint of the model; where it has no record, or its key is not here, nothing is refused.
        cohort: whose cases have `CONTENT`; one without is not known.
        what: the model, for the error.

    Raises:
        ConfigError: saying with which settings the model's training split its cohort.
    """
    require_held_out(split_of(path), cohort, what=what)


def require_held_out(record: SplitRecord | None, cohort: Cohort, *, what: str) -> None:
    """Refuse a cohort whose validation or test cases are training cases of a recorded split.

    Args:
        record: of the split; None refuses nothing.
        cohort: as of `require_untrained`.
        what: was trained on the split, for the error.

    Raises:
        ConfigError: saying with which settings the cohort was split.
    """
    if record is None:
        return
    held_out = [*cohort.validation, *cohort.test]
    n_trained = (record.roles(held_out) or []).count("training")
    if n_trained:
        raise ConfigError(
            f"{what} was trained on {n_trained} of the {len(held_out)} cases of validation and test: set "
            f"validation_fraction {record.validation_fraction:g}, test_fraction {record.test_fraction:g} and "
            f"split_seed {record.seed} as it had them, or train it anew on this split"
        )
