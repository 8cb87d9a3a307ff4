"""Cohorts: their cases, their labels, and the checks before training."""

from medldm.data.checks import check_cohort, require_sound, run_check
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.issues import CohortError, Issue
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.data.listing import Case
from medldm.data.splits import split_by_subject

__all__ = [
    "Case",
    "Cohort",
    "CohortError",
    "Issue",
    "LabelSchema",
    "check_cohort",
    "read_cohort",
    "read_label_schema",
    "require_sound",
    "run_check",
    "split_by_subject",
]
