"""Nearest training volumes against correlation written out, under every disguise the search sees through."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.metrics.neighbours import NeighbourConfig, cosine_neighbours
from medldm.evaluation.metrics.planted_copies import shift_volume
from tests.evaluation.measures import find_neighbours

SHAPE = (13, 14, 11)


def make_volumes(n: int, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [gaussian_filter(generator.normal(size=shape), 1.0) for _ in range(n)]


def band_passed(volume: np.ndarray, *, pad: int, wavelengths: tuple[float, float]) -> np.ndarray:
    blur = wavelengths[1] * np.sqrt(np.log(2) / 2) / np.pi
    detail = volume - gaussian_filter(volume, blur, mode="nearest")
    spectrum = np.fft.fftn(np.pad(detail, [(0, pad)] * 3))
    axes = np.meshgrid(*[np.fft.fftfreq(size) for size in spectrum.shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return np.fft.ifftn(spectrum * ((radius <= 1 / wavelengths[0]) & (radius > 0))).real


@pytest.mark.parametrize("shape", [(8, 9, 10), (9, 8, 7)])
def test_similarity_is_the_correlation_written_out(shape: tuple[int, int, int]) -> None:
    queries, candidates = make_volumes(2, shape=shape), make_volumes(3, seed=1, shape=shape)
    config = NeighbourConfig(max_shift=1, wavelengths=(2.5, 12.0))
    similarity = find_neighbours(queries, candidates, config)
    for q, query in enumerate(queries):
        for t, candidate in enumerate(candidates):
            x = band_passed(query, pad=1, wavelengths=config.wavelengths)
            values = {}
            for flipped in (False, True):
                y = band_passed(
                    candidate[::-1] if flipped else candidate, pad=1, wavelengths=config.wavelengths
                )
                for shift in np.ndindex(3, 3, 3):
                    moved = np.roll(x, np.subtract(shift, 1), axis=(0, 1, 2))
                    norm = np.linalg.norm(x) * np.linalg.norm(y)
                    values[(*np.subtract(shift, 1), flipped)] = (moved * y).sum() / norm
            assert similarity[q, t] == pytest.approx(max(values.values()), abs=1e-5)


def test_copy_is_found_whatever_its_shift_flip_gain_and_offset() -> None:
    train = make_volumes(6, seed=2, shape=(24, 25, 22))
    copy = 3 * shift_volume(train[4][::-1], (2, -1, 1)) + 50
    similarity = find_neighbours([copy], train)[0]
    assert similarity[4] > 0.85
    assert np.delete(similarity, 4).max() < 0.6


def test_a_volume_is_its_own_nearest_with_similarity_one() -> None:
    volumes = make_volumes(4, seed=3)
    similarity = find_neighbours(volumes, volumes, NeighbourConfig(max_shift=1))
    assert np.diag(similarity) == pytest.approx(np.ones(4), abs=1e-5)
    assert similarity.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_without_flips_and_shifts_a_moved_copy_is_missed() -> None:
    train = make_volumes(4, seed=4)
    config = NeighbourConfig(max_shift=0, flips=False)
    assert find_neighbours([train[0][::-1]], train, config).max() < 0.6
    assert find_neighbours([shift_volume(train[0], (3, 3, 3))], train, config).max() < 0.6


def test_slow_shading_and_fine_noise_do_not_count() -> None:
    shape = (26, 26, 26)
    train = [gaussian_filter(each, 1.0) for each in make_volumes(3, seed=5, shape=shape)]
    sd, still = train[1].std(), {"max_shift": 0}
    shaded = train[1] + 4 * sd * np.linspace(-1, 1, 26)[:, None, None] ** 2
    noisy = train[1] + 2 * sd * np.random.default_rng(6).normal(size=shape)

    def similarity(volume: np.ndarray, wavelengths: tuple[float, float]) -> float:
        return find_neighbours([volume], train, NeighbourConfig(wavelengths=wavelengths, **still))[0, 1]

    assert similarity(shaded, (4, 12)) > 0.9 > 0.75 > similarity(shaded, (4, 1000))
    assert similarity(noisy, (4, 12)) > 0.75 > 0.6 > similarity(noisy, (2, 12))


def test_cosine_similarity_has_known_values() -> None:
    assert cosine_neighbours([[2.0, 0]], [[1, 0], [0, 3], [-1, 0], [1, 1]])[0] == pytest.approx(
        [1, 0, -1, np.sqrt(0.5)]
    )


def test_bad_input_is_refused() -> None:
    train = make_volumes(2)
    with pytest.raises(ValueError, match="crop or pad them to one shape"):
        find_neighbours([np.zeros((5, 5, 5))], train)
    with pytest.raises(ValueError, match="cropped or padded to one shape"):
        find_neighbours(train, [])
    with pytest.raises(ValueError, match="no structure in the compared band"):
        find_neighbours([np.ones(SHAPE)], train)
    with pytest.raises(ValueError, match="too few waves"):
        find_neighbours(2 * [np.eye(3)[None]], [np.eye(3)[None]])
    with pytest.raises(ValueError, match="max_shift is -1"):
        NeighbourConfig(max_shift=-1)
    with pytest.raises(ValueError, match="a shortest of at least 2"):
        NeighbourConfig(wavelengths=(8, 4))
