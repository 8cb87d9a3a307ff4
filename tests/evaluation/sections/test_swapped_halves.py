"""The reference protocol on scores with a known answer; halves that share patients are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medldm.errors import ConfigError
from medldm.evaluation.cases.model_cases import open_reference_model
from medldm.evaluation.errors import NotMeasurableError
from medldm.evaluation.resources import EvaluationResources
from medldm.evaluation.sections.membership import ATTACKS, MembershipConfig, MembershipScores
from medldm.evaluation.sections.swapped_halves import measure_swapped_halves, swapped_results


def make_scores(values: np.ndarray) -> MembershipScores:
    attacks = [name for name in ATTACKS if name != "reference"]
    return MembershipScores(by_attack=dict.fromkeys(attacks, values), subjects=tuple(range(len(values))))


def test_a_memoriser_is_red_and_a_shared_model_is_green() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 50))
    for memory, light, value in ((9.0, "red", 1.0), (0.0, "green", 0.5)):
        results = swapped_results(
            [make_scores(first + memory), make_scores(first)],
            [make_scores(second), make_scores(second + memory)],
            n_resamples=100,
            seed=0,
        )
        assert [each.description.key for each in results] == [
            f"privacy.membership_auc_swapped_{attack}" for attack in ("mirror", "loss", "autoencoder")
        ]
        for each in results:
            assert each.light == light and each.synthetic is not None
            assert each.synthetic.value == pytest.approx(value)
            assert "Halves of 50 and 50 cases" in each.note


def test_halves_that_share_patients_are_refused() -> None:
    half: Any = type("Half", (), {"cases": [{"subject": "a"}, {"subject": "b"}]})()
    with pytest.raises(NotMeasurableError, match="2 subjects are in both halves"):
        measure_swapped_halves(
            (None, None),  # type: ignore[arg-type]
            (half, half),
            MembershipConfig(),
            n_resamples=20,
            seed=0,
            progress=print,
        )


def test_a_second_model_without_a_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and no model"):
        open_reference_model(EvaluationResources(reference_model=str(tmp_path / "b.safetensors")), None)
    with pytest.raises(ConfigError, match="no reference model"):
        open_reference_model(EvaluationResources(reference_train=str(tmp_path)), None)
    assert open_reference_model(EvaluationResources(), None) is None
