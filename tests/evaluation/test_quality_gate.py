"""The gate's limits are those of real cases: copies and unfollowed maps fail, new volumes pass."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.data.cohort import read_cohort
from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.reading import read_case
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.planted_copies import plant_copies
from medldm.evaluation.quality_gate import CopyCheck, LabelCheck, QualityGateConfig, make_quality_gate
from medldm.evaluation.segmenter import Segmenter, SegmenterConfig
from medldm.transforms import LoadVolume

KEYS = (("image", False), ("label", True))
CONFIG = QualityGateConfig(max_redraws=2, neighbours={"max_shift": 2})  # type: ignore[arg-type]


def make_volumes(n: int, *, seed: int) -> list[np.ndarray]:
    shape, generator = (18, 20, 16), np.random.default_rng(seed)
    return [gaussian_filter(generator.normal(size=shape), 1.5).astype(np.float32) for _ in range(n)]


class ReadsMaps(Segmenter):
    """Takes the image's sign for the labels."""

    def __init__(self) -> None:
        pass

    def segment(self, image: np.ndarray) -> np.ndarray:
        return (np.asarray(image) > 0).astype(np.int64)


def test_copies_are_named_and_new_volumes_pass() -> None:
    train = make_volumes(24, seed=0)
    check = CopyCheck(train, range(24), CONFIG)
    copies, _ = plant_copies(train, 10, seed=1)
    assert all("like a training volume" in check(copy, None)[0] for copy in copies)
    assert sum(bool(check(new, None)) for new in make_volumes(20, seed=2)) <= 2


def test_scans_of_one_subject_do_not_raise_the_limit() -> None:
    train = make_volumes(24, seed=3)
    twins = [*train, *(1.2 * volume for volume in train)]
    apart = CopyCheck(twins, range(48), CONFIG).threshold
    together = CopyCheck(twins, [*range(24), *range(24)], CONFIG).threshold
    assert apart > 0.99 > 0.8 > together
    with pytest.raises(TooFewCasesError, match="one subject"):
        CopyCheck(train, 24 * ["same"], CONFIG)


def test_unfollowed_maps_are_named() -> None:
    images = make_volumes(8, seed=4)
    real = [(image, (gaussian_filter(image, 0.3) > 0).astype(np.int64)) for image in images]
    blind = np.zeros_like(real[0][1])
    check = LabelCheck(ReadsMaps(), real, n_structures=1, quantile=0.05, blind=blind)
    assert check(*real[0]) == [] or check(*real[1]) == []
    assert "label map not followed: Dice 0." in check(images[0], real[1][1])[0]
    assert check(images[0], None) == []
    with pytest.raises(ValueError, match=r"looks at no image 1\.00: give it more steps"):
        same = [(image, real[0][1]) for image in images[1:7]]
        LabelCheck(ReadsMaps(), same, n_structures=1, quantile=0.05, blind=real[0][1])
    with pytest.raises(TooFewCasesError, match="4 validation cases"):
        LabelCheck(ReadsMaps(), real[:4], n_structures=1, quantile=0.05, blind=blind)


def test_gate_of_a_cohort_judges_its_own_training_cases_as_copies(tmp_path, make_model) -> None:
    folder, rng = tmp_path / "cohort", np.random.default_rng(6)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(28):
        labels = np.zeros((16, 20, 16), dtype=np.uint8)
        x, y, z = rng.integers(1, 9, size=3)
        labels[x : x + 6, y : y + 7, z : z + 5] = 5
        image = (40 * labels + rng.normal(60, 5, labels.shape)).astype(np.float32)
        for part, volume in (("images", image), ("labels", labels)):
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / part / f"case_{number:02d}.nii.gz")
    (folder / "labels.json").write_text('{"1": "shell", "5": "core"}')
    config = QualityGateConfig(
        max_redraws=1,
        n_steps=40,
        neighbours={"max_shift": 0, "wavelengths": (2.0, 8.0)},  # type: ignore[arg-type]
        segmenter=SegmenterConfig(channels=(4, 8, 8), patch_size=(16, 16, 16), learning_rate=2e-2),
    )
    model = make_model(("label_map",))
    gate = make_quality_gate(model, str(folder), validation_fraction=0.2, split_seed=0, config=config)
    assert gate is not None and gate.max_redraws == 1
    cohort = read_cohort(str(folder), validation_fraction=0.2, seed=0)
    schema = LabelSchema(structures=model.conditioning_config.structures)
    copy, new = (
        [LoadVolume(is_label=is_label)(case[key])[0].numpy() for key, is_label in KEYS]
        for case in (cohort.training[0], cohort.validation[0])
    )
    seen, scaled = (np.asarray(model.space.intensity.to_model(each[0]), np.float32) for each in (copy, new))
    assert any("like a training volume: similarity 1.000" in each for each in gate.check(seen, None))
    assert not any("like a training" in each for each in gate.check(scaled, None))
    own = schema.index_map(new[1].astype(np.int64)).numpy()
    assert not any("not followed" in each for each in gate.check(scaled, own))
    assert any("not followed" in each for each in gate.check(scaled, np.roll(own, 8, axis=0)))


def test_gate_is_off_unless_asked_for_and_must_judge_something(make_model) -> None:
    off = QualityGateConfig()
    assert make_quality_gate(make_model(), "none", validation_fraction=0.1, split_seed=0, config=off) is None
    with pytest.raises(ValueError, match="check one of them"):
        QualityGateConfig(max_redraws=1, copies=False, labels=False)


def test_gate_judges_every_channel_by_name(make_cohort, make_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MEDLDM_CACHE_DIR", str(tmp_path / "cache"))
    folder = make_cohort(26, channels=("t2w", "ct"))
    model = make_model((), channels=("t2w", "ct"))
    config = CONFIG.copy(labels=False, neighbours={"max_shift": 0, "wavelengths": (2.0, 8.0)})
    gate = make_quality_gate(model, str(folder), validation_fraction=0.1, split_seed=0, config=config)
    assert gate is not None
    cohort = read_cohort(str(folder), validation_fraction=0.1, seed=0)
    first, second = (
        read_case(cohort.with_channels([name]).training[0], (1.0, 1.0, 1.0))[0] for name in ("t2w", "ct")
    )
    noise = np.random.default_rng(0).normal(size=first.shape).astype(np.float32)
    assert gate.check(np.stack([noise, noise]), None) == []
    (of_second,) = gate.check(np.stack([noise, second]), None)
    assert of_second.startswith("ct: like a training volume")
    (of_first,) = gate.check(np.stack([first, noise]), None)
    assert of_first.startswith("t2w: like a training volume")
