"""Partly labelled cases in an evaluation: only structures that a map covers are judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medldm.data.labels import LabelSchema
from medldm.evaluation.cases.reading import known_structures
from medldm.evaluation.metrics.anatomy import ks_statistic, measure_anatomy
from medldm.evaluation.metrics.label_map_overlap import overlap_table
from medldm.evaluation.sections.agreement import measure_label_agreement
from medldm.evaluation.sections.usefulness_trainings import blind_answer
from medldm.evaluation.segmenter import SegmenterConfig, merge_unknown, train_segmenter

TINY = SegmenterConfig(channels=(4, 8, 8), patch_size=(12, 12, 12), learning_rate=1e-2)


def make_map(*, two: bool, shift: int = 0) -> np.ndarray:
    labels = np.zeros((12, 12, 12), dtype=np.int64)
    labels[2 + shift : 6 + shift, 3:8, 3:8] = 1
    if two:
        labels[7 + shift : 10 + shift, 3:8, 3:8] = 2
    return labels


def image_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.1, labels.shape)
    return (np.array([0.0, 1.0, 3.0])[labels] + noise).astype(np.float32)


def test_cases_say_what_is_known() -> None:
    schema = LabelSchema(structures={1: "a", 4: "b"})
    cases = [{}, {"structures_in_map": ["b"]}]
    assert known_structures(cases, schema).tolist() == [[True, True], [False, True]]
    assert known_structures(cases[:1], schema) is None
    assert known_structures([{"structures_in_map": ["a", "b"]}], schema) is None


def test_marginal_probabilities_are_sums() -> None:
    """Shi et al. 2021: what is not covered counts as background."""
    logits = torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    unknown = torch.tensor([[False, True, True], [False, False, False]])
    p, q = logits.softmax(1), merge_unknown(logits, unknown).softmax(1)
    torch.testing.assert_close(q[0, 0], p[0, 0] + p[0, 2] + p[0, 3])
    torch.testing.assert_close(q[0, 1], p[0, 1])
    assert not q[0, 2:].any()
    torch.testing.assert_close(q[1], p[1])
    assert merge_unknown(logits, None) is logits


def test_a_segmenter_learns_a_structure_from_the_maps_that_cover_it() -> None:
    """Half of the maps lack structure 2, which all images show: as background it would be unlearnt."""
    maps = [make_map(two=n % 2 == 0, shift=n % 3) for n in range(4)]
    cases = [(image_of(make_map(two=True, shift=n % 3), n), labels) for n, labels in enumerate(maps)]
    known = np.array([[True, n % 2 == 0] for n in range(4)])
    image, truth = image_of(make_map(two=True), 9), make_map(two=True)
    options = {"n_structures": 2, "n_steps": 60, "seed": 1}
    segmenter = train_segmenter(cases, TINY, known=(known, None), **options)
    found = segmenter.segment(image)
    assert (found == truth).mean() > 0.97
    assert (found[truth == 2] == 2).mean() > 0.8


def test_whole_maps_train_the_same_segmenter_to_the_bit() -> None:
    cases = [(image_of(make_map(two=True), n), make_map(two=True)) for n in range(2)]
    options = {"n_structures": 2, "n_steps": 3}
    plain = train_segmenter(cases, TINY, **options)
    said = train_segmenter(cases, TINY, known=(np.ones((2, 2), dtype=bool), None), **options)
    for name, weight in plain.network.state_dict().items():
        assert torch.equal(weight, said.network.state_dict()[name])


def test_agreement_and_chance_leave_out_what_a_map_does_not_cover() -> None:
    whole, part = make_map(two=True), make_map(two=False)
    cases = [(image_of(whole), whole), (image_of(whole), part)]
    known = np.array([[True, True], [True, False]])
    found = measure_label_agreement(lambda image: whole, cases, cases, n_structures=2, known=(known, known))
    assert found.synthetic[0].tolist() == found.test[0].tolist() == [1.0, 1.0]
    assert found.synthetic[1, 0] == 1.0
    assert np.isnan(found.synthetic[1, 1])
    # Chance is against the other case's map: what that one covers.
    assert np.isnan(found.chance[0, 1])
    assert found.chance[1, 1] == 1.0
    assert found.dice("synthetic", 1).value == 1.0
    plain = measure_label_agreement(lambda image: whole, cases, cases, n_structures=2)
    assert plain.synthetic[1, 1] == 0.0


def test_the_blind_answer_counts_a_structure_where_it_is_covered() -> None:
    maps = [make_map(two=True), make_map(two=False), make_map(two=False)]
    known = np.array([[True, True], [True, False], [True, False]])
    assert np.array_equal(blind_answer(maps, n_structures=2, known=known), maps[0])
    assert np.array_equal(blind_answer(maps, n_structures=2), maps[1])


def test_anatomy_is_that_of_covered_structures() -> None:
    maps = [make_map(two=True), make_map(two=False)]
    known = np.array([[True, True], [True, False]])
    table = measure_anatomy(maps, (1, 1, 1), values=(1, 2), known=known)
    plain = measure_anatomy(maps, (1, 1, 1), values=(1, 2))
    for name in ("volume_ml", "n_components", "surface_cm2"):
        assert np.isnan(getattr(table, name)[1, 1])
        assert np.array_equal(getattr(table, name)[0], getattr(plain, name)[0])
    assert plain.volume_ml[1, 1] == 0
    values = np.array([1.0, 2.0, 3.0])
    with_gap = np.array([1.0, np.nan, 2.0, 3.0])
    assert ks_statistic(with_gap, [2.5, 2.5]) == pytest.approx(ks_statistic(values, [2.5, 2.5]))
    assert np.isnan(ks_statistic([np.nan], [1.0]))


def test_maps_are_compared_in_what_both_cover() -> None:
    whole, part = make_map(two=True), make_map(two=False)
    known = np.array([[True, False]])
    assert overlap_table([part], [whole], n_structures=2)[0, 0] == pytest.approx(0.5)
    assert overlap_table([part], [whole], n_structures=2, known=(known, None))[0, 0] == 1.0
    nothing = np.array([[False, True]])
    assert overlap_table([part], [whole], n_structures=2, known=(known, nothing))[0, 0] == 0.0
