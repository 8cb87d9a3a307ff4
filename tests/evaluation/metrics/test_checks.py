"""Arrays that no measure can use are refused with what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.checks import check_features, check_two_sets, check_volume, check_weights


def test_features_that_are_not_a_table_or_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the real set has the shape \(3,\)"):
        check_features(np.zeros(3), "the real set")
    with pytest.raises(ValueError, match="first in row 1"):
        check_features([[0.0], [np.nan]], "x")


def test_too_few_cases_have_their_own_error() -> None:
    with pytest.raises(TooFewCasesError, match="1 cases; this measure needs at least 2"):
        check_features(np.zeros((1, 4)), "x")


def test_sets_of_different_width_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4 features"):
        check_two_sets(np.zeros((2, 3)), np.zeros((2, 4)))


def test_weights_default_to_one_and_must_fit() -> None:
    assert check_weights(None, 3).tolist() == [1, 1, 1]
    for bad in ([1, 2], [0, 0, 0], [1, -1, 1], [1, np.nan, 1]):
        with pytest.raises(ValueError, match="weights of shape"):
            check_weights(bad, 3)


def test_volume_must_be_three_dimensional_and_finite() -> None:
    with pytest.raises(ValueError, match=r"\(X, Y, Z\) is needed"):
        check_volume(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="2 voxels that are not finite"):
        check_volume(np.array([[[np.nan, np.inf, 0.0]]]))
