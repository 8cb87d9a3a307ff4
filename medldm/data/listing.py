"""List the cases of a cohort: from folders of images and labels, or from a MONAI datalist."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.data.case_checks import VOLUME_KEYS, volume_files
from medldm.data.case_names import check_case_names
from medldm.data.case_subjects import settle_subjects
from medldm.data.channels import join_channels, order_by_name, read_channel_names, read_channels_file
from medldm.data.dicom.scan import is_dicom_tree
from medldm.data.entry_keys import check_list_keys
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.data.layouts.cases import list_cases
from medldm.data.layouts.detect import read_where_it_lies
from medldm.data.layouts.records import Layout
from medldm.data.layouts.trees import volumes_below
from medldm.data.splits import SPLITS
from medldm.data.unlisted import find_unlisted
from medldm.errors import ConfigError
from medldm.files import is_clutter
from medldm.runtime.json_files import JsonError, read_json
from medldm.transforms.foreign_formats import foreign_format
from medldm.transforms.readers import VOLUME_SUFFIXES, volume_stem, volume_suffix

Case = dict[str, Any]
COHORT_FILE = "cohort.json"
CONDITION_IMAGES = "condition_images"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a cohort's folder or list holds.

    Args:
        root: folder that names are relative to.
        lists: split -> cases. Where there are channels, the "image" of a case is a list in their order with
            None for one that is missing.
        channels: their names, () for one without.
        schema: structures that a foreign layout names.
        layout: name of a foreign layout; "" for the toolkit's own and for lists.
    """

    root: Path
    lists: dict[str, list[Case]]
    channels: tuple[str, ...] = ()
    schema: LabelSchema | None = None
    layout: str = ""


def read_lists(
    path: Path,
    *,
    issues: list[Issue],
    require_labels: bool,
    require_images: bool = True,
    contrasts: Sequence[str] | None = None,
) -> Listing:
    """List the cases of a folder or a datalist; what is wrong joins `issues`.

    Args:
        path: of either.
        issues: receives what is found.
        require_labels: refuse cases without label map.
        require_images: refuse a folder of label maps alone.
        contrasts: that become channels where a foreign layout has each as a scan of its own.
    """
    listing = path / COHORT_FILE if path.is_dir() and (path / COHORT_FILE).is_file() else path
    doubts: dict[str, str] = {}
    if listing.is_file():
        channels, lists = _read_datalist(listing, issues=issues, require_labels=require_labels)
        found = Listing(root=listing.parent, lists=lists, channels=channels)
    elif not require_images and _has(path, "labels") and not _has(path, "images"):
        found = Listing(root=path, lists={"training": _read_label_maps(path, issues=issues)})
    elif (layout := _foreign_layout(path, issues)) is not None:
        channels, cases = list_cases(
            layout, contrasts=contrasts, require_labels=require_labels, issues=issues
        )
        doubts = {name: scan.doubt for scan in layout.scans if scan.doubt for name in (scan.name, scan.case)}
        found = Listing(
            root=path,
            lists=_by_split(cases, layout),
            channels=channels,
            schema=layout.schema,
            layout=layout.name,
        )
    else:
        channels, endings = read_channels_file(path, issues=issues)
        cases = _read_folders(path, endings=endings, issues=issues, require_labels=require_labels)
        found = Listing(root=path, lists={"training": cases}, channels=channels)
    every_case = [case for cases in found.lists.values() for case in cases]
    check_case_names(every_case, issues=issues)
    settle_subjects(every_case, found.root, doubts=doubts, issues=issues)
    return found


def _by_split(cases: list[Case], layout: Layout) -> dict[str, list[Case]]:
    """Return the lists that a layout tells apart; "training" is always among them."""
    split_of = {
        name: scan.stated_split
        for scan in layout.scans
        if scan.stated_split is not None
        for name in (scan.name, scan.case)
    }
    lists: dict[str, list[Case]] = {"training": []}
    for case in cases:
        lists.setdefault(split_of.get(case["id"], "training"), []).append(case)
    return lists


