"""Values are set where they stand, comments stay, and nothing that MONAI would run is written."""

from __future__ import annotations

import math

import pytest
import yaml

from medldm.errors import ConfigError
from medldm.sharing.yaml_values import is_plain, set_values, write_value

TEXT = """# head
size: [48, 64] # voxels
kind: {a: 1}
network:
  _target_: x
  options:
    size: "@size"
    depth: 3 # of it
  more: 1
size_of: 2
"""


def test_values_change_in_their_block_alone_and_comments_stay() -> None:
    text = set_values(TEXT, {"size": (8, 8.5)})
    text = set_values(text, {"depth": None, "width": "ct_window"}, block=("network", "options"))
    wanted = yaml.safe_load(TEXT) | {"size": [8, 8.5]}
    wanted["network"]["options"] = {"size": "@size", "depth": None, "width": "ct_window"}
    assert yaml.safe_load(text) == wanted
    assert "size: [8, 8.5] # voxels\n" in text and "    depth: null # of it\n" in text


@pytest.mark.parametrize(
    "value",
    [None, True, 1, -1.5e-7, math.inf, "a", "volume_ml:left core", "1", "null", [1, ["é"]], {"a": [2]}],
)
def test_what_is_written_is_read_again(value) -> None:
    assert yaml.safe_load(f"a: {write_value(value)}") == {"a": value}


def test_infinity_comes_back_from_its_name() -> None:
    assert yaml.safe_load(write_value("inf")) == math.inf


@pytest.mark.parametrize(
    "value",
    [
        "$1",
        "@a",
        "%b",
        "a#b",
        "a::b",
        "_target_",
        "a\nb: 1",
        'a"b',
        {"_target_": 1},
        {"$a": 1},
        [["@a"]],
        object(),
    ],
)
def test_what_monai_would_run_or_follow_is_refused(value) -> None:
    assert not is_plain(value)
    with pytest.raises(ConfigError, match="no plain value"):
        write_value(value)


def test_a_config_of_another_shape_is_named() -> None:
    with pytest.raises(ConfigError, match="has no network#deeper"):
        set_values(TEXT, {"a": 1}, block=("network", "deeper"))
