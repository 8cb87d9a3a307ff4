from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from medldm.configs import Config, unknown_name_message


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    name: str
    rate: float = 0.1
    grid: tuple[tuple[int, ...], ...] = ((1, 2), (3, 4))
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Switched(Config):
    is_on: bool = False


def test_lists_become_tuples_at_every_depth() -> None:
    assert Outer(name="a", grid=[[1], [2, 3]]).grid == ((1,), (2, 3))  # type: ignore[arg-type]
    assert hash(Inner(sizes=[4, 5])) == hash(Inner(sizes=(4, 5)))  # type: ignore[arg-type]


def test_plain_values_survive_json_and_come_back_equal() -> None:
    config = Inner(sizes=(3,))
    assert Inner.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_nested_configurations_become_dictionaries() -> None:
    plain = Outer(name="a", weights={"x": (1, 2)}).to_dict()
    assert plain["inner"] == {"sizes": [1, 2]}
    assert plain["weights"] == {"x": [1, 2]}
    json.dumps(plain)


def test_a_field_left_out_takes_its_default() -> None:
    assert Outer.from_dict({"name": "a"}) == Outer(name="a")


def test_unknown_key_names_the_nearest_and_all_known() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown Outer key 'rates'. Did you mean 'rate'\? Known: name, rate"
    ):
        Outer.from_dict({"name": "a", "rates": 0.2})


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    assert unknown_name_message("zzz", ["rate"], kind="key") == "Unknown key 'zzz'. Known: rate."


def test_missing_field_and_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="name"):
        Outer.from_dict({})
    with pytest.raises(
        TypeError, match=r"Outer\.from_dict expects a mapping of field names to values, got list"
    ):
        Outer.from_dict([("name", "a")])  # type: ignore[arg-type]


def test_configurations_are_frozen_and_keyword_only() -> None:
    with pytest.raises(FrozenInstanceError):
        Inner().sizes = (3,)  # type: ignore[misc]
    with pytest.raises(TypeError):
        Inner((3,))  # type: ignore[misc]


@pytest.mark.parametrize(("given", "read"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_switches_are_read_as_command_lines_give_them(given, read) -> None:
    assert Switched(is_on=given).is_on is read


@pytest.mark.parametrize("given", ["yes", 1, None, ""])
def test_other_values_of_a_switch_are_refused(given) -> None:
    with pytest.raises(ValueError, match=r"is_on is .*: true or false is needed"):
        Switched(is_on=given)
