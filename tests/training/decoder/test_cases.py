"""Patches of latents and of volumes show the same place, on any grid and for any split of a batch."""

from __future__ import annotations

import pytest
import torch

from medldm.runtime.batch_shard import BatchShard, whole_batch
from medldm.training import LatentDataset
from medldm.training.decoder import DecoderCases
from medldm.training.decoder.cases import crop_same_place
from medldm.training.quarantine import BadCase

FACTORS = (4, 2, 1)


def places(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents that number their places, and volumes of odd size whose voxels have the number of theirs."""
    latents = torch.arange(n * 4 * 5 * 6).view(n, 1, 4, 5, 6).float()
    volume = latents
    for axis, factor in enumerate(FACTORS, start=2):
        volume = volume.repeat_interleave(factor, dim=axis)
    return latents, volume[:, :, :14, :9]


def crop(latents, volume, patch_size, *, seed=0, shard=None):
    return crop_same_place(
        latents,
        volume,
        patch_size=patch_size,
        downsampling=FACTORS,
        generator=torch.Generator().manual_seed(seed),
        shard=shard or whole_batch(len(latents)),
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("patch_size", "n"), [((8, 4, 3), (2, 2, 3)), ((5, 3, 2), (2, 2, 2)), ((99, 99, 99), (4, 5, 6))]
)
def test_a_patch_of_latents_stands_for_the_voxels_beside_it(patch_size, n, seed) -> None:
    latents, volume = places()
    part, voxels = crop(latents, volume, patch_size, seed=seed)
    assert part.shape[2:] == n
    assert voxels.shape[2:] == tuple(size * factor for size, factor in zip(n, FACTORS, strict=True))
    for axis, factor in enumerate(FACTORS, start=2):
        part = part.repeat_interleave(factor, dim=axis)
    assert torch.equal(part, voxels)


def test_without_a_size_all_is_kept_and_the_volume_padded_to_whole_latents() -> None:
    latents, volume = places()
    part, voxels = crop(latents, volume, None)
    assert torch.equal(part, latents)
    assert voxels.shape[2:] == (16, 10, 6)
    assert torch.equal(voxels[:, :, :14, :9], volume)


def test_every_place_is_drawn() -> None:
    latents, volume = places(200)
    part, _ = crop(latents, volume, (8, 4, 3))
    corners = part[:, 0, 0, 0, 0] - latents[:, 0, 0, 0, 0]
    assert len(set(corners.tolist())) == 3 * 4 * 4


def test_two_processes_crop_as_one() -> None:
    latents, volume = places()
    whole = crop(latents, volume, (8, 4, 3))
    for start, stop in ((0, 1), (1, 3)):
        shard = BatchShard(start=start, stop=stop, total=3, n_shards=2)
        own = crop(latents[start:stop], volume[start:stop], (8, 4, 3), shard=shard)
        assert all(torch.equal(mine, both[start:stop]) for mine, both in zip(own, whole, strict=True))


def test_cases_go_round_and_bad_ones_are_left_out() -> None:
    entries = [{"mean": torch.full((1, 1, 1, 1), float(i))} for i in range(3)]
    volumes = [{"image": torch.full((1, 2, 2, 2), float(i))} for i in range(3)]
    cases = DecoderCases(LatentDataset([entries[0], BadCase("gone"), entries[2]]), volumes, length=5)
    found = [(float(cases[i]["mean"]), float(cases[i]["image"].mean())) for i in range(len(cases))]
    assert found == [(0, 0), (2, 2), (0, 0), (2, 2), (0, 0)]
    assert len(cases.case_hashes()) == 2
    with pytest.raises(ValueError, match="latents of 3 cases and 2 volumes"):
        DecoderCases(LatentDataset(entries), volumes[:2])
    with pytest.raises(ValueError, match="no case"):
        DecoderCases(LatentDataset([BadCase("gone")]), volumes[:1])
