"""The space says which channels there are, in their order, each with its own mapping."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medldm.errors import CheckpointError, ConfigError
from medldm.latent_diffusion.volume_space import VolumeSpace, require_one_channel
from medldm.transforms import IntensityMapping

MR = IntensityMapping(kind="mr_percentile", lower=10.0, upper=200.0)
CT = IntensityMapping(kind="ct_window")
GRID: dict[str, Any] = {"spacing_mm": (1.0, 1.0, 2.0), "size": (8, 9, 10)}


def test_the_card_of_one_channel_keeps_its_keys() -> None:
    space = VolumeSpace(**GRID, intensity=MR)
    assert space.to_dict() == {
        "spacing_mm": [1.0, 1.0, 2.0],
        "size": [8, 9, 10],
        "intensity": MR.to_dict(),
        "field_of_view_mm": [8.0, 9.0, 20.0],
        "orientation": "RAS",
    }
    assert VolumeSpace.from_dict(space.to_dict()) == space
    assert space.intensities == (MR,) and space.n_channels == 1 and space.channels == ()


def test_the_order_of_the_channels_survives_a_card_with_sorted_keys() -> None:
    space = VolumeSpace(**GRID, channels=("t2w", "ct", "a"), intensity={"a": MR, "ct": CT, "t2w": MR})
    again = VolumeSpace.from_dict(json.loads(json.dumps(space.to_dict(), sort_keys=True)))
    assert again == space
    assert again.channels == ("t2w", "ct", "a")
    assert [mapping.kind for mapping in again.intensities] == ["mr_percentile", "ct_window", "mr_percentile"]
    assert again != space.copy(channels=("ct", "t2w", "a"))


def test_a_copy_shares_no_mapping() -> None:
    space = VolumeSpace(**GRID, channels=("a", "b"), intensity={"a": MR, "b": CT})
    copy = space.copy(size=(4, 4, 4))
    copy.intensities[0].lower = 5.0
    assert space.intensities[0].lower == MR.lower == 10.0


@pytest.mark.parametrize(
    ("channels", "intensity", "message"),
    [
        (("a", "b"), MR, "one mapping without a name"),
        (("a", "b"), {"a": MR}, r"intensity has \['a'\]: a mapping for each of the channels \['a', 'b'\]"),
        (("a", "a"), {"a": MR}, "listed twice"),
        ((), {"a": MR}, "intensity: Unknown IntensityMapping key 'a'"),
        ((), None, "is needed"),
    ],
)
def test_channels_without_a_mapping_are_refused(channels: Any, intensity: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VolumeSpace(**GRID, channels=channels, intensity=intensity)


def test_what_can_do_with_one_channel_names_the_others() -> None:
    assert require_one_channel(VolumeSpace(**GRID, intensity=MR), what="editing") == MR
    assert (
        require_one_channel(VolumeSpace(**GRID, channels=("a",), intensity={"a": CT}), what="editing") == CT
    )
    space = VolumeSpace(**GRID, channels=("a", "b"), intensity={"a": MR, "b": CT})
    with pytest.raises(
        CheckpointError, match=r"makes 2 channels \(a, b\), editing knows images of one channel"
    ):
        require_one_channel(space, what="editing")
