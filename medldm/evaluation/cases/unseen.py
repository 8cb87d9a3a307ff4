"""What a model recorded of its training's split, against the cohorts it is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence

from medldm.data.cohort import Cohort
from medldm.data.contents import with_contents
from medldm.data.split_record import SplitRecord
from medldm.evaluation.cases.reading import CHOSE_EPOCH, Cohorts
from medldm.evaluation.errors import NotMeasurableError
from medldm.latent_diffusion.recorded_split import NOT_RECOGNISED, NOT_RECORDED, with_remark


def require_unseen(cohorts: Cohorts, record: SplitRecord | None) -> Cohorts:
    """Refuse test cases that the model was trained on, and remark what else its record says of the cohorts.

    Args:
        cohorts: of the evaluation.
        record: of the model.

    Returns:
        The cohorts; the test set has what the reader should know among its issues.

    Raises:
        NotMeasurableError: where the model was trained on real test cases.
    """
    test = cohorts.test
    if record is None:
        return cohorts._replace(test=_remark(test, NOT_RECORDED))
    trained = with_contents(cohorts.train).cases
    roles = record.roles(with_contents(test).cases)
    own = record.roles(trained)
    if roles is None or own is None:
        is_known = record.is_of({"training": trained})
        return cohorts if is_known else cohorts._replace(test=_remark(test, NOT_RECOGNISED))
    if n := roles.count("training"):
        raise NotMeasurableError(
            f"the model was trained on {n} of the {len(roles)} real test cases: give cases that it never "
            "saw; evaluate.yaml takes them from the cohort of the training, as its checkpoint says"
        )
    if (n := roles.count("validation")) and not any(issue.check == CHOSE_EPOCH for issue in test.issues):
        test = _remark(test, f"{n} of the {len(roles)} real test cases chose the epoch of the model.")
    if n := len(own) - own.count("training"):
        test = _remark(test, f"The model was not trained on {n} of the {len(own)} real training cases.")
    return cohorts._replace(test=test)


def count_trained(record: SplitRecord | None, cohorts: Sequence[Cohort]) -> int:
    """Return how many cases of cohorts a model is known to have been trained on."""
    cases = [case for cohort in cohorts for case in with_contents(cohort).cases]
    return 0 if record is None else (record.roles(cases) or []).count("training")


def _remark(cohort: Cohort, message: str) -> Cohort:
    """Add a remark, unless the split of the cohort has it already."""
    is_there = any(issue.message == message for issue in cohort.issues)
    return cohort if is_there else with_remark(cohort, message)
