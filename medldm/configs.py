"""The shared base of every configuration: frozen, keyword-only, checked, to and from plain JSON values."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from medldm.errors import ConfigError

ConfigType = TypeVar("ConfigType", bound="Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of frozen, keyword-only configuration dataclasses.

    A subclass is decorated with ``@dataclass(frozen=True, kw_only=True)`` and checks itself in
    ``__post_init__`` after calling ``super().__post_init__()``, which turns lists (as YAML and JSON give
    them) into tuples and the words "true" and "false" (as command lines give them) into switches.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _to_tuples(getattr(self, field.name))
            if field.type in ("bool", bool):
                value = read_switch(value, name=field.name)
            object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold: tuples as lists, nested configs as dictionaries."""
        return {field.name: _to_plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[ConfigType], mapping: Mapping[str, Any]) -> ConfigType:
        """Invert ``to_dict``; strict, so that a misspelt key cannot pass unnoticed.

        Args:
            mapping: field names and values; a field left out takes its default.

        Returns:
            The checked configuration.

        Raises:
            TypeError: if ``mapping`` is not a mapping or lacks a field that has no default.
            ValueError: if a key is not a field of this configuration; the nearest known name is suggested.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(
                f"{cls.__name__}.from_dict expects a mapping of field names to values, "
                f"got {type(mapping).__name__}"
            )
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        for key in mapping:
            if key not in known:
                raise ConfigError(unknown_name_message(str(key), known, kind=f"{cls.__name__} key"))
        return cls(**dict(mapping))


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


def unknown_name_message(name: str, known: list[str], *, kind: str) -> str:
    """Word an error that names the unknown ``name``, suggests the nearest known one and lists all of them."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def _to_tuples(value: Any) -> Any:
    """Lists become tuples, at every depth of lists."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return tuple(_to_tuples(item) for item in value)
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
