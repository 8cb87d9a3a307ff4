"""The demonstration cohort: reproducible, consistent, varied, and made without a network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.data.cohort import read_cohort
from medldm.demo.brain import (
    FIELD_OF_VIEW_MM,
    WIDE_VENTRICLE_PULL_MM,
    Template,
    load_template,
    make_deformation,
    make_subject,
)
from medldm.demo.cohort import DEMO_SCHEMA, FLUID_LABEL, make_demo_cohort
from medldm.seeds import demo_brain_generator

pytest.importorskip("nilearn", reason="the extra `demo` is not installed")

N_SUBJECTS = 4


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template(4.0)


@pytest.fixture(scope="module")
def subjects(template: Template) -> list[tuple[np.ndarray, np.ndarray]]:
    return [make_subject(template, seed=0, index=index) for index in range(N_SUBJECTS)]


@pytest.fixture(scope="module")
def cohort_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort made while every connection to another machine is refused."""

    def refuse(*_: object) -> None:
        raise AssertionError("the demonstration cohort opened a connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return make_demo_cohort(
            tmp_path_factory.mktemp("demo") / "cohort", n_subjects=2, spacing_mm=8.0, seed=3
        )


def test_cohort_is_readable_and_declares_its_tissues(cohort_dir: Path) -> None:
    cohort = read_cohort(cohort_dir, validation_fraction=0.5)
    assert len(cohort.training) == len(cohort.validation) == 1
    assert cohort.schema.structures == DEMO_SCHEMA.structures


