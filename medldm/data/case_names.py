"""Check the names that the cases of a cohort bring: of cases, subjects, categories, numbers, structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medldm.data.issues import Issue
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.runtime.plain_names import name_problem


def check_case_names(cases: Iterable[Mapping[str, Any]], *, issues: list[Issue]) -> None:
    """Find names that could not be written, drawn or shown; each joins `issues` once.

    Args:
        cases: of a cohort's lists.
        issues: receives an error for each name.
    """
    found: dict[tuple[str, str], str] = {}
    for case in cases:
        for what, name in _names_of(case):
            if (what, str(name)) not in found and (problem := name_problem(name)) is not None:
                found[what, str(name)] = problem
    for (what, name), problem in found.items():
        message = f"this name of a {what} {problem}; rename it"
        issues.append(Issue.error("name", name[:60] or "(empty)", message))


def _names_of(case: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "case", case["id"]
    if "subject" in case:
        yield "subject", case["subject"]
    for key, what in (("scalars", "number"), ("classes", "category")):
        if isinstance(columns := case.get(key), Mapping):
            yield from ((what, name) for name in columns)
    if isinstance(classes := case.get("classes"), Mapping):
        yield from (("category's value", value) for value in classes.values() if isinstance(value, str))
    structures = case.get(STRUCTURES_IN_MAP)
    if isinstance(structures, list | tuple):
        yield from (("structure", name) for name in structures if isinstance(name, str))
