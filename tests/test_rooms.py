"""The plan of the house: rooms import in one direction, no modules in a circle, nothing loose beside them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

LINE = [
    *("errors", "version", "configs", "files", "seeds", "runtime"),
    *("transforms", "networks", "diffusion", "data", "conditioning", "latent_diffusion", "sampling"),
    *("training", "generation", "label_maps", "editing", "evaluation"),
    *("planning", "sharing", "workflows", "demo", "cli", "__main__"),
]
"""Each imports from those before it."""

APART = {"bundle_sandbox": {"errors", "configs", "runtime"}}
"""Rooms beside the line, and all that they import of the package; the command line calls them."""

LOOSE = {"__init__", "__main__", "configs", "errors", "files", "seeds", "version", "workflows"}

NOT_OF_ONE_PROCESS = "medldm.runtime.distributed"
"""What the networks must not know of: they are the same in one process and in many."""


def list_modules() -> dict[str, Path]:
    """Return the modules of the package by name."""
    modules = {}
    for top in ("medldm", "transforms"):
        for file in (REPOSITORY / top).rglob("*.py"):
            parts = file.relative_to(REPOSITORY).with_suffix("").parts
            if parts[:2] in (("medldm", "transforms"), ("medldm", "bundles")):
                continue
            name = ".".join(parts if top == "medldm" else ("medldm", *parts))
            modules[name.removesuffix(".__init__")] = file
    return modules


MODULES = list_modules()


def imports_of(source: str) -> Iterator[str]:
    """Yield the package's modules that a source imports, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in whole]
        else:
            continue
        yield from (name for name in names if name in MODULES)


GRAPH = {name: set(imports_of(file.read_text(encoding="utf-8"))) for name, file in MODULES.items()}


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def find_breaches(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports against the line."""
    breaches = []
    for name, imported in graph.items():
        room = room_of(name)
        for other in sorted({room_of(each) for each in imported} - {room, ""}):
            if room in APART:
                is_allowed = other in APART[room]
            elif other in APART:
                is_allowed = room == "cli"
            else:
                # The package itself imports all rooms, when their names are used.
                is_allowed = not room or LINE.index(other) < LINE.index(room)
            if not is_allowed:
                breaches.append(f"{name} imports {other}")
    return breaches


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached = {}
    for name in graph:
        seen, waiting = set(), [name]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        reached[name] = seen
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(group) for group in groups)


def test_every_room_stands_in_the_line() -> None:
    assert {room_of(name) for name in MODULES} - {""} == {*LINE, *APART}


def test_rooms_import_from_their_left_only() -> None:
    assert find_breaches(GRAPH) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circles(GRAPH) == []


def test_networks_do_not_know_of_other_processes() -> None:
    found = [name for name in GRAPH if room_of(name) == "networks" and NOT_OF_ONE_PROCESS in GRAPH[name]]
    assert found == []


def test_no_module_lies_loose_beside_the_rooms() -> None:
    assert {file.stem for file in (REPOSITORY / "medldm").glob("*.py")} == LOOSE


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import medldm.configs", ["medldm.configs"]),
        ("from medldm import configs, VAE", ["medldm.configs", "medldm"]),
        ("def f():\n    from medldm.errors import MedldmError", ["medldm.errors"]),
        ("if TYPE_CHECKING:\n    from medldm.networks.vae import VAE", ["medldm.networks.vae"]),
        ("import torch", []),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, found: list[str]) -> None:
    assert list(imports_of(source)) == found


def test_a_breach_and_a_circle_are_found() -> None:
    graph = {
        "medldm.networks.vae": {"medldm.training.losses"},
        "medldm.training.losses": {"medldm.files"},
        "medldm.files": {"medldm.networks.vae"},
        "medldm.cli.run": {"medldm.bundle_sandbox"},
        "medldm.bundle_sandbox": {"medldm.errors"},
        "medldm.errors": set(),
    }
    assert find_breaches(graph) == ["medldm.networks.vae imports training", "medldm.files imports networks"]
    assert find_circles(graph) == [["medldm.files", "medldm.networks.vae", "medldm.training.losses"]]