def test_image_and_labels_share_one_affine_to_the_bit(cohort_dir: Path) -> None:
    for path in sorted((cohort_dir / "images").iterdir()):
        image, labels = nib.load(path), nib.load(cohort_dir / "labels" / path.name)
        assert np.array_equal(image.affine, labels.affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == (8.0, 8.0, 8.0)
        assert image.shape == labels.shape == (20, 24, 20)


def test_subject_does_not_depend_on_how_many_there_are(cohort_dir: Path, tmp_path: Path) -> None:
    again = make_demo_cohort(tmp_path, n_subjects=1, spacing_mm=8.0, seed=3)
    name = "brain_000.nii.gz"
    for folder in ("images", "labels"):
        first, second = (np.asarray(nib.load(each / folder / name).dataobj) for each in (cohort_dir, again))
        assert np.array_equal(first, second)


def test_seed_and_index_each_change_the_subject(
    template: Template, subjects: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    image, labels = make_subject(template, seed=0, index=1)
    assert np.array_equal(image, subjects[1][0]) and np.array_equal(labels, subjects[1][1])
    other_seed = make_subject(template, seed=1, index=1)
    for _, other_labels in (other_seed, subjects[2]):
        assert (labels != other_labels).mean() > 0.05


def test_grid_is_forty_by_forty_eight_by_forty_and_holds_the_brain(
    template: Template, subjects: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    assert template.shape == (40, 48, 40)
    assert tuple(4.0 * edge for edge in template.shape) == FIELD_OF_VIEW_MM
    for _, labels in subjects:
        border = np.ones(labels.shape, dtype=bool)
        border[1:-1, 1:-1, 1:-1] = False
        assert not labels[border].any()


def test_tissues_have_the_order_and_the_shares_of_a_t1_weighted_brain(
    subjects: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    for image, labels in subjects:
        background, grey, white, fluid = (float(image[labels == value].mean()) for value in range(4))
        assert white > 1.1 * grey > 1.1 * 1.3 * fluid
        assert background < 0.05 * grey
        volumes_ml = np.bincount(labels.ravel(), minlength=4)[1:] * 0.064
        assert 400 < volumes_ml[0] < 1300 and 250 < volumes_ml[1] < 800 and 20 < volumes_ml[2] < 150


def test_labels_lie_where_the_image_says(subjects: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The image of one subject explains its own labels better than another subject's."""
    for (image, own), (_, other) in zip(subjects, subjects[1:] + subjects[:1], strict=True):
        within = [sum(float(image[m == v].var()) * (m == v).mean() for v in range(4)) for m in (own, other)]
        assert within[0] < 0.5 * within[1]


def test_subjects_differ_in_contrast_and_in_ventricles(subjects: list[tuple[np.ndarray, np.ndarray]]) -> None:
    ratios = [image[labels == 1].mean() / image[labels == 2].mean() for image, labels in subjects]
    fluid = [int((labels == 3).sum()) for _, labels in subjects]
    assert max(ratios) - min(ratios) > 0.03
    assert max(fluid) > 1.15 * min(fluid)


@pytest.mark.parametrize("index", range(6))
def test_deformation_folds_nowhere(template: Template, index: int) -> None:
    points = make_deformation(template, generator=demo_brain_generator(0, index))
    jacobian = np.stack([np.stack(np.gradient(each)) for each in points]) / template.spacing_mm
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant.min() > 0.1


@pytest.fixture(scope="module")
def conditioned_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "conditioned"
    return make_demo_cohort(folder, n_subjects=10, spacing_mm=8.0, seed=3, conditions=True)


def test_cohort_with_conditions_is_read_with_all_of_them(conditioned_dir: Path) -> None:
    cases = read_cohort(conditioned_dir, validation_fraction=0.2).cases
    assert sorted(case["class"] for case in cases) == [0] * 5 + [1] * 5
    for case in cases:
        assert set(case["scalars"]) == {"age", "fluid_ml"}
        assert f"T{case['class'] + 1}" in case["text"] and "ventric" in case["text"]
    assert not (conditioned_dir / "labels" / "cohort.json").exists()


def test_fluid_scalar_is_the_volume_of_its_label(conditioned_dir: Path) -> None:
    volumes_ml = []
    for case in read_cohort(conditioned_dir).cases:
        labels = np.asarray(nib.load(case["label"]).dataobj)
        volumes_ml.append((labels == FLUID_LABEL).sum() * 0.512)
        assert case["scalars"]["fluid_ml"] == pytest.approx(volumes_ml[-1], abs=0.01)
    assert max(volumes_ml) > 1.8 * min(volumes_ml)


def test_class_tells_which_tissue_is_bright(conditioned_dir: Path) -> None:
    for case in read_cohort(conditioned_dir).cases:
        image, labels = (np.asarray(nib.load(case[key]).dataobj) for key in ("image", "label"))
        grey, white, fluid = (float(image[labels == value].mean()) for value in (1, 2, FLUID_LABEL))
        assert (fluid < grey < white) if case["class"] == 0 else (white < grey < fluid)


def test_option_conditions_changes_nothing_without_it(cohort_dir: Path, template: Template) -> None:
    assert not (cohort_dir / "cohort.json").exists()
    # Drawn by the first release of the cohort; all else follows from it.
    image, labels = make_subject(template, seed=0, index=0)
    assert np.bincount(labels.ravel()).tolist() == [54850, 13759, 7360, 831]
    assert float(image.mean()) == pytest.approx(129.76714, rel=1e-5)


@pytest.mark.parametrize("pull_mm", WIDE_VENTRICLE_PULL_MM)
def test_widest_pull_on_the_ventricles_folds_nothing(template: Template, pull_mm: float) -> None:
    generator = demo_brain_generator(0, 0)
    points = make_deformation(template, generator=generator, ventricle_pull_mm=(pull_mm, pull_mm))
    jacobian = np.stack([np.stack(np.gradient(each)) for each in points]) / template.spacing_mm
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    # The middle of the ventricles grows by more than a hundred times; below 0 it would fold.
    assert determinant.min() > 0.002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_subjects": 0}, "n_subjects is 0"),
        ({"spacing_mm": 1.0}, "spacing_mm is 1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_demo_cohort(tmp_path / "cohort", **arguments)
    assert not (tmp_path / "cohort").exists()


def test_absent_nilearn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImportError, match=r"medldm\[demo\]"):
        load_template(4.0)
