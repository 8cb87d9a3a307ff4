"""Checks of what the names of a cohort's files say: of one case, of one person, of image or label map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from medldm.data.case_checks import image_files
from medldm.data.case_subjects import decide_names
from medldm.data.issues import Issue
from medldm.data.layouts.names import CaseName, is_label_folder, read_names
from medldm.data.layouts.pairing import names_in_use, speaks_of_another
from medldm.data.layouts.trees import is_volume

Splits = Mapping[str, list[dict[str, Any]]]


def check_names(splits: Splits, *, root: Path, name_of: Callable[[str], str]) -> list[Issue]:
    """Check the names of a cohort's files against its list.

    Args:
        splits: "training", "validation" and "test" -> cases.
        root: the cohort's folder.
        name_of: from a path to the name shown.
    """
    cases = [case for part in splits.values() for case in part]
    files = {file for case in cases for file in (*image_files(case), *_labels(case))}
    names = read_names(_relative(file, root) for file in files)
    read = {file: names[_relative(file, root)] for file in files}
    return [
        *_masks_as_images(cases, read, name_of),
        *_maps_of_others(cases, read, name_of),
        *_shared_maps(cases, name_of),
        *_single_masks(cases, read, name_of),
        *_split_persons(splits, root),
    ]


def _labels(case: Mapping[str, Any]) -> list[str]:
    return [case["label"]] if "label" in case else []


def _relative(file: str, root: Path) -> PurePath:
    path = Path(file)
    return path.relative_to(root) if path.is_relative_to(root) else PurePath(path.parent.name, path.name)


def _masks_as_images(
    cases: Iterable[Mapping[str, Any]], read: Mapping[str, CaseName], name_of: Callable[[str], str]
) -> list[Issue]:
    """Find images whose names say that they are label maps."""
    message = "its name says label map, and it is listed as an image; remove it, or rename it if it is one"
    return [
        Issue.error("image", name_of(file), message)
        for case in cases
        for file in image_files(case)
        if read[file].is_label and not any(Path(one).name == Path(file).name for one in _labels(case))
    ]


def _maps_of_others(
    cases: Iterable[Mapping[str, Any]], read: Mapping[str, CaseName], name_of: Callable[[str], str]
) -> list[Issue]:
    """Find label maps whose names speak of another case than their image's."""
    cases = list(cases)
    names = names_in_use(read[file] for case in cases for file in image_files(case))
    message = "its name speaks of another case than its image's ({}); give each image the map of its name"
    return [
        Issue.error("pair", name_of(case["label"]), message.format(name_of(image_files(case)[0])))
        for case in cases
        if "label" in case
        and image_files(case)
        and speaks_of_another(read[case["label"]], read[image_files(case)[0]], names)
    ]


def _shared_maps(cases: Iterable[Mapping[str, Any]], name_of: Callable[[str], str]) -> list[Issue]:
    """Find label maps that several subjects share."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        for label in _labels(case):
            if image_files(case):
                subjects[label].add(case["subject"])
    message = "it is the label map of {} subjects; give each its own"
    return [
        Issue.error("pair", name_of(label), message.format(len(found)))
        for label, found in subjects.items()
        if len(found) > 1
    ]


def _single_masks(
    cases: Iterable[Mapping[str, Any]], read: Mapping[str, CaseName], name_of: Callable[[str], str]
) -> list[Issue]:
    """Find label maps that are one of several masks of their image."""
    cases = list(cases)
    used = {label for case in cases for label in _labels(case)}
    issues = []
    for case in cases:
        for label in _labels(case):
            folder, images = Path(label).parent, image_files(case)
            if not images or not is_label_folder(folder.name) or read[label].key == read[images[0]].key:
                continue
            if Path(label).name == Path(images[0]).name:
                continue
            others = [path for path in folder.iterdir() if is_volume(path) and str(path) not in used]
            if others:
                message = (
                    f"it is one of {len(others) + 1} masks in its folder, and the others are not used; "
                    "`medldm prepare IN OUT` merges masks"
                )
                issues.append(Issue.error("pair", name_of(label), message))
    return issues


def _split_persons(splits: Splits, root: Path) -> list[Issue]:
    """Find subjects that the list tells apart, the names do not, and the splits part."""
    cases = [(split, case) for split, part in splits.items() for case in part]
    decided = decide_names([case for _, case in cases], root)
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for index, (split, case) in enumerate(cases):
        if index not in decided.unsure:
            found[decided.names[index]].add((split, case["subject"]))
    message = "by its files' names it is one person, by its list {} subjects in several splits; check it"
    return [
        Issue.warning("subject leak", name, message.format(len({subject for _, subject in members})))
        for name, members in sorted(found.items())
        if len({split for split, _ in members}) > 1 and len({subject for _, subject in members}) > 1
    ]
