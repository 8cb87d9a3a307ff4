"""Networks larger than their file are not built to the end; others are, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medldm.errors import CheckpointError
from medldm.latent_diffusion.checkpoints import build_with_weights
from medldm.latent_diffusion.part_limits import TooManyPartsError, at_most_parts


def test_building_stops_at_the_first_part_too_many() -> None:
    made = []
    with pytest.raises(TooManyPartsError, match="file of 3 tensors"), at_most_parts(3):
        for _ in range(10_000):
            made.append(nn.Linear(1, 1))
    assert len(made) < 100


def test_parts_without_weights_are_counted_too() -> None:
    made = nn.Sequential()
    with pytest.raises(TooManyPartsError, match="modules"), at_most_parts(3):
        for _ in range(10_000):
            made.append(nn.Identity())
    assert len(made) < 2000


def test_nothing_is_counted_after_the_block() -> None:
    with at_most_parts(0):
        nn.Linear(1, 1)
    for _ in range(200):
        nn.Linear(1, 1)


def test_a_network_of_its_file_is_built() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    rebuilt = build_with_weights(
        lambda: nn.Sequential(*(nn.Linear(2, 2) for _ in range(300))), network.state_dict(), source="x"
    )
    assert all(map(torch.equal, rebuilt.state_dict().values(), network.state_dict().values()))


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), OverflowError("size")])
def test_what_building_raises_names_the_file(error: Exception) -> None:
    def make() -> nn.Module:
        raise error

    with pytest.raises(CheckpointError, match=r"card of a\.safetensors does not describe"):
        build_with_weights(make, {}, source="a.safetensors")


def test_an_allocator_that_fails_names_the_file() -> None:
    def make() -> nn.Module:
        if torch.empty(0).device.type == "meta":
            return nn.Linear(1, 1)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    weights = nn.Linear(1, 1).state_dict()
    with pytest.raises(CheckpointError, match=r"model in a\.safetensors cannot be built .*allocate"):
        build_with_weights(make, weights, source="a.safetensors")
