"""Turn a layout that was read where it lies into a cohort's cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medldm.data.issues import Issue
from medldm.data.layouts.records import Layout, Scan


def list_cases(
    layout: Layout, *, contrasts: Sequence[str] | None, require_labels: bool, issues: list[Issue]
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Return the channels and the cases of a layout; what is wrong joins `issues`.

    Args:
        layout: with its scans.
        contrasts: that become the channels of one case, where each contrast is a scan of its own.
        require_labels: refuse scans without label map; test cases of the layout are left out with a count.
        issues: receives the layout's problems and what is found here.
    """
    issues += layout.problems
    if layout.needs_prepare:
        message = (
            f"it is the {layout.name} layout, and {layout.needs_prepare}; run `medldm prepare IN OUT` "
            "on it and use OUT"
        )
        issues.append(Issue.error("layout", ".", message))
        return (), []
    scans = _labelled(layout.scans, issues) if require_labels else layout.scans
    channels, groups = layout.channels, [[scan] for scan in scans]
    if contrasts and not channels:
        channels, groups = _join(scans, issues)
    return channels, [_case_of(members, channels) for members in groups]


def _labelled(scans: Iterable[Scan], issues: list[Issue]) -> list[Scan]:
    kept, n_tests = [], 0
    for scan in scans:
        if scan.label is not None:
            kept.append(scan)
        elif scan.is_test:
            n_tests += 1
        else:
            issues.append(Issue.error("pair", scan.name, "it has no label map; add it or remove the image"))
    if n_tests:
        message = f"{n_tests} test images without label map are left out"
        issues.append(Issue.warning("layout", ".", message))
    return kept


def _join(scans: Iterable[Scan], issues: list[Issue]) -> tuple[tuple[str, ...], list[list[Scan]]]:
    """Group the contrasts of each case; two images of one contrast are an error."""
    groups: dict[tuple[str, str], list[Scan]] = defaultdict(list)
    for scan in scans:
        groups[scan.subject, scan.case].append(scan)
    names = sorted({name for scan in scans for name in scan.images if name})
    for members in groups.values():
        held = [name for scan in members for name in scan.images]
        if len(set(held)) < len(held) or "" in held:
            message = "two of its images are of one contrast, or of none by their names; keep one of each"
            issues.append(Issue.error("channel", members[0].name, message))
        if len({scan.label_files for scan in members}) > 1:
            message = "its contrasts have different label maps; keep one for all of them"
            issues.append(Issue.error("pair", members[0].name, message))
    return tuple(names), list(groups.values())


def _case_of(members: Sequence[Scan], channels: tuple[str, ...]) -> dict[str, Any]:
    first = members[0]
    files = {name: str(path) for scan in members for name, path in scan.images.items()}
    case: dict[str, Any] = {
        "id": first.case if len(members) > 1 else first.name,
        "subject": first.subject,
        "image": [files.get(name) for name in channels] if channels else next(iter(files.values())),
    }
    if isinstance(first.label, Path):
        case["label"] = str(first.label)
    return case | dict(first.entry)
