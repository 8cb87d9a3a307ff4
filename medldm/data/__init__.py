"""Cohorts: their cases, their labels, and the checks before training."""

from medldm.data.checks import check_cohort, require_sound, run_check
from medldm.data.cohort import Cohort, read_cohort, split_by_subject
from medldm.data.cohort_listing import Case
from medldm.data.findings import CohortError, Finding
from medldm.data.labels import LabelSchema, read_label_schema

__all__ = [
    "Case",
    "Cohort",
    "CohortError",
    "Finding",
    "LabelSchema",
    "check_cohort",
    "read_cohort",
    "read_label_schema",
    "require_sound",
    "run_check",
    "split_by_subject",
]
