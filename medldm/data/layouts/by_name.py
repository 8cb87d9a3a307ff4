"""Make scans of a tree's volumes by what their names say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from medldm.data.issues import Issue
from medldm.data.layouts.label_names import names_from_maps
from medldm.data.layouts.masks import MaskFolder
from medldm.data.layouts.names import CaseName, is_not_meant, read_names
from medldm.data.layouts.pairing import Pairs, pair_labels
from medldm.data.layouts.records import Layout, Scan
from medldm.data.layouts.subjects import decide_subjects
from medldm.data.layouts.trees import volumes_below
from medldm.data.preparation.presets import totalsegmentator_schema

MASKS = "its label maps are masks of single structures, which must be merged"


def read_tree(root: Path) -> Layout:
    """Read case folders, TotalSegmentator's among them, and lists of files, by their names alone."""
    paths = [path for path in volumes_below(root) if not is_not_meant(path)]
    scans, problems = scans_by_name(root, paths)
    structures = {name for scan in scans if isinstance(scan.label, MaskFolder) for name in scan.label.names}
    maps = [scan.label for scan in scans if isinstance(scan.label, Path)]
    is_total = bool(structures) and structures <= set(totalsegmentator_schema().names)
    schema, more = names_from_maps(maps, root=root)
    return Layout(
        name="TotalSegmentator" if is_total or schema else "case folders",
        root=root,
        scans=tuple(scans),
        schema=schema,
        problems=(*problems, *more),
        needs_prepare=MASKS if structures else "",
    )


def scans_by_name(root: Path, paths: Iterable[Path]) -> tuple[list[Scan], list[Issue]]:
    """Return the scans of volume files, and what is wrong with those that became none."""
    read = read_names(path.relative_to(root) for path in paths)
    images = {root / path: name for path, name in read.items() if not name.is_label}
    labels = {root / path: name for path, name in read.items() if name.is_label}
    names = list(images.values())
    pairs = pair_labels(names, labels)
    subjects = decide_subjects(names)
    problems = _problems(root, list(images), pairs)
    ids = _identifiers(images)
    scans = [
        Scan(
            name=ids[path],
            subject=subject or ids[path],
            images={name.channel: path},
            label=pairs.labels.get(index),
            case="_".join(name.key) or ids[path],
            doubt=subjects.reason if index in subjects.unsure else "",
        )
        for index, ((path, name), subject) in enumerate(zip(images.items(), subjects.names, strict=True))
        if index not in pairs.contested
    ]
    return scans, problems


def _identifiers(images: Mapping[Path, CaseName]) -> dict[Path, str]:
    """Name each scan by its case, with its contrast where a case has several."""
    cases = {path: "_".join(name.key) or "scan" for path, name in images.items()}
    n_of_case = Counter(cases.values())
    return {
        path: f"{case}_{images[path].channel}" if n_of_case[case] > 1 and images[path].channel else case
        for path, case in cases.items()
    }


def _problems(root: Path, images: list[Path], pairs: Pairs) -> list[Issue]:
    def name_of(path: Path) -> str:
        return path.relative_to(root).as_posix()

    problems = [Issue.error("pair", name_of(path), reason) for path, reason in pairs.lost.items()]
    problems += [
        Issue.error("pair", name_of(images[index]), reason) for index, reason in pairs.contested.items()
    ]
    message = "its label map is the one beside it, not one of its name; check the two"
    return problems + [Issue.warning("pair", name_of(images[index]), message) for index in pairs.alone]
