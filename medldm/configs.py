"""The shared base of every configuration: keyword-only, checked, to and from plain JSON values."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

from medldm.errors import ConfigError

ConfigType = TypeVar("ConfigType", bound="Config")


class ConfigTypeError(ConfigError, TypeError):
    """Report a setting of another type than is needed, or one that is missing."""


class _NestedConfigError(ConfigError):
    """Report a setting inside a configuration that is a field of another, with the path to it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path, self.message = path, message


class _Checked(type):
    """Build configurations, and let each remember what was given, so that an assignment can build it anew."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        config = cls.build(*args, **given)
        config.check_complete()
        return config

    def build(cls, *args: Any, **given: Any) -> Any:
        """Build a configuration that may still lack a field that another one needs."""
        given = {name: _own(value) for name, value in given.items()}
        fields = _settable_fields(cls)
        for name in given:
            if name not in fields and name not in cls.follows:  # type: ignore[attr-defined]
                message = unknown_name_message(name, list(fields), kind=f"{cls.__name__} key")
                raise ConfigError(message)
        missing = [
            name
            for name, field in fields.items()
            if field.default is field.default_factory is dataclasses.MISSING and name not in given
        ]
        if missing and not args:
            raise ConfigTypeError(f"{cls.__name__} lacks {', '.join(missing)}: give it")
        config = super().__call__(*args, **{name: given[name] for name in given if name in fields})
        if "_given" not in vars(config):
            raise TypeError(f"{cls.__name__}.__post_init__ does not call super().__post_init__()")
        given |= {name: vars(config)[name] for name in fields if isinstance(vars(config)[name], Config)}
        vars(config)["_given"] = given
        for name in cls.follows:  # type: ignore[attr-defined]
            _drop_what_follows(config, name)
        return config


@dataclasses.dataclass(kw_only=True)
class Config(metaclass=_Checked):
    """Base class of keyword-only configuration dataclasses, checked on construction and on assignment.

    A subclass is decorated with ``@dataclass(kw_only=True)`` and checks itself in ``__post_init__`` after
    calling ``super().__post_init__()``, which turns lists (as YAML and JSON give them) into tuples, mappings
    into nested configurations and the words "true", "false" and "null" (as command lines give them) into
    switches and None, and refuses values of another type than the field's. What ``__post_init__`` fills in
    for None follows from the other fields, and follows again after each assignment. An assignment that is
    refused changes nothing; fields that depend on each other are set together, by `update`.

    Examples:
        >>> from medldm import VAEConfig
        >>> config = VAEConfig()
        >>> config.down_channels = [32, 64]
        >>> config.up_channels
        (64, 32)
        >>> config.update(down_channels=[8, 16, 32], n_groups=4)
    """

    follows: ClassVar[tuple[str, ...]] = ()
    """Names that may be given although they follow from others; a property's is checked and not kept."""

    def __post_init__(self) -> None:
        vars(self)["_given"] = None
        for name, hint in field_types(type(self)).items():
            setattr(self, name, _read(getattr(self, name), hint, name=name, owner=type(self).__name__))

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("_given") is None:
            object.__setattr__(self, name, value)
        else:
            self.update(**{name: value})

    def update(self, **changes: Any) -> None:
        """Set several fields at once: all of them, or none if the result is not allowed.

        Raises:
            ConfigError: for an unknown name, or a value or combination that is not allowed.
        """
        try:
            fresh = type(self).build(**{**vars(self)["_given"], **changes})
        except ConfigError as error:
            if len(changes) == 1:
                error.add_note(
                    "Fields that depend on each other are set together: config.update(a=..., b=...)"
                )
            raise
        object.__setattr__(self, "__dict__", vars(fresh))

    def copy(self: ConfigType, **changes: Any) -> ConfigType:
        """Return a configuration of its own, nested ones too, with some fields changed."""
        given = {
            name: value.copy() if isinstance(value, Config) else value
            for name, value in vars(self)["_given"].items()
        }
        return type(self)(**{**given, **changes})

    def require(self, interval: str, *names: str) -> None:
        """Raise ConfigError unless these fields lie in an interval, such as "[0, 1)" or "(0, inf]".

        Of a tuple each number must; None is left out.
        """
        low, high = (float(end) for end in interval[1:-1].split(","))
        for name in names:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            for number in numbers:
                is_above = low <= number if interval[0] == "[" else low < number
                is_below = number <= high if interval[-1] == "]" else number < high
                if not (is_above and is_below):
                    words = f"at least {low:g}" if interval[0] == "[" else f"a number above {low:g}"
                    words = words if high == math.inf else f"a number in {interval}"
                    raise ConfigError(f"{type(self).__name__}: {name} is {value}: {words} is needed")

    def check_complete(self) -> None:
        """Raise unless every field that another one needs is given; a subclass says which.

        An assignment leaves this out, because the missing field may be assigned next; networks take a `copy`
        and so ask for it.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold: tuples as lists, nested configs as dictionaries."""
        return {field.name: _to_plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[ConfigType], mapping: Mapping[str, Any]) -> ConfigType:
        """Invert ``to_dict``; strict, so that a misspelt key cannot pass unnoticed.

        Args:
            mapping: field names and values, with mappings for nested configurations; a field left out takes
                its default.

        Raises:
            ConfigTypeError: if ``mapping`` is not a mapping or lacks a field that has no default.
            ConfigError: if a key is not a field of this configuration; the nearest known name is suggested,
                with the path to it if the key stands in a nested mapping.
        """
        if not isinstance(mapping, Mapping):
            raise ConfigTypeError(
                f"{cls.__name__}.from_dict expects a mapping of field names to values, "
                f"got {type(mapping).__name__}"
            )
        return cls(**{str(name): value for name, value in mapping.items()})

    @classmethod
    def coerce(
        cls: type[ConfigType], config: ConfigType | Mapping[str, Any] | None, **options: Any
    ) -> ConfigType:
        """Return a configuration of one's own from one, from a mapping or from None, with options set.

        Raises:
            ConfigTypeError: if ``config`` is something else, such as a configuration of another class.
        """
        if config is None or isinstance(config, Mapping):
            return cls.from_dict({**(config or {}), **options})
        if not isinstance(config, cls):
            raise ConfigTypeError(
                f"{config!r:.200} is given as configuration: a {cls.__name__} or a mapping is needed"
            )
        return config.copy(**options)


