"""The examples in docstrings run, and each public class has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# What these need is no part of the tests: a text encoder of 84 MB, a folder of DICOM series.
SKIPPED = {
    "medldm.data.export.export.export_cohort",
    "medldm.conditioning.text_encoder.TextEncoder",
    "medldm.data.dicom.read.read_dicom",
    "medldm.data.preparation.prepare.prepare",
}


def modules_with_examples() -> list[str]:
    names = []
    for root, prefix in ((REPOSITORY / "medldm", "medldm"), (REPOSITORY / "transforms", "medldm.transforms")):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] not in ("bundles", "transforms") and ">>>" in path.read_text(encoding="utf-8"):
                names.append(".".join([prefix, *parts]).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 or name.startswith(tuple(SKIPPED)) or skipped(name)
    assert result.failed == 0


def skipped(name: str) -> set[str]:
    """Examples of a module that do not run."""
    tests = doctest.DocTestFinder().find(importlib.import_module(name))
    return {test.name for test in tests if any(doctest.SKIP in example.options for example in test.examples)}


def test_only_listed_examples_do_not_run() -> None:
    assert set().union(*(skipped(name) for name in modules_with_examples())) == SKIPPED


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (package, name)
        for package in ("medldm", "medldm.transforms")
        for name in importlib.import_module(package).__all__
    ],
)
def test_public_classes_have_an_example(package: str, name: str) -> None:
    found = getattr(importlib.import_module(package), name)
    # A dictionary transform does what its array form's example shows.
    if not inspect.isclass(found) or issubclass(found, Exception) or name.endswith("d"):
        return
    assert ">>>" in (found.__doc__ or ""), f"{name} has no example"
