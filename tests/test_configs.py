from __future__ import annotations

import copy
import importlib
import inspect
import json
import math
import pickle
import pkgutil
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import medldm
from medldm import VAE, LatentDiffusionConfig, VAEConfig, VQVAEConfig
from medldm.configs import Config, unknown_name_message
from medldm.errors import ConfigError


@dataclass(kw_only=True)
class Inner(Config):
    sizes: tuple[int, ...] = (1, 2)


@dataclass(kw_only=True)
class Outer(Config):
    name: str
    rate: float = 0.1
    grid: tuple[tuple[int, ...], ...] = ((1, 2), (3, 4))
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(kw_only=True)
class Nest(Config):
    outer: Outer


@dataclass(kw_only=True)
class Levels(Config):
    """Channels of levels, what follows from them, and a note that a switch may ask for."""

    follows: ClassVar[tuple[str, ...]] = ("reversed_channels", "doubled")

    channels: tuple[int, ...] = (1,)
    doubled: tuple[int, ...] | None = None
    needs_note: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.channels) < 1:
            raise ConfigError(f"channels has {min(self.channels)}")
        self.doubled = self.doubled or tuple(2 * value for value in self.channels)
        if len(self.doubled) != len(self.channels):
            raise ConfigError(f"doubled has {len(self.doubled)} values for {len(self.channels)} channels")

    def check_complete(self) -> None:
        if self.needs_note and not self.note:
            raise ConfigError("note is empty")

    @property
    def reversed_channels(self) -> tuple[int, ...]:
        return self.channels[::-1]


@dataclass(kw_only=True)
class Switched(Config):
    is_on: bool = False


def test_lists_become_tuples_at_every_depth() -> None:
    assert Outer(name="a", grid=[[1], [2, 3]]).grid == ((1,), (2, 3))  # type: ignore[arg-type]
    assert Inner(sizes=[4, 5]) == Inner(sizes=(4, 5))  # type: ignore[arg-type]


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


def test_configurations_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Inner((3,))  # type: ignore[misc]


def test_an_assignment_is_read_and_checked_like_a_construction() -> None:
    config = Levels()
    config.channels = [3, 4]  # type: ignore[assignment]
    assert config.channels == (3, 4)
    with pytest.raises(ConfigError, match="channels has -1"):
        config.channels = (3, -1)
    with pytest.raises(ConfigError, match=r"Unknown Levels key 'chanels'. Did you mean 'channels'\?"):
        config.chanels = (3,)  # type: ignore[attr-defined]
    assert config == Levels(channels=(3, 4))


def test_what_follows_from_other_fields_follows_after_each_assignment() -> None:
    config = Levels(channels=(1, 2))
    assert (config.reversed_channels, config.doubled) == ((2, 1), (2, 4))
    config.channels = (1, 2, 3)
    assert (config.reversed_channels, config.doubled) == ((3, 2, 1), (2, 4, 6))
    config.doubled = (7, 8, 9)
    with pytest.raises(ConfigError, match="doubled has 3 values for 2 channels"):
        config.channels = (1, 2)
    assert config.channels == (1, 2, 3)
    config.update(channels=(1, 2), doubled=None)
    assert config.doubled == (2, 4)


def test_a_given_value_that_follows_anyway_goes_on_to_follow() -> None:
    config = Levels(channels=(1, 2), reversed_channels=(2, 1), doubled=[2, 4])  # type: ignore[call-arg]
    config.channels = (5,)
    config.reversed_channels = [5]  # type: ignore[misc,assignment]
    assert (config.reversed_channels, config.doubled) == ((5,), (10,))
    with pytest.raises(ConfigError, match=r"reversed_channels is \(6,\), but \(5,\) follows"):
        config.reversed_channels = (6,)  # type: ignore[misc]
    assert "reversed_channels" not in config.to_dict()


def test_what_is_still_missing_is_asked_for_by_construction_and_copy_alone() -> None:
    config = Levels()
    config.needs_note = True
    with pytest.raises(ConfigError, match="note is empty"):
        config.copy()
    with pytest.raises(ConfigError, match="note is empty"):
        Levels(needs_note=True)
    config.note = "x"
    assert config.copy() == config


def test_copies_are_their_own_with_nested_ones() -> None:
    config = Outer(name="a", weights={"x": 1})
    own, changed = config.copy(), config.copy(rate=0.5)
    config.inner.sizes = (9,)
    config.weights["x"] = 2
    config.name = "b"
    assert (own.name, own.inner.sizes, own.weights) == ("a", (1, 2), {"x": 1})
    assert (changed.name, changed.rate) == ("a", 0.5)
    assert config.inner.sizes == (9,)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_duplicates_are_equal_and_still_checked(duplicate) -> None:
    config = duplicate(Levels(channels=(1, 2)))
    config.channels = (3,)
    assert config == Levels(channels=(3,))
    with pytest.raises(ConfigError):
        config.channels = (-3,)


