"""Say what a preparation decided on its way, for the log and the summary."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from medldm.data.preparation.cases import CasePlan
from medldm.data.preparation.options import PrepareOptions
from medldm.data.preparation.structures import absent_structures

logger = logging.getLogger(__name__)


def describe_decisions(plans: Sequence[CasePlan], options: PrepareOptions) -> list[str]:
    """Return a line for each thing that was decided and should be looked at; all of them go to the log."""
    lines = [
        *_paired_by_place(plans),
        *absent_structures(
            [[name for name in plan.source.structures if plan.values[name]] for plan in plans]
        ),
        *_contrasts(plans),
        *_incomplete(plans, options),
    ]
    for line in lines:
        logger.warning("%s", line)
    return lines


def _paired_by_place(plans: Sequence[CasePlan]) -> list[str]:
    ids = [plan.record.id for plan in plans if plan.source.is_alone]
    if not ids:
        return []
    return [f"{len(ids)} label maps go with the one image beside them, not by name: {', '.join(ids)}"]


def _contrasts(plans: Sequence[CasePlan]) -> list[str]:
    """Name the option that joins contrasts, where subjects have several."""
    contrasts: dict[str, set[str]] = defaultdict(set)
    for plan in plans:
        if plan.source.known_contrast:
            contrasts[plan.record.subject].add(plan.source.known_contrast)
    several = [found for found in contrasts.values() if len(found) > 1]
    if not several:
        return []
    names = ",".join(sorted(set().union(*several)))
    return [
        f"{len(several)} subjects have several contrasts, each a case of its own; --channels {names} makes "
        "them one case"
    ]


def _incomplete(plans: Sequence[CasePlan], options: PrepareOptions) -> list[str]:
    incomplete = [plan for plan in plans if plan.source.missing]
    lacking = [f"{plan.record.id} ({', '.join(plan.source.missing)})" for plan in incomplete]
    if not (lacking and options.drop_incomplete):
        return []
    return [f"{len(lacking)} cases that lack a contrast are left out: {', '.join(lacking)}"]