def _foreign_layout(path: Path, issues: list[Issue]) -> Layout | None:
    """Read a folder that has not the toolkit's own layout, or None where it has."""
    has_own = any(_has(path, name) for name in ("images", "labels"))
    if has_own and not any(_holds_folders_of_volumes(path / name) for name in ("images", "labels")):
        return None
    layout = read_where_it_lies(path)
    if layout is None and not has_own:
        message = (
            "it holds DICOM files, which are not read where they lie; `medldm prepare IN OUT` makes a cohort "
            "of them"
            if path.is_dir() and is_dicom_tree(path)
            else "it has no layout that is read where it lies; `medldm prepare IN OUT` makes a cohort of "
            "DICOM series and other trees"
        )
        issues.append(Issue.error("layout", ".", message))
    return layout


def _holds_folders_of_volumes(folder: Path) -> bool:
    """Tell a folder with a folder for each case from a folder of files."""
    return folder.is_dir() and any(one.is_dir() and volumes_below(one) for one in folder.iterdir())


def _read_folders(
    root: Path, *, endings: tuple[str, ...], issues: list[Issue], require_labels: bool
) -> list[Case]:
    volumes = _volumes_in(root / "images", issues=issues)
    images: dict[str, Any] = {stem: str(file) for stem, file in volumes.items()}
    if endings:
        images = join_channels(volumes, endings, issues=issues)
    has_labels = _has(root, "labels")
    labels = _volumes_in(root / "labels", issues=issues) if has_labels or require_labels else {}
    others = _volumes_in(root / CONDITION_IMAGES, issues=issues) if _has(root, CONDITION_IMAGES) else {}
    cases = []
    for stem, image in images.items():
        case: Case = {"id": stem, "image": image}
        if stem in others:
            case["condition_image"] = str(others[stem])
        if stem in labels:
            cases.append(case | {"label": str(labels[stem])})
        elif not require_labels and labels.keys() <= images.keys():
            cases.append(case)
        elif has_labels:
            message = "it has no label map of that name in labels/; add it or remove the image"
            name = stem if endings else Path(image).name
            issues.append(Issue.error("pair", f"images/{name}", message))
    for folder, files in (("labels", labels), (CONDITION_IMAGES, others)):
        for stem in sorted(files.keys() - images.keys()):
            message = f"it has no image of that name in images/{_other_case(stem, images)}"
            issues.append(Issue.error("pair", f"{folder}/{files[stem].name}", message))
    return cases


def _other_case(stem: str, others: Iterable[str]) -> str:
    """Name what differs from a name in upper and lower case only."""
    found = next((one for one in others if one.lower() == stem.lower()), None)
    return f"; {found} differs from it in upper and lower case only, rename one" if found else ""


def _read_label_maps(root: Path, *, issues: list[Issue]) -> list[Case]:
    return [
        {"id": stem, "label": str(file)} for stem, file in _volumes_in(root / "labels", issues=issues).items()
    ]


def _has(root: Path, folder: str) -> bool:
    return (root / folder).is_dir()


def _volumes_in(folder: Path, *, issues: list[Issue]) -> dict[str, Path]:
    if not folder.is_dir():
        issues.append(
            Issue.error("layout", f"{folder.name}/", "the folder is missing; images/ and labels/ are needed")
        )
        return {}
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if is_clutter(file) or file.name.startswith(".") or not file.is_file():
            continue
        if volume_suffix(file) is None:
            kind = foreign_format(file) or "no volume"
            message = f"it is {kind}; it is passed over, {', '.join(VOLUME_SUFFIXES)} are read"
            name = f"{folder.name}/{file.name}"
            issues.append(Issue.warning("format", name, message))
        elif (stem := volume_stem(file)) in found:
            message = f"{found[stem].name} has the same name but for the format; keep one"
            issues.append(Issue.error("pair", f"{folder.name}/{file.name}", message))
        else:
            found[stem] = file
    if not found:
        issues.append(
            Issue.error("empty", f"{folder.name}/", f"it holds no volume ({', '.join(VOLUME_SUFFIXES)})")
        )
    return found


