"""Spectra of waves, noise and gains that have a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.evaluation.metrics.spectrum import power_of_cases, radial_power_spectrum, spectral_distance


def noise(seed: int, shape: tuple[int, ...] = (20, 24, 18)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("shape", [(6, 8, 10), (7, 9, 5), (1, 6, 7)])
def test_power_sums_to_the_energy_of_the_volume(shape: tuple[int, int, int]) -> None:
    volume = noise(0, shape)
    spectrum = np.abs(np.fft.fftn(volume)) ** 2 / volume.size
    # One shell over all frequencies has their mean, which Parseval's theorem makes the mean square.
    found = radial_power_spectrum(volume, (1, 1, 1), n_shells=2, highest=1.8, window=False)
    assert found.power[0] == pytest.approx((volume**2).mean())
    assert found.power[0] == pytest.approx(spectrum.mean())


def test_shells_agree_with_a_loop_over_all_frequencies() -> None:
    volume, spacing = noise(1, (6, 5, 8)), (1.0, 2.0, 0.7)
    power = np.abs(np.fft.fftn(volume)) ** 2 / volume.size
    axes = [np.fft.fftfreq(n, d) for n, d in zip(volume.shape, spacing, strict=True)]
    shells: list[list[float]] = [[], [], [], []]
    for index in np.ndindex(*volume.shape):
        radius = np.sqrt(sum(axis[i] ** 2 for axis, i in zip(axes, index, strict=True)))
        shell = int(radius / 0.25 * 4 * (1 - 1e-12))
        if shell < 4:
            shells[shell].append(power[index])
    found = radial_power_spectrum(volume, spacing, n_shells=4, window=False)
    assert found.power == pytest.approx([np.mean(each) for each in shells])
    assert found.frequency == pytest.approx([0.03125, 0.09375, 0.15625, 0.21875])


def test_white_noise_is_flat_at_its_variance_with_the_window_too() -> None:
    found = radial_power_spectrum(3 * noise(2, (32, 32, 32)), (1, 1, 1), n_shells=5)
    assert found.power[1:] == pytest.approx(np.full(4, 9.0), rel=0.15)


def test_wave_peaks_at_its_frequency_in_cycles_per_mm() -> None:
    z = 2.0 * np.arange(40)
    volume = np.broadcast_to(np.sin(2 * np.pi * 0.11 * z), (16, 16, 40))
    found = radial_power_spectrum(volume, (1.0, 1.0, 2.0), n_shells=10)
    assert found.frequency[found.power.argmax()] == pytest.approx(0.11, abs=0.0125)


def test_gain_gives_its_decibels() -> None:
    power = np.stack([radial_power_spectrum(noise(seed), (1, 1, 1)).power for seed in range(3)])
    assert spectral_distance(power, power) == 0.0
    assert spectral_distance(power, 9 * power) == pytest.approx(20 * np.log10(3))


def test_weights_count_cases_like_copies_of_rows() -> None:
    power = np.random.default_rng(3).uniform(1, 2, (4, 5))
    expected = spectral_distance(power[[0, 0, 3]], power)
    assert spectral_distance(power, power, weights=([2, 0, 0, 1], None)) == pytest.approx(expected)


def test_blur_is_far_above_a_split_of_the_real_set_and_gain_does_not_count() -> None:
    real = [gaussian_filter(noise(seed), 1) for seed in range(12)]
    spacing = (1.0, 1.0, 1.0)
    first, second = power_of_cases(real[:6], spacing), power_of_cases(real[6:], spacing)
    blurred = power_of_cases([gaussian_filter(each, 1) for each in real[6:]], spacing)
    louder = power_of_cases([7 * each for each in real[6:]], spacing)
    assert spectral_distance(first, blurred) > 10 * spectral_distance(first, second)
    assert louder == pytest.approx(second)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="three numbers above 0, in mm"):
        radial_power_spectrum(noise(0), (1, 0, 1))
    with pytest.raises(ValueError, match="one value everywhere"):
        power_of_cases([np.ones((4, 4, 4))], (1, 1, 1))
    with pytest.raises(ValueError, match="of 3 and 4 shells"):
        spectral_distance(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="no decibels"):
        spectral_distance(np.zeros((2, 3)), np.ones((2, 3)))
