"""Check a whole config, merged and with its macros in place: what MONAI would make objects of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.expressions import parse_expression
from medldm.bundle_sandbox.folders import SEPARATOR, check_writer
from medldm.bundle_sandbox.reading import count_nodes
from medldm.bundle_sandbox.rules import MODES, TARGETS
from medldm.configs import nearest_name

_TARGET, _MODE, _DEBUG = "_target_", "_mode_", "_debug_"
_ROOT = "the config"


def check_config(config: Any, *, roots: Sequence[Path]) -> None:
    """Check every value of a config; nothing of it is evaluated, imported or opened.

    Args:
        config: nested mappings, lists and plain values, without macros.
        roots: resolved folders below which the run may write.

    Raises:
        ConfigRefused: naming the key of the first value that a config may not hold.
    """
    count_nodes(config, key=_ROOT)
    for key, value in _walk(config, ""):
        if isinstance(value, Mapping):
            _check_names(value, key=key)
            if _TARGET in value:
                _check_component(value, key=key)
                check_writer(value, key=key, config=config, roots=roots)
        elif isinstance(value, str) and value.startswith("$"):
            parse_expression(value, key=key)
        elif isinstance(value, str) and value.startswith("%"):
            raise refuse(key, f"{value!r} is a macro that another macro gave; write the values out")


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    yield key or _ROOT, value
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for name, part in parts:
        yield from _walk(part, f"{key}{SEPARATOR}{name}" if key else str(name))


def _check_names(mapping: Mapping[Any, Any], *, key: str) -> None:
    for name in mapping:
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise refuse(key, f"it has the key {name!r}; keys are text or whole numbers")
        if isinstance(name, str) and ("#" in name or SEPARATOR in name):
            raise refuse(key, f"it has the key {name!r}; # and {SEPARATOR} may stand in keys at the top only")


def _check_component(component: Mapping[str, Any], *, key: str) -> None:
    target = component[_TARGET]
    if not isinstance(target, str):
        raise refuse(f"{key}{SEPARATOR}{_TARGET}", f"is of type {type(target).__name__}; a name is needed")
    if target not in TARGETS:
        nearest = nearest_name(target, sorted(TARGETS))
        raise refuse(
            f"{key}{SEPARATOR}{_TARGET}",
            f"{target!r} is not among the {len(TARGETS)} components that a config may name "
            f"(medldm/bundle_sandbox/rules.py lists them)"
            + (f"; did you mean {nearest!r}?" if nearest else ""),
        )
    mode = component.get(_MODE, MODES[0])
    if mode not in MODES:
        raise refuse(f"{key}{SEPARATOR}{_MODE}", f"is {mode!r}; {' and '.join(MODES)} may be given")
    if _DEBUG in component:
        raise refuse(f"{key}{SEPARATOR}{_DEBUG}", "opens a debugger; leave it out")
