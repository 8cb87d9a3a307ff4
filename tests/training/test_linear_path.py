"""The linear path is fitted to the training cohort before anything is trained."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, Lambdad

from benchmarks.tiny_trainings import make_first_stage
from medldm.errors import ConfigError
from medldm.networks import VAE
from medldm.networks.block_transform import BlockMoments, BlockTransform
from medldm.networks.lapped_transform import BorderMoments, turn_borders
from medldm.training import linear_path
from medldm.training.linear_path import fit_linear_path
from medldm.training.quarantine import GuardedTransforms
from medldm.training.volumes import RandomPatchd
from tests.rank_processes import run_on_ranks
from tests.training.resume.training_states import differences, everything
from tests.training.small_trainings import run_killed_after

FACTORS = (4, 4, 2)


def make_vae(form: Any = True) -> VAE:
    return VAE(
        down_channels=(4, 4),
        n_groups=2,
        n_res_blocks=1,
        mid_attention=False,
        linear_path=form,
        downsampling=FACTORS,
        latent_channels=5,
    )


@pytest.fixture
def volumes() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    volumes = [torch.randn(1, 12, 8, 6, generator=generator) for _ in range(5)]
    return [volume + 0.9 * volume.roll(1, 2) for volume in volumes]


def expected(volumes: list[torch.Tensor], borders: BorderMoments | None = None) -> BlockTransform:
    moments = BlockMoments(1, FACTORS)
    for volume in volumes:
        x = volume[None].double()
        if borders is not None:
            x = turn_borders(x, FACTORS, angles=borders.fit(5), level=borders.fit_level())
        moments.add(x)
    return moments.fit()


def borders_of(volumes: list[torch.Tensor]) -> BorderMoments:
    moments = BorderMoments(1, FACTORS)
    for volume in volumes:
        moments.add(volume[None])
    return moments


def assert_fitted(vae: VAE, transform: BlockTransform) -> None:
    path: Any = vae.linear_path
    assert bool(path.is_fitted)
    torch.testing.assert_close(path.mean.double(), transform.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(path.basis.double(), transform.basis[:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path.variances.double(), transform.variances[:5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [Dataset, partial(CacheDataset, progress=False, cache_rate=0.5)])
def test_whole_volumes_count_where_the_training_takes_patches(make: Any, volumes) -> None:
    steps = Compose([Lambdad(("image",), lambda volume: 2 * volume), RandomPatchd(("image",), (4, 4, 4))])
    vae, before = make_vae(), torch.get_rng_state()
    fit_linear_path(vae, make([{"image": volume} for volume in volumes], steps))
    assert_fitted(vae, expected([2 * volume for volume in volumes]))
    assert torch.equal(torch.get_rng_state(), before)


def assert_borders(vae: VAE, borders: BorderMoments) -> None:
    path: Any = vae.linear_path
    torch.testing.assert_close(path.angles.double(), borders.fit(5), rtol=1e-6, atol=0)
    torch.testing.assert_close(path.level.double(), borders.fit_level(), rtol=1e-5, atol=1e-7)


def test_the_lapped_form_is_fitted_to_turned_volumes(volumes) -> None:
    vae, borders = make_vae("lapped"), borders_of(volumes)
    assert borders.fit(5).count_nonzero() == 2  # only two blocks lie along the second axis
    fit_linear_path(vae, [{"image": volume} for volume in volumes])  # type: ignore[arg-type]
    assert_borders(vae, borders)
    assert_fitted(vae, expected(volumes, borders))


def test_the_angles_are_chosen_by_cases_spread_over_the_cohort(volumes, monkeypatch) -> None:
    monkeypatch.setattr(linear_path, "CASES_FOR_ANGLES", 2)
    vae, borders = make_vae("lapped"), borders_of(volumes[::3])
    fit_linear_path(vae, [{"image": volume} for volume in volumes])  # type: ignore[arg-type]
    assert_borders(vae, borders)
    assert_fitted(vae, expected(volumes, borders))


def test_any_dataset_of_volumes_will_do(volumes) -> None:
    vae = make_vae()
    fit_linear_path(vae, [{"image": volume} for volume in volumes])  # type: ignore[arg-type]
    assert_fitted(vae, expected(volumes))


def test_bad_cases_are_left_out_and_named_in_the_log(volumes, caplog) -> None:
    volumes[1] = torch.full_like(volumes[1], torch.nan)
    data = Dataset([{"image": volume} for volume in volumes], GuardedTransforms(Compose([])))
    vae = make_vae()
    with caplog.at_level(logging.INFO):
        fit_linear_path(vae, data)
    assert_fitted(vae, expected([volumes[0], *volumes[2:]]))
    assert "1 cases of this process cannot be used" in caplog.text
    assert "5 of 32 components hold" in caplog.text


def test_a_path_that_is_set_stays(volumes) -> None:
    vae = make_vae()
    fit_linear_path(vae, [{"image": volume} for volume in volumes])  # type: ignore[arg-type]
    fit_linear_path(vae, [{"image": -3 * volume} for volume in volumes])  # type: ignore[arg-type]
    assert_fitted(vae, expected(volumes))


@pytest.mark.parametrize("form", [True, "lapped"])
def test_no_case_is_refused(form: Any) -> None:
    with pytest.raises(ConfigError, match="no volume to fit the linear path to"):
        fit_linear_path(make_vae(form), [])  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [True, "lapped"])
def test_processes_fit_as_one_does(form: Any, volumes, tmp_path: Path) -> None:
    borders = borders_of(volumes) if form == "lapped" else None

    def fit(rank: int) -> None:
        vae = make_vae(form)
        fit_linear_path(vae, [{"image": volume} for volume in volumes])  # type: ignore[arg-type]
        assert_fitted(vae, expected(volumes, borders))
        assert vae.linear_path is not None
        torch.save(vae.linear_path.state_dict(), tmp_path / f"{rank}.pt")

    assert run_on_ranks(fit, tmp_path / "meeting") == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("kind", ["linear", "lapped"])
def test_a_resumed_training_equals_the_straight_one(kind: str, tmp_path: Path) -> None:
    straight = make_first_stage(tmp_path / "straight", kind=kind)
    straight.run()
    killed = make_first_stage(tmp_path / "killed", kind=kind)
    run_killed_after(killed, 4)
    torch.manual_seed(99)
    resumed = make_first_stage(tmp_path / "killed", kind=kind, resume="must")
    resumed.run()
    assert not differences(everything(straight), everything(resumed))
    assert bool(straight.state.g_network.linear_path.is_fitted)
    assert bool(straight.average.module.linear_path.is_fitted)