def test_nested_mappings_are_built_and_their_unknown_keys_named_with_the_path() -> None:
    assert Nest.from_dict({"outer": {"name": "a", "inner": {"sizes": [3]}}}).outer.inner == Inner(sizes=(3,))
    nest = Nest(outer={"name": "a"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^outer.inner: Unknown Inner key 'size'. Did you mean 'sizes'\?"):
        nest.outer = {"name": "b", "inner": {"size": 3}}  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"^outer: Outer lacks name"):
        Nest.from_dict({"outer": {}})
    assert nest.outer.name == "a"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": 3}, "Outer: name is 3: a text is needed"),
        ({"rate": "1e-4"}, "Outer: rate is '1e-4': a number is needed"),
        ({"rate": float("nan")}, "Outer: rate is nan: a number is needed"),
        ({"rate": True}, "Outer: rate is True: a number is needed"),
        ({"grid": [[1, True]]}, r"grid is \(\(1, True\),\): a list \(a list \(a whole number each\) each\)"),
        ({"inner": 3}, "Outer: inner is 3: Inner is needed"),
        ({"weights": [1]}, r"weights is \(1,\): a mapping"),
        ({"limit": 2.5}, "Outer: limit is 2.5: a whole number or null is needed"),
    ],
)
def test_values_of_another_type_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Outer(**{"name": "a", **wrong})


def test_numbers_of_numpy_and_paths_are_read() -> None:
    outer = Outer(name=Path("a"), rate=np.float32(0.5), limit=np.int64(3))  # type: ignore[arg-type]
    assert (outer.name, outer.rate, type(outer.limit)) == ("a", 0.5, int)


def test_a_configuration_that_leaves_the_base_s_check_out_cannot_be_built() -> None:
    @dataclass(kw_only=True)
    class Forgetful(Config):
        def __post_init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Forgetful.__post_init__ does not call super\(\).__post_init__"):
        Forgetful()


def test_all_configurations_of_the_package_call_the_base_s_check_and_have_known_types() -> None:
    for module in pkgutil.walk_packages(medldm.__path__, "medldm."):
        if ".bundles" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = [each for each in subclasses_of(Config) if each.__module__.startswith("medldm.")]
    assert len(classes) > 20
    for each in classes:
        own = vars(each).get("__post_init__")
        has_own = own is not None and own.__qualname__.startswith(each.__name__)
        assert not has_own or "super().__post_init__()" in inspect.getsource(own), each
        assert not each.__dataclass_params__.frozen, each  # type: ignore[attr-defined]
        typing.get_type_hints(each)


def subclasses_of(cls: type) -> list[type]:
    return [each for own in cls.__subclasses__() for each in (own, *subclasses_of(own))]


@pytest.mark.parametrize(("given", "read"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_switches_are_read_as_command_lines_give_them(given, read) -> None:
    assert Switched(is_on=given).is_on is read


@pytest.mark.parametrize("given", ["yes", 1, None, ""])
def test_other_values_of_a_switch_are_refused(given) -> None:
    with pytest.raises(ValueError, match=r"is_on is .*: true or false is needed"):
        Switched(is_on=given)


def test_null_is_nothing_where_nothing_is_allowed() -> None:
    assert LatentDiffusionConfig(patience="null").patience is None
    assert LatentDiffusionConfig(autoencoder_path="null").autoencoder_path is None
    with pytest.raises(ConfigError, match="seed is 'null': a whole number is needed"):
        LatentDiffusionConfig(seed="null")


def test_a_network_keeps_what_it_was_built_from() -> None:
    config = VAEConfig(down_channels=(4, 8), n_groups=4)
    vae = VAE(config)
    config.down_channels = (8, 8)
    assert vae.config.down_channels == vae.encoder.config.down_channels == (4, 8)


def test_networks_take_a_configuration_a_mapping_or_options() -> None:
    options = {"down_channels": [4, 8], "n_groups": 4}
    wanted = VAEConfig(**options)
    for vae in (
        VAE(wanted),
        VAE(options),
        VAE(**options),
        VAE(VAEConfig(down_channels=[4, 8], n_groups=2), n_groups=4),
    ):
        assert vae.config == wanted
    with pytest.raises(ConfigError, match="a VAEConfig or a mapping is needed"):
        VAE(VQVAEConfig())  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Ranges(Config):
    n: int | None = 1
    share: float = 0.5
    rate: float = 1.0
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("[1, inf)", "n", "sizes")
        self.require("[0, 1)", "share")
        self.require("(0, inf]", "rate")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "Ranges: n is 0: at least 1 is needed"),
        ({"sizes": [3, 0]}, r"Ranges: sizes is \(3, 0\): at least 1 is needed"),
        ({"share": 1}, r"Ranges: share is 1: a number in \[0, 1\) is needed"),
        ({"share": -0.1}, r"share is -0.1: a number in \[0, 1\)"),
        ({"rate": 0}, "rate is 0: a number above 0 is needed"),
        ({"rate": -math.inf}, "rate is -inf"),
    ],
)
def test_numbers_outside_their_range_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranges(**given)


def test_the_ends_of_a_range_and_fields_that_are_not_set_pass() -> None:
    config = Ranges(n=None, share=0.0, rate=math.inf, sizes=())
    config.update(n=1, share=0.999, rate=1e-9, sizes=(1,))
    with pytest.raises(ConfigError, match="n is 0"):
        config.n = 0
