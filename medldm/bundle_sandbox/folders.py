"""Where a run may write: work out the folders that a config's writers name, without evaluating anything."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle.reference_resolver import ReferenceResolver

from medldm.bundle_sandbox.errors import ConfigRefused, refuse
from medldm.bundle_sandbox.expressions import parse_expression, reference_of
from medldm.bundle_sandbox.rules import MAX_DEPTH, WRITERS

SEPARATOR = "::"


def check_writer(component: Mapping[str, Any], *, key: str, config: Any, roots: Sequence[Path]) -> None:
    """Check the folders that one component writes into.

    Args:
        component: a mapping with `_target_`.
        key: where it stands.
        config: the whole config, to follow references in.
        roots: resolved folders below which the run may write.

    Raises:
        ConfigRefused: if a folder lies elsewhere, or a link in it leads elsewhere.
    """
    for argument in WRITERS.get(component["_target_"], ()):
        where = f"{key}{SEPARATOR}{argument}"
        names = argument.split(SEPARATOR)
        if names[0] not in component:
            if component.get("_mode_") == "callable":
                raise refuse(where, "is not set: a component that is called later must name its folder here")
            continue
        text = _text_at(component, names, key=where, config=config)
        if text is not None:
            _check_folder(Path(text), key=where, roots=roots)


def _text_at(component: Mapping[str, Any], names: Sequence[str], *, key: str, config: Any) -> str | None:
    value: Any = component
    for name in names:
        reference = _whole_reference(value)
        value = value if reference is None else _look_up(config, reference, key=key)
        if not isinstance(value, Mapping):
            raise refuse(key, f"is given by {value!r}; a mapping, written out, is needed around the folder")
        value = value.get(name)
    return _resolve(value, key=key, config=config)


def _resolve(value: Any, *, key: str, config: Any, depth: int = 0) -> str | None:
    """Return the text that a value stands for: text itself, a reference to text, or a sum of such."""
    if depth > MAX_DEPTH:
        raise refuse(key, "its references go round in a circle")
    reference = _whole_reference(value)
    if reference is not None:
        return _resolve(_look_up(config, reference, key=key), key=key, config=config, depth=depth + 1)
    if isinstance(value, str) and value.startswith("$"):
        tree = parse_expression(value, key=key)
        return _resolve_sum(tree.body, key=key, config=config, depth=depth + 1)
    if value is None or isinstance(value, str):
        return value
    raise _no_text(key)


def _resolve_sum(node: ast.AST, *, key: str, config: Any, depth: int) -> str:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = (node.left, node.right)
        return "".join(_resolve_sum(part, key=key, config=config, depth=depth) for part in parts)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    reference = reference_of(node)
    if reference is None:
        raise _no_text(key)
    text = _resolve(_look_up(config, reference, key=key), key=key, config=config, depth=depth)
    if text is None:
        raise _no_text(key)
    return text


def _no_text(key: str) -> ConfigRefused:
    return refuse(
        key, "names a folder to write into by something else than text, references to text and sums of them"
    )


def _whole_reference(value: Any) -> str | None:
    """Return the id that a text refers to as a whole, as MONAI decides it."""
    if not isinstance(value, str) or value.startswith("$"):
        return None
    return next(iter(ReferenceResolver.match_refs_pattern(value)), None)


def _look_up(config: Any, reference: str, *, key: str) -> Any:
    for part in ReferenceResolver.split_id(reference):
        items: Any = enumerate(config) if isinstance(config, list) else getattr(config, "items", tuple)()
        found = [value for name, value in items if str(name) == part]
        if not found:
            raise refuse(key, f"refers to @{reference}, which is not in the config")
        config = found[0]
    return config


def _check_folder(folder: Path, *, key: str, roots: Sequence[Path]) -> None:
    resolved = folder.resolve()
    if not _is_inside(resolved, roots):
        raise refuse(
            key,
            f"writes into {resolved}, outside of {', '.join(map(str, roots))}; a folder elsewhere is named "
            "on the command line, with --output_dir or --bundle_root",
        )
    for parent, folders, files in os.walk(resolved):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not _is_inside(path.resolve(), roots):
                raise refuse(key, f"the link {path} leads out of the output folder, to {path.resolve()}")


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
