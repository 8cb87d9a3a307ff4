"""The metadata against the folders: what is installed is what is there."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medldm

REPOSITORY = Path(__file__).resolve().parents[1]
LINKS = {"transforms": "../transforms", "bundles": "../bundles"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def read_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_package_list_equals_the_folders(setup_cfg: configparser.ConfigParser) -> None:
    folders = {"medldm"} | {f"medldm.{name}" for name in LINKS}
    for path in (REPOSITORY / "medldm").rglob("__init__.py"):
        relative = path.parent.relative_to(REPOSITORY)
        if not any((REPOSITORY / parent).is_symlink() for parent in [relative, *relative.parents]):
            folders.add(".".join(relative.parts))
    for name in LINKS:
        for path in (REPOSITORY / name).rglob("__init__.py"):
            folders.add(".".join(("medldm", *path.parent.relative_to(REPOSITORY).parts)))
    assert sorted(read_lines(setup_cfg["options"]["packages"])) == sorted(folders)


def test_every_python_file_of_the_package_lies_in_a_listed_package(
    setup_cfg: configparser.ConfigParser,
) -> None:
    listed = read_lines(setup_cfg["options"]["packages"])
    folders = {REPOSITORY.joinpath(*name.split(".")).resolve() for name in listed}
    files = [path.resolve() for root in ("medldm", *LINKS) for path in (REPOSITORY / root).rglob("*.py")]
    assert [path for path in files if path.parent not in folders] == []


def test_package_dir_sends_each_link_to_its_folder(setup_cfg: configparser.ConfigParser) -> None:
    package_dir = dict(line.split(" = ") for line in read_lines(setup_cfg["options"]["package_dir"]))
    assert package_dir == {f"medldm.{name}": name for name in LINKS}


@pytest.mark.parametrize(("name", "target"), sorted(LINKS.items()))
def test_link_points_to_its_folder(name: str, target: str) -> None:
    link = REPOSITORY / "medldm" / name
    assert link.is_symlink()
    assert str(link.readlink()) == target
    assert link.resolve() == REPOSITORY / name


@pytest.mark.parametrize("name", sorted(LINKS))
def test_link_is_tracked_as_a_link(name: str) -> None:
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--stage", f"medldm/{name}"]
    listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert listing.startswith("120000 "), f"medldm/{name} is not tracked as a symbolic link: {listing!r}"


def test_transforms_are_imported_through_the_package() -> None:
    module = importlib.import_module("medldm.transforms")
    assert module.__name__ == "medldm.transforms"
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().parent == REPOSITORY / "transforms"


def test_nothing_imports_the_transforms_folder_by_its_bare_name() -> None:
    bare = re.compile(r"^\s*(from|import) (transforms|bundles)\b", re.MULTILINE)
    files = [path for root in ("medldm", "tests", *LINKS) for path in (REPOSITORY / root).rglob("*.py")]
    assert [str(path) for path in files if bare.search(path.read_text(encoding="utf-8"))] == []


def test_version_stands_in_one_file(setup_cfg: configparser.ConfigParser) -> None:
    assert setup_cfg["metadata"]["version"] == "attr: medldm.version.__version__"
    assert medldm.__version__ == version("medldm")
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{medldm.__version__}]" in changelog or "## [Unreleased]" in changelog


def test_every_direct_dependency_is_pinned_to_a_version_it_accepts(
    setup_cfg: configparser.ConfigParser,
) -> None:
    pins: dict[str, list[Requirement]] = {}
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    groups = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    for wanted in (Requirement(line) for group in groups for line in read_lines(group)):
        found = pins.get(canonicalize_name(wanted.name), [])
        assert found, f"{wanted.name} is not pinned in constraints.txt"
        for pin in found:
            (pinned,) = pin.specifier
            assert wanted.specifier.contains(pinned.version), f"{pin} is outside {wanted}"


def test_constraints_pin_one_version_of_each_package_for_every_python() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for minor in range(10, 14):
        environment = {"python_version": f"3.{minor}"}
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(names) == len(set(names))
        assert {"torch", "monai", "numpy"} <= set(names)


def test_makefile_installs_every_extra_but_the_large_one(setup_cfg: configparser.ConfigParser) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    match = re.search(r"^EXTRAS := (\S+)$", makefile, re.MULTILINE)
    assert match is not None
    # "text" is over 100 MB, and its tests build a small encoder of their own. `make docs` installs "docs".
    assert sorted(match[1].split(",")) == sorted(set(setup_cfg["options.extras_require"]) - {"text", "docs"})


def test_lock_holds_hashes_for_the_very_lines_of_the_constraints() -> None:
    constraints = [
        line
        for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    locked = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line.removesuffix(" \\") for line in locked if not line.startswith(" ")] == constraints
    hashes = [line.strip().removesuffix(" \\") for line in locked if line.startswith(" ")]
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes)
    assert all(line.endswith("\\") for line in locked if not line.startswith(" "))
    assert "://" not in text
