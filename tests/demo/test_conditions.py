"""What is said of a subject follows from its contrast and its fluid, in varied words."""

from __future__ import annotations

import numpy as np
import pytest

from medldm.demo.conditions import (
    CONTRAST_WORDS,
    ENLARGED_ABOVE_ML,
    NARROW_BELOW_ML,
    VENTRICLE_WORDS,
    describe_subject,
    make_text,
    ventricle_size,
)


def test_words_about_the_ventricles_follow_the_volume() -> None:
    sizes = [ventricle_size(ml) for ml in (NARROW_BELOW_ML - 0.1, NARROW_BELOW_ML, ENLARGED_ABOVE_ML + 0.1)]
    assert sizes == ["narrow", "normal", "enlarged"]
    for ml, size in zip((40.0, 60.0, 100.0), sizes, strict=True):
        entry = describe_subject(ml, contrast="t2", generator=np.random.default_rng(0))
        assert any(entry["text"].endswith(words) for words in VENTRICLE_WORDS[size])
        assert entry["class"] == 1 and "T2" in entry["text"]


def test_all_wordings_occur_and_no_two_mean_different_things() -> None:
    generator = np.random.default_rng(0)
    texts = {
        (contrast, size): {make_text(contrast, size, generator=generator) for _ in range(200)}
        for contrast in CONTRAST_WORDS
        for size in VENTRICLE_WORDS
    }
    assert all(len(found) == 9 for found in texts.values())
    assert len(set.union(*texts.values())) == 6 * 9


def test_age_rises_with_the_fluid_and_does_not_give_it_away() -> None:
    generator = np.random.default_rng(0)
    fluid_ml = np.linspace(40.0, 150.0, 400)
    entries = [describe_subject(ml, contrast="t1", generator=generator) for ml in fluid_ml]
    ages = np.array([entry["scalars"]["age"] for entry in entries])
    assert 0.85 < np.corrcoef(fluid_ml, ages)[0, 1] < 0.97
    assert ages.min() >= 18 and ages.max() <= 95
    residual = ages - np.polyval(np.polyfit(fluid_ml, ages, 1), fluid_ml)
    assert residual.std() == pytest.approx(6.0, abs=4 * 6.0 / np.sqrt(2 * 400))