def read_switch(value: Any, *, name: str) -> bool:
    """Return a switch given as true or false, or as the text of one.

    Raises:
        ValueError: for anything else; the text "false" must never pass for true.
    """
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ConfigError(f"{name} is {value!r}: true or false is needed")


def nearest_name(name: str, known: Sequence[str], *, alike: float = 0.4) -> str | None:
    """Return the known name that is most like a misspelt one; None if none is at least so much `alike`."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=alike)), None)


def unknown_name_message(name: str, known: Sequence[str], *, kind: str) -> str:
    """Word an error that names the unknown ``name``, suggests the nearest known one and lists all of them."""
    nearest = nearest_name(name, known)
    hint = f" Did you mean {nearest!r}?" if nearest else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


@cache
def field_types(cls: type[Config]) -> dict[str, Any]:
    """Return the type of each field of a class, evaluated once."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _settable_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _drop_what_follows(config: Config, name: str) -> None:
    """Forget a given value that is what follows from the other fields, so that it goes on to follow.

    Raises:
        ConfigError: if the name is a property's and the value another than what follows.
    """
    given = vars(config)["_given"]
    value = given.get(name)
    if value is None:
        return
    others = {key: given[key] for key in given if key != name}
    follows = getattr(type(config).build(**others), name)
    if value != follows and name not in _settable_fields(type(config)):
        raise ConfigError(
            f"{type(config).__name__}: {name} is {value}, but {follows} follows from the other fields: leave "
            "it out, or change what it follows from"
        )
    if value == follows:
        vars(config)["_given"] = others


def _read(value: Any, hint: Any, *, name: str, owner: str) -> Any:
    """Return a field's value as its type has it; refuse another type."""
    value = _own(value)
    if hint is bool:
        return read_switch(value, name=name)
    if bool in typing.get_args(hint) and str(value).strip().lower() in ("true", "false"):
        return read_switch(value, name=name)
    if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, Mapping):
        try:
            return hint.from_dict(value)
        except _NestedConfigError as error:
            raise _NestedConfigError(f"{name}.{error.path}", error.message) from error
        except ConfigError as error:
            raise _NestedConfigError(name, str(error)) from error
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value == "null" and _fits(None, hint):
        value = None
    if typing.get_origin(hint) is typing.Literal and not _fits(value, hint):
        raise ConfigError(f"{owner}: {name} is {value!r}: choose from {list(typing.get_args(hint))}")
    if not _fits(value, hint):
        raise ConfigTypeError(f"{owner}: {name} is {value!r}: {_describe(hint)} is needed")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; how many values a tuple has is left to the configuration."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin is typing.Literal:
        return any(value == part and isinstance(value, type(part)) for part in parts)
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and all(map(_fits, value, kinds))
    if origin is dict:
        return isinstance(value, Mapping) and all(
            _fits(key, parts[0]) and _fits(item, parts[1]) for key, item in value.items()
        )
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, numbers.Real) and not math.isnan(value)
    return not isinstance(hint, type) or isinstance(value, hint)


def _describe(hint: Any) -> str:
    """Word what values a type has."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in words:
        return words[hint]
    if hint is types.NoneType:
        return "null"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(part) for part in parts)
    if origin is typing.Literal:
        return f"one of {list(parts)}"
    if origin is tuple:
        return f"a list ({_describe(parts[0])} each)"
    if origin is dict:
        return f"a mapping ({_describe(parts[0])} to {_describe(parts[1])})"
    return getattr(hint, "__name__", str(hint))


def _own(value: Any) -> Any:
    """Return lists as tuples, at every depth of lists, and mappings as dictionaries of their own."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return tuple(_own(item) for item in value)
    if isinstance(value, Mapping):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, numbers.Integral) and not isinstance(value, int):
        return int(value)  # a number of NumPy
    return value


def _to_plain(value: Any) -> Any:
    """Tuples become lists and configs become dictionaries, at every depth."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value
