"""What is drawn for a copy of a case, and what the denoiser is told of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.errors import ConfigError
from medldm.training import Augmentation, AugmentationConfig
from medldm.training.augmentation import raise_to_power
from medldm.transforms import CentreCropOrPadd

SIZE = (16, 20, 16)
NOTHING = {"rotation_deg": 0, "scale": 0, "stretch": 0, "translation": 0, "elastic": 0, "gamma": 0}


def augmentation(config: AugmentationConfig | None = None, **options) -> Augmentation:
    given = {"spacing_mm": (1, 1, 2), "copies": 8, "seed": 3, "gammas": (0.2, 0.0), "condition_gamma": 0.1}
    return Augmentation(config or AugmentationConfig(), **given | options)


def vectors(made: Augmentation, n: int = 200) -> np.ndarray:
    return np.array([made.draw(f"case {i}", 1, size=SIZE).vector for i in range(n)])


def test_a_draw_follows_from_seed_content_and_copy_alone() -> None:
    first = augmentation().draw("a", 1, size=SIZE)
    again = augmentation(copies=2).draw("a", 1, size=SIZE)
    assert first.vector == again.vector
    assert np.array_equal(first.deformation.elastic_shares, again.deformation.elastic_shares)
    others = [("a", 2, 3), ("b", 1, 3), ("a", 1, 4)]
    drawn = [augmentation(seed=seed).draw(content, copy, size=SIZE) for content, copy, seed in others]
    assert len({first.vector, *(one.vector for one in drawn)}) == 4


def test_a_limit_changes_nothing_that_another_one_gives() -> None:
    wide = augmentation().draw("a", 1, size=SIZE)
    still = augmentation(AugmentationConfig(rotation_deg=0, elastic=0)).draw("a", 1, size=SIZE)
    assert still.deformation.rotation_deg == (0, 0, 0)
    assert still.deformation.elastic_shares is None
    assert still.deformation.scale == wide.deformation.scale
    assert still.deformation.translation_mm == wide.deformation.translation_mm
    assert still.gammas == wide.gammas


def test_what_is_told_is_what_is_done_in_shares_of_the_limits() -> None:
    made = augmentation(flip=True)
    for i in range(20):
        drawn, limits = made.draw(str(i), 1, size=SIZE), made.config
        told, done = np.array(drawn.vector), drawn.deformation
        assert len(told) == made.n_channels == made.nothing.numel()
        assert told[0] == 1
        np.testing.assert_allclose(limits.rotation_deg * told[1:4], done.rotation_deg)
        np.testing.assert_allclose((limits.scale + limits.stretch) * told[4:7], np.log(done.scale))
        extent = np.array(SIZE) * (1, 1, 2)
        np.testing.assert_allclose(limits.translation * extent * told[7:10], done.translation_mm)
        assert 0 < np.abs(done.elastic_shares).max() <= limits.elastic * told[10]
        assert told[11] == done.flip
        np.testing.assert_allclose(np.log(drawn.gammas), (0.2 * told[12], 0))
        assert np.log(drawn.condition_gamma) == pytest.approx(0.1 * told[14])
    assert np.abs(vectors(made)).max() <= 1


def test_all_limits_are_reached_and_flips_are_half() -> None:
    told = vectors(augmentation(flip=True))
    assert (np.abs(told[:, [1, 2, 3, 7, 8, 9, 10, 12]]).max(axis=0) > 0.95).all()
    assert 0.4 < told[:, 11].mean() < 0.6
    assert not vectors(augmentation())[:, 11].any()


def test_without_limits_nothing_is_done() -> None:
    made = augmentation(AugmentationConfig(**NOTHING), gammas=(0.0,), condition_gamma=0.0)
    drawn = made.draw("a", 1, size=SIZE)
    assert drawn.deformation.is_identity
    assert (drawn.gammas, drawn.condition_gamma) == ((1.0,), 1.0)
    assert not any(drawn.vector[1:])


def test_the_original_is_taken_as_often_as_asked_and_each_copy_as_often_as_another() -> None:
    made = augmentation(AugmentationConfig(original_share=0.3), copies=4)
    counts = np.bincount([made.choose_copy(seed) for seed in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.3, *[0.7 / 3] * 3], atol=0.03)
    assert {augmentation(AugmentationConfig(original_share=1)).choose_copy(seed) for seed in range(50)} == {0}


def test_gamma_keeps_air_and_the_brightest_and_acts_on_each_channel() -> None:
    volume = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(2, 3, 1, 1)
    changed = raise_to_power(volume, (2.0, 1.0))
    assert changed[0].flatten().tolist() == [-1, -0.5, 1]
    assert torch.equal(changed[1], volume[1])


def test_intensities_of_fixed_meaning_are_left_alone() -> None:
    kinds = ("mr_percentile", "ct_window", "identity_range")
    assert [AugmentationConfig().gamma_of(kind) for kind in kinds] == [0.15, 0, 0]
    assert AugmentationConfig(gamma=0.3).gamma_of("ct_window") == 0.3


@pytest.mark.parametrize("wrong", [{"elastic": 0.5}, {"scale": -0.1}, {"order": 6}, {"original_share": 1.5}])
def test_limits_that_fold_space_or_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentationConfig(**wrong)


@pytest.mark.parametrize("copy", range(1, 7))
def test_measured_volumes_are_those_of_the_copy(copy: int) -> None:
    """Counted in the deformed label map: two boxes of different sizes, one on each side."""
    labels = torch.zeros(1, 40, 40, 40)
    labels[:, 10:17, 14:26, 14:26], labels[:, 24:30, 16:24, 16:24] = 1, 2
    volumes = {
        f"volume_ml:{name}": float((labels == value).sum()) for value, name in ((1, "left"), (2, "right"))
    }
    made = augmentation(
        AugmentationConfig(scale=0.2, elastic=0),
        spacing_mm=(1, 1, 1),
        flip=True,
        mirror={1: 2, 2: 1},
        mirror_names={"left": "right"},
    )
    crop = CentreCropOrPadd(("label",), (40, 40, 40), label_keys=("label",), fill=-1.0)
    case = {"label": MetaTensor(labels), "scalars": {**volumes, "age": 61.0}}
    drawn = made.draw("a case", copy, size=(40, 40, 40))
    result = made.apply(case, drawn, keys=("label",), crop=crop)
    assert result["scalars"]["age"] == 61.0
    for value, name in ((1, "left"), (2, "right")):
        counted = float((result["label"] == value).sum())
        assert result["scalars"][f"volume_ml:{name}"] == pytest.approx(counted, rel=0.06)
    assert case["scalars"]["volume_ml:left"] == volumes["volume_ml:left"]
