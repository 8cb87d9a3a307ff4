"""Checks across the cases of a cohort: leaks between splits, outliers, mixtures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import combinations, zip_longest
from typing import Any

import numpy as np

from medldm.data.case_checks import FileInfos, image_files, main_file
from medldm.data.file_info import FileInfo
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema

SPACING_OUTLIER = 1.5
"""Spacing this many times larger or smaller than the cohort's median is reported."""
FIELD_OF_VIEW_OUTLIER = 2.0
MASK_VALUES = 16
"""An image of so few values, all whole, is a mask or a label map where other images have more."""
HU_AIR_EXPECTED = -500.0
HU_RANGE = (-5000.0, 40000.0)

Splits = Mapping[str, list[dict[str, Any]]]


def check_across(
    splits: Splits, *, file_info: FileInfos, schema: LabelSchema | None, name_of: Callable[[str], str]
) -> list[Issue]:
    """Check what only the cohort as a whole shows.

    Args:
        splits: "training", "validation" and "test" -> cases.
        file_info: path -> what is known of it.
        schema: the declared structures.
        name_of: from a path to the name shown.
    """
    cases = [case for part in splits.values() for case in part]
    files = [main_file(case) for case in cases]
    volumes = {file: file_info[file] for file in files if file in file_info and not file_info[file].problem}
    return [
        *_split_leaks(splits),
        *_duplicates(splits, file_info=file_info, name_of=name_of),
        *_label_images(cases, file_info=file_info, schema=schema, name_of=name_of),
        *_geometry_outliers(volumes, name_of=name_of),
        *_implausible_hu(cases, file_info=file_info, name_of=name_of),
        *_absent_structures(cases, file_info=file_info, schema=schema),
        *_unlabelled(cases),
    ]


def _split_leaks(splits: Splits) -> list[Issue]:
    subjects = {split: {case["subject"] for case in cases} for split, cases in splits.items()}
    issues = [
        Issue.error(
            "subject leak", name, f"the subject is in {one} and in {other}; put all its cases on one side"
        )
        for one, other in combinations(splits, 2)
        for name in sorted(subjects[one] & subjects[other])
    ]
    counts = Counter(case["id"] for cases in splits.values() for case in cases)
    message = "the case identifier is used more than once; give each case its own"
    return issues + [
        Issue.error("identifier", name, message) for name, count in sorted(counts.items()) if count > 1
    ]


