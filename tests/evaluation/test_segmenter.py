"""The segmenter and its scores: closed forms, MONAI as oracle, and a task that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from medldm.evaluation.cases.sets import LabelledImage
from medldm.evaluation.errors import TooFewCasesError
from medldm.evaluation.metrics.overlap import dice_scores, hausdorff95_mm
from medldm.evaluation.segmenter import (
    SegmenterConfig,
    _Case,
    _draw_batch,
    _follow,
    _hold_out,
    _Plateau,
    patch_for,
    train_segmenter,
)

TINY = SegmenterConfig(channels=(4, 8, 8), patch_size=(12, 12, 12), learning_rate=1e-2)


def make_cases(n: int, *, seed: int = 0, shape: tuple[int, int, int] = (14, 13, 12)) -> list[LabelledImage]:
    """Bright boxes on a dark ground."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(n):
        labels = np.zeros(shape, dtype=np.int64)
        x, y, z = rng.integers(2, 5, size=3)
        labels[x : x + 6, y : y + 6, z : z + 6] = 1
        cases.append(((2.0 * labels + rng.normal(0, 0.3, shape)).astype(np.float32), labels))
    return cases


def make_box(start: int, *, value: int = 1) -> np.ndarray:
    labels = np.zeros((16, 16, 16), dtype=np.int64)
    labels[start : start + 6, 4:10, 4:10] = value
    return labels


def test_dice_of_shifted_boxes_has_its_closed_form() -> None:
    scores = dice_scores(make_box(3), make_box(5), n_structures=2)
    assert scores[0] == pytest.approx(4 / 6)
    assert np.isnan(scores[1])


def test_hausdorff_of_shifted_boxes_is_the_shift_in_mm() -> None:
    assert hausdorff95_mm(make_box(3), make_box(5), (1.5, 1, 1), n_structures=1)[0] == pytest.approx(3.0)


def test_hausdorff_agrees_with_monai() -> None:
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(rng.random((1, 1, 9, 8, 7)) > 0.6) for _ in range(2))
    expected = compute_hausdorff_distance(
        first.float(), second.float(), include_background=True, percentile=95, spacing=(1.0, 2.0, 0.5)
    )
    own = hausdorff95_mm(first[0, 0].long(), second[0, 0].long(), (1.0, 2.0, 0.5), n_structures=1)
    assert own[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_missed_structure_costs_the_diagonal() -> None:
    empty = np.zeros((16, 16, 16), dtype=np.int64)
    distance = hausdorff95_mm(empty, make_box(3), (1, 1, 1), n_structures=2)
    assert distance[0] == pytest.approx(np.sqrt(3 * 16**2))
    assert np.isnan(distance[1])


def test_segmenter_learns_bright_boxes_of_odd_shapes() -> None:
    segmenter = train_segmenter(make_cases(6), TINY, n_structures=1, n_steps=40)
    scores = [
        dice_scores(segmenter.segment(image), labels, n_structures=1)[0]
        for image, labels in make_cases(3, seed=1, shape=(15, 12, 11))
    ]
    assert np.mean(scores) > 0.7


def test_the_same_seed_gives_the_same_segmenter() -> None:
    cases = make_cases(2)
    first, second, other = (
        train_segmenter(cases, TINY, n_structures=1, n_steps=3, seed=seed).network.state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_segmenter(make_cases(1), TINY, n_structures=1, n_steps=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_training_ends_at_its_plateau_with_the_best_weights() -> None:
    config = TINY.copy(patience=2, validation_interval=5)
    cases = [
        (np.random.default_rng(n).normal(size=(12, 12, 12)).astype(np.float32), labels)
        for n, (_, labels) in enumerate(make_cases(6, shape=(12, 12, 12)))
    ]
    unlearnable = train_segmenter(cases, config, n_structures=1, n_steps=400)
    assert 10 <= unlearnable.n_steps < 400 and unlearnable.n_steps % 5 == 0
    assert train_segmenter(cases, config.copy(patience=None), n_structures=1, n_steps=12).n_steps == 12
    plateau = _Plateau(2)
    network = torch.nn.Linear(1, 1)
    for score, is_reached in (
        (0.1, False),
        (0.5, False),
        (0.4, False),
        (0.6, False),
        (0.6, False),
        (0.2, True),
    ):
        torch.nn.init.constant_(network.weight, score)
        assert plateau.is_reached(score, network) is is_reached
    assert plateau.weights is not None and plateau.weights["weight"].item() == pytest.approx(0.6)


def test_few_cases_are_all_trained_on_and_many_hold_some_out() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, n_held_out in ((4, 0), (5, 1), (40, 4), (400, 8)):
        own, held_out = _hold_out(list(range(n)), SegmenterConfig(), generator=generator)
        assert len(held_out) == n_held_out and sorted(own + held_out) == list(range(n))


def test_added_cases_take_every_other_patch_at_most() -> None:
    def source(value: int, n: int) -> list[_Case]:
        return [_Case(np.zeros((4, 4, 4), dtype=np.float32), np.full((4, 4, 4), value))] * n

    generator = torch.Generator().manual_seed(0)
    for counts, share in (((2, 98), 0.5), ((80, 20), 0.8)):
        sources = [source(1, counts[0]), source(0, counts[1])]
        _, labels, _ = _draw_batch(sources, (4, 4, 4), 1000, generator=generator)
        assert float(labels[:, 0, 0, 0, 0].float().mean()) == pytest.approx(share, abs=0.05)


def test_the_average_is_that_of_the_power_function() -> None:
    average, network = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    values = torch.arange(1.0, 41.0)
    for step, value in enumerate(values.tolist(), 1):
        torch.nn.init.constant_(network.weight, value)
        _follow(average, network, step=step)
    betas = (1 - 1 / values) ** 7
    weights = torch.stack([(1 - betas[n]) * betas[n + 1 :].prod() for n in range(len(values))])
    assert float(weights.sum()) == pytest.approx(1)
    assert average.weight.item() == pytest.approx(float(weights @ values), rel=1e-5)


def test_patch_is_a_multiple_of_four_within_the_limit() -> None:
    assert patch_for([(35, 51, 30), (37, 49, 34)], SegmenterConfig(patch_size=(48, 48, 48))) == (36, 48, 32)


def test_wrong_settings_and_cases_are_named() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        SegmenterConfig(batch_size=0)
    with pytest.raises(TooFewCasesError, match="no case"):
        train_segmenter([], TINY, n_structures=1, n_steps=1)
    image, labels = make_cases(1)[0]
    with pytest.raises(ValueError, match="must be the same"):
        train_segmenter([(image, labels[1:])], TINY, n_structures=1, n_steps=1)