def _read_datalist(
    listing: Path, *, issues: list[Issue], require_labels: bool
) -> tuple[tuple[str, ...], dict[str, list[Case]]]:
    try:
        content = read_json(listing)
        channels = read_channel_names(content)
    except JsonError as error:
        issues.append(Issue.error("datalist", listing.name, str(error)))
        return (), {"training": []}
    except ConfigError as error:
        issues.append(Issue.error("channel", listing.name, str(error)))
        return (), {"training": []}
    if not isinstance(content, Mapping) or not all(
        isinstance(content.get(split, []), list) for split in SPLITS
    ):
        content = {}
    if "training" not in content:
        message = 'it has no list "training"; a MONAI datalist {"training": [{"image": ...}]} is needed'
        issues.append(Issue.error("datalist", listing.name, message))
        return (), {"training": []}
    issues += check_list_keys(content, name=listing.name)
    if listing.name == COHORT_FILE:
        issues += find_unlisted(listing, content)
    lists: dict[str, list[Case]] = {}
    if require_labels:
        content = _without_bare_tests(content, listing.name, issues)
    for split in SPLITS:
        if split in content:
            entries = content[split]
            cases = [
                _case_of(entry, channels, listing=listing, place=f"{split}[{index}]", issues=issues)
                for index, entry in enumerate(entries)
            ]
            lists[split] = [
                case for case in cases if case and _has_files(case, issues, require_labels=require_labels)
            ]
    return channels, lists


def _without_bare_tests(content: Mapping[str, Any], name: str, issues: list[Issue]) -> dict[str, Any]:
    """Leave test images without label map out with a count, as MSD lists them."""
    tests = content.get("test", ())
    kept = [entry for entry in tests if isinstance(entry, Mapping) and "label" in entry]
    if n_bare := len(tests) - len(kept):
        message = f"{n_bare} test images without label map are left out"
        issues.append(Issue.warning("datalist", name, message))
    return {**content, "test": kept} if tests else dict(content)


def _case_of(
    entry: Any, channels: tuple[str, ...], *, listing: Path, place: str, issues: list[Issue]
) -> Case | None:
    entry = dict(entry) if isinstance(entry, Mapping) else {"image": entry}
    reason = ""
    try:
        if channels:
            entry["image"] = order_by_name(entry.get("image"), channels)
        elif isinstance(entry.get("image"), list | tuple | Mapping):
            reason = f'{place} has several files as "image"; name them under "channels" of the list'
        elif not isinstance(entry.get("image"), str):
            reason = f'{place} has no "image" with a path'
    except ConfigError as error:
        reason = f'the "image" of {place}: {error}'
    for key in VOLUME_KEYS:
        if key != "image" and not isinstance(entry.get(key, ""), str):
            reason = f'the "{key}" of {place} is not a path'
    if reason:
        issues.append(Issue.error("datalist", listing.name, reason))
        return None
    case = {
        key: _resolved(value, listing.parent) if key in VOLUME_KEYS else value for key, value in entry.items()
    }
    case["id"] = str(case.get("id", _name_of(case["image"], channels)))
    if "subject" in case:
        case["subject"] = str(case["subject"])
    return case


def _resolved(files: Any, folder: Path) -> Any:
    if isinstance(files, list):
        return [file if file is None else _resolved(file, folder) for file in files]
    # A text that no system takes for a path stays as it is, and is then no file.
    return str(folder / files if "\0" in files else (folder / files).resolve())


def _name_of(image: str | list[str | None], channels: tuple[str, ...]) -> str:
    """Return the name of an image's file, without the ending that names its channel."""
    if isinstance(image, str):
        return volume_stem(image)
    known = ((file, name) for file, name in zip(image, channels, strict=True) if file is not None)
    file, name = next(known, ("case", ""))
    return volume_stem(file).removesuffix(f"_{name}")


def _has_files(case: Case, issues: list[Issue], *, require_labels: bool) -> bool:
    known = (
        case | {"image": [file for file in case["image"] if file]}
        if isinstance(case["image"], list)
        else case
    )
    # Path.is_file raises for names that are too long.
    missing = [(key, file) for key, file in volume_files(known) if not os.path.isfile(file)]  # noqa: PTH113
    for key, file in missing:
        issues.append(
            Issue.error("missing", Path(file).name, f"the {key} of case {case['id']} does not exist")
        )
    if require_labels and "label" not in case:
        name = case["id"] if isinstance(case["image"], list) else Path(case["image"]).name
        issues.append(Issue.error("pair", name, f"case {case['id']} has no label map"))
        return False
    return not missing