def _duplicates(splits: Splits, *, file_info: FileInfos, name_of: Callable[[str], str]) -> list[Issue]:
    """Find volumes with the same voxels: an error across splits, a warning within one."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, cases in splits.items():
        for case in cases:
            for file in image_files(case) or [main_file(case)]:
                known = file_info.get(file)
                if known is not None and known.content_hash:
                    groups[known.content_hash].append((split, file))
    issues = []
    for members in groups.values():
        if len(members) < 2:
            continue
        first, others = name_of(members[0][1]), members[1:]
        crossed = dict.fromkeys(split for split, _ in members)
        crosses = len(crossed) > 1
        for _, file in others:
            where = f"across {' and '.join(crossed)}" if crosses else "within one split"
            message = f"its voxels are those of {first}, {where}; keep one of them"
            make = Issue.error if crosses else Issue.warning
            issues.append(make("duplicate", name_of(file), message))
    return issues


def _label_images(
    cases: list[dict[str, Any]],
    *,
    file_info: FileInfos,
    schema: LabelSchema | None,
    name_of: Callable[[str], str],
) -> list[Issue]:
    """Find label maps that stand in the place of images, such as a segmentation converted as a series."""
    files = [file for case in cases for file in image_files(case)]
    images = {file: file_info[file] for file in files if file in file_info and file_info[file].content_hash}
    maps = {
        file_info[case["label"]].content_hash: str(case["label"])
        for case in reversed(cases)
        if case.get("label") in file_info and file_info[case["label"]].content_hash
    }
    structures = {0, *(schema.values if schema is not None else ())}
    is_mixed = any(known.few_values is None for known in images.values())
    issues = []
    for file, known in images.items():
        values = known.few_values or ()
        if known.content_hash in maps:
            message = (
                f"this image is a label map: its voxels are those of {name_of(maps[known.content_hash])}"
            )
        elif is_mixed and len(values) > 1 and (len(values) <= MASK_VALUES or structures.issuperset(values)):
            message = f"this image looks like a label map: it holds {len(values)} whole values and no others"
        else:
            continue
        message += "; remove the case, or put the scan in its place"
        issues.append(Issue.error("label map as image", name_of(file), message))
    return issues


def _geometry_outliers(images: Mapping[str, FileInfo], *, name_of: Callable[[str], str]) -> list[Issue]:
    if len(images) < 2:
        return []
    issues = []
    spacing = {file: np.sort(known.spacing) for file, known in images.items()}
    extent = {file: np.sort(known.spacing * known.shape) for file, known in images.items()}
    typical_spacing = np.median(list(spacing.values()), axis=0)
    typical_extent = np.median(list(extent.values()), axis=0)
    codes = Counter(known.orientation for known in images.values())
    usual = codes.most_common(1)[0][0]
    for file, known in images.items():
        if _is_outlier(spacing[file], typical_spacing, factor=SPACING_OUTLIER):
            message = f"its spacing is {_mm(spacing[file])}, the cohort's median {_mm(typical_spacing)}"
            issues.append(Issue.warning("spacing", name_of(file), message))
        if _is_outlier(extent[file], typical_extent, factor=FIELD_OF_VIEW_OUTLIER):
            message = f"its field of view is {_mm(extent[file])}, the cohort's median {_mm(typical_extent)}"
            issues.append(Issue.warning("field of view", name_of(file), message))
        if known.orientation != usual:
            message = f"its axes are {known.orientation}, most files' {usual}; it is turned to RAS on loading"
            issues.append(Issue.warning("orientation", name_of(file), message))
    return issues


def _implausible_hu(
    cases: list[dict[str, Any]], *, file_info: FileInfos, name_of: Callable[[str], str]
) -> list[Issue]:
    """Where most of the cohort has air at about -1000, report images that do not, channel by channel."""
    issues = []
    for files in zip_longest(*(image_files(case) or [main_file(case)] for case in cases)):
        known = {file: file_info[file] for file in files if file in file_info and not file_info[file].problem}
        issues += _implausible_hu_of(known, name_of=name_of)
    return issues


def _implausible_hu_of(images: Mapping[str, FileInfo], *, name_of: Callable[[str], str]) -> list[Issue]:
    minima = [known.minimum for known in images.values() if known.minimum is not None]
    if not minima or float(np.median(minima)) > HU_AIR_EXPECTED:
        return []
    issues = []
    for file, known in images.items():
        if known.minimum is None or known.maximum is None:
            continue
        is_plausible = HU_RANGE[0] <= known.minimum <= HU_AIR_EXPECTED and 0 < known.maximum <= HU_RANGE[1]
        if not is_plausible:
            message = (
                f"its values are {known.minimum:g} to {known.maximum:g}, the cohort looks like CT in HU; "
                "check its rescale slope and intercept and its padding value"
            )
            issues.append(Issue.warning("hounsfield", name_of(file), message))
    return issues


def _absent_structures(
    cases: list[dict[str, Any]], *, file_info: FileInfos, schema: LabelSchema | None
) -> list[Issue]:
    counted = [file_info[case["label"]].label_counts for case in cases if case.get("label") in file_info]
    if schema is None or not counted or any(counts is None for counts in counted):
        return []
    seen = {value for counts in counted for value in counts or ()}
    message = (
        "no label map of the cohort holds this declared structure; remove it from labels.json or add cases"
    )
    return [
        Issue.warning("absent structure", f"{value} ({name})", message)
        for value, name in schema.structures.items()
        if value not in seen
    ]


def _unlabelled(cases: list[dict[str, Any]]) -> list[Issue]:
    """Say how many images have no label map, and which is the first."""
    without = [case["id"] for case in cases if "label" not in case]
    if not without:
        return []
    message = (
        f"it is the first of {len(without)} of {len(cases)} cases without a label map; autoencoders train on "
        "them, models of labelled images take them as samples without labels, all else needs labels/"
    )
    return [Issue.warning("unlabelled", without[0], message)]


def _is_outlier(values: np.ndarray, typical: np.ndarray, *, factor: float) -> bool:
    ratio = values / typical
    return bool((ratio > factor).any() or (ratio < 1 / factor).any())


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values) + " mm"
