"""An evaluation refuses test cases that the model was trained on, and says what it cannot know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medldm.data.cohort import Cohort
from medldm.data.identity import default_key_file
from medldm.evaluation.cases.reading import CHOSE_EPOCH, Cohorts
from medldm.evaluation.cases.unseen import count_trained, require_unseen
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.sections.membership import MembershipConfig, measure_membership
from medldm.evaluation.sections.swapped_halves import measure_swapped_halves
from medldm.latent_diffusion.recorded_split import NOT_RECOGNISED, NOT_RECORDED, with_remark
from medldm.training import open_cohort


@pytest.fixture
def cohort(make_cohort: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return open_cohort(
        str(make_cohort(10, shape=(5, 6, 7))), validation_fraction=0.2, test_fraction=0.2, seed=1
    )


def sets(cohort: Cohort, train: list[Any], test: list[Any]) -> Cohorts:
    first, second = (
        replace(cohort, training=each, validation=[], test=[], issues=()) for each in (train, test)
    )
    return Cohorts(first, second, first)


def messages(cohorts: Cohorts) -> list[str]:
    return [issue.message for issue in cohorts.test.issues]


def test_the_split_of_the_training_passes_and_another_is_refused(cohort: Cohort) -> None:
    record = cohort.split_record
    assert messages(require_unseen(sets(cohort, cohort.training, cohort.test), record)) == []
    mixed = [cohort.training[0], *cohort.test]
    with pytest.raises(NotMeasurableError, match="trained on 1 of the 3 real test cases"):
        require_unseen(sets(cohort, cohort.training[1:], mixed), record)


def test_what_is_not_refused_is_said_once(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    record = cohort.split_record
    held_out = sets(cohort, [*cohort.training, cohort.test[0]], [*cohort.validation, cohort.test[1]])
    assert messages(require_unseen(held_out, record)) == [
        "2 of the 3 real test cases chose the epoch of the model.",
        "The model was not trained on 1 of the 7 real training cases.",
    ]
    known = with_remark(cohort, "said").issues
    own = sets(cohort, cohort.training, cohort.validation)
    chose = replace(known[-1], check=CHOSE_EPOCH)
    assert messages(require_unseen(own._replace(test=replace(own.test, issues=(chose,))), record)) == ["said"]
    once = require_unseen(own, None)
    assert messages(once) == messages(require_unseen(once, None)) == [NOT_RECORDED]
    assert NOT_RECORDED in caplog.text


def test_without_the_key_the_training_set_is_still_recognised(cohort: Cohort) -> None:
    record = cohort.split_record
    default_key_file().unlink()
    assert messages(require_unseen(sets(cohort, cohort.training, cohort.test), record)) == []
    part = sets(cohort, cohort.training[:3], cohort.test)
    assert messages(require_unseen(part, record)) == [NOT_RECOGNISED]


def test_a_second_model_must_not_have_seen_the_other_half(cohort: Cohort) -> None:
    assert count_trained(cohort.split_record, [cohort]) == 6 and count_trained(None, [cohort]) == 0
    halves = sets(cohort, cohort.training[:3], cohort.test)
    model: Any = type("Model", (), {"split": cohort.split_record})()
    other: Any = type("Model", (), {"split": None})()
    options: dict[str, Any] = {"n_resamples": 20, "seed": 0, "progress": print}
    with pytest.raises(NotMeasurableError, match="trained on 3 cases of the other"):
        measure_swapped_halves((other, model), (halves.train, halves.test), MembershipConfig(), **options)
    with pytest.raises(NotMeasurableError, match="reference model was trained on 3 of the real cases"):
        measure_membership(other, halves, MembershipConfig(), reference=model, **options)
