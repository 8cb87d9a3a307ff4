"""The channels of an evaluation's cohorts: brought to one order by name, and looked at one by one."""

from __future__ import annotations

import logging

from medldm.data.cohort import Cohort
from medldm.data.issues import CohortError, Issue
from medldm.evaluation.cases.reading import Cohorts

logger = logging.getLogger(__name__)


def align_channels(cohorts: Cohorts) -> Cohorts:
    """Bring the real cohorts to the channels of the synthetic one, in its order.

    Args:
        cohorts: of the evaluation; one channel needs no name.

    Raises:
        CohortError: where a real cohort lacks a channel of the synthetic one.
    """
    wanted = cohorts.synthetic.channels
    if cohorts.without_images:
        return cohorts
    train, test = (
        _with_channels(cohort, wanted, name=f"the real {name} set")
        for name, cohort in (("training", cohorts.train), ("test", cohorts.test))
    )
    return Cohorts(train, test, cohorts.synthetic)


def of_channel(cohorts: Cohorts, name: str) -> Cohorts:
    """Return the cohorts with one channel of several."""
    return Cohorts(*(cohort.with_channels([name]) for cohort in cohorts))


def _with_channels(cohort: Cohort, wanted: tuple[str, ...], *, name: str) -> Cohort:
    if cohort.channels == wanted or (len(wanted) <= 1 and not cohort.channels):
        return cohort
    if not wanted and len(cohort.channels) == 1:
        return cohort
    if not wanted or not set(wanted) <= set(cohort.channels):
        found = f"the channels {list(cohort.channels)}" if cohort.channels else "one channel without a name"
        made = f"{list(wanted)}" if wanted else "one channel without a name"
        message = f"it has {found}, the synthetic set has {made}; choose the same with channels"
        raise CohortError([Issue.error("channel", name, message)])
    if surplus := [each for each in cohort.channels if each not in wanted]:
        logger.warning("%s also has %s, which the synthetic set lacks: they are not compared", name, surplus)
    return cohort.with_channels(wanted)
