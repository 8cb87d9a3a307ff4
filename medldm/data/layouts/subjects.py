"""Say which scans are of one person, from names alone; where the names do not say, say that.

A person whose scans lie in training and in validation spoils every result, so nothing is guessed. Sure are:
a BIDS subject; one case a folder; one list of names, once contrasts, sessions, sides and pieces are taken
off. Unsure are: several scans in each of several folders ("a/one", "a/two", "b/one"), folders in folders
("x/p1", "x/p2", "y/p3"), and names of one beginning in a list with other beginnings ("a_1", "a_2", "b_1"),
whose endings may be visits or persons.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, get_args

from medldm.data.layouts.names import CaseName, read_names
from medldm.errors import ConfigError

SubjectFrom = Literal["folder", "top-folder", "name"]
SUBJECT_FROM: tuple[str, ...] = get_args(SubjectFrom)

_I = re.IGNORECASE
_SESSION = re.compile(
    r"ses(s|sion)?\d*|visit\d*|tp\d+|time(point)?\d*|bl|baseline|fu\d*|follow(up)?\d*|up|mon(th)?\d*|year\d*|"
    r"week\d*|day\d*|scan\d+|run\d*|exam\d*|study\d*|acq\d*|rep(eat)?\d*|retest|rescan|series\d*|frame\d*|"
    r"pre(op)?|post(op)?|(19|20)\d\d[01]\d[0-3]\d",
    _I,
)
_SIDE_OR_PIECE = re.compile(r"left|right|lh|rh|[lr]|(aug|patch|crop|part|slab|copy|rot|flip)\d*", _I)
_TAKES_A_NUMBER = re.compile(
    r"ses|sess|session|visit|tp|time|timepoint|fu|follow|followup|up|mon|month|year|week|day|scan|run|exam|"
    r"study|acq|rep|repeat|series|frame|aug|patch|crop|part|slab|copy|rot",
    _I,
)
_ATTACHED = re.compile(r"(ses|sess|session|visit|run|acq)-?[a-z0-9]+", _I)
_VISIT = re.compile(r"([vmdwyts]|mr)\d{1,3}", _I)
_DATE = re.compile(r"(?<!\d)((19|20)\d\d[-.][01]?\d[-.][0-3]?\d|[0-3]?\d[-.][0-3]?\d[-.](19|20)\d\d)(?!\d)")
_BRATS = re.compile(r"(BraTS-[a-z]+-\d+)-\d{3}", _I)
_LAST = re.compile(r"(.+?)(?:[-_. ]+([^-_. ]+)|(?<=\d)([a-z]))", _I)

SAY_WHICH = 'give a table with the columns "source" and "subject"'
"""What a user can do in every case."""


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """Who the scans are of.

    Args:
        names: of the subject of each scan, for those in `unsure` the most cautious guess.
        unsure: places of scans whose names do not say it.
        reason: why; "" where all are sure.
    """

    names: tuple[str, ...]
    unsure: frozenset[int] = frozenset()
    reason: str = ""


def decide_subjects(scans: Sequence[CaseName], *, subject_from: str | None = None) -> Subjects:
    """Decide which scans are of one subject.

    Args:
        scans: what the names of all scans say; judged together, because one name alone says little.
        subject_from: where the names do not say it: "folder" takes the folder a scan lies in, "top-folder"
            the first folder that differs, "name" the file's name without contrast, session and side.

    Raises:
        ConfigError: for another choice.
    """
    if subject_from is not None and subject_from not in SUBJECT_FROM:
        raise ConfigError(f"subject_from is {subject_from!r}; {', '.join(SUBJECT_FROM)} are allowed")
    places = [index for index, scan in enumerate(scans) if not scan.sub]
    subjects = {index: scan.sub for index, scan in enumerate(scans) if scan.sub}
    unsure = {index for index, scan in enumerate(scans) if scan.sub == "?"}
    reasons = ["folder and file name speak of two BIDS subjects; correct one of them"] if unsure else []
    paths = without_common([_person_folders(scans[index]) for index in places])
    stems = [scans[index].stem for index in places]
    if subject_from is not None:
        found = [_chosen(path, stem, subject_from) for path, stem in zip(paths, stems, strict=True)]
        doubtful: set[int] = set()
    else:
        found, doubtful, reason = _from_paths(paths, stems)
        reasons += [reason] if doubtful else []
    subjects |= {place: found[index] for index, place in enumerate(places)}
    return Subjects(
        names=tuple(subjects[index] for index in range(len(scans))),
        unsure=frozenset(unsure | {places[index] for index in doubtful}),
        reason="; ".join(reasons),
    )


def subjects_of_list(names: Sequence[str]) -> Subjects:
    """Decide on the subjects of a list of case names in one folder."""
    paths = [PurePath("images", f"{name}.nii") for name in names]
    read = read_names(paths)
    return decide_subjects([read[path] for path in paths])


def _chosen(path: tuple[str, ...], stem: str, subject_from: str) -> str:
    own = _without_session(stem)[0] if stem else ""
    if subject_from == "name" or not path:
        return own or "/".join(path)
    return path[-1] if subject_from == "folder" else path[0]


def _person_folders(scan: CaseName) -> tuple[str, ...]:
    """Return the folders without those of sessions."""
    return tuple(
        folder
        for folder in scan.folders
        if not (_SESSION.fullmatch(folder) or _ATTACHED.fullmatch(folder) or _DATE.match(folder))
    )


def without_common(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop the folders that all paths begin with; they tell nobody apart."""
    while len(paths) > 1 and all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def _from_paths(paths: list[tuple[str, ...]], stems: list[str]) -> tuple[list[str], set[int], str]:
    """Judge a tree: a list of files, or a folder for each person."""
    in_folder: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path, stem in zip(paths, stems, strict=True):
        if path:
            is_of_folder = stem.lower().startswith(path[-1].lower())
            in_folder[path].add("" if is_of_folder else _without_session(stem)[0])
    flat = [index for index, path in enumerate(paths) if not path]
    found = ["/".join(path) for path in paths]
    names, doubtful, reason = _from_list([stems[index] for index in flat])
    for index, name in zip(flat, names, strict=True):
        found[index] = name
    unsure = {flat[index] for index in doubtful}
    if any(len(held) > 1 for held in in_folder.values()):
        crowded = {index for index, path in enumerate(paths) if path}
        text = f"{len(crowded)} scans lie several to a folder, and their names may be persons or contrasts"
        return found, unsure | crowded, text
    tops: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in in_folder:
        tops[path[0]].add(path)
    if len(tops) > 1 and any(len(below) > 1 for below in tops.values()):
        nested = {index for index, path in enumerate(paths) if path}
        text = f"{len(nested)} scans lie in folders within folders, and either may be the person"
        return found, unsure | nested, text
    folders = sorted(in_folder)
    names, doubtful, folder_reason = _from_list(["/".join(path) for path in folders])
    by_path = dict(zip(folders, names, strict=True))
    unsure_paths = {folders[index] for index in doubtful}
    for index, path in enumerate(paths):
        if path:
            found[index] = by_path[path]
            unsure |= {index} if path in unsure_paths else set()
    return found, unsure, reason or folder_reason


def _from_list(names: Sequence[str]) -> tuple[list[str], set[int], str]:
    """Judge a list of names: take visits off, and doubt endings that may be visits or persons."""
    cut = [_without_session(name) for name in names]
    reduced = [name for name, _ in cut]
    parts = [_LAST.fullmatch(name) for name in reduced]
    visits: dict[str, set[str]] = defaultdict(set)
    for match in parts:
        if match and match.group(2) and _VISIT.fullmatch(match.group(2)):
            visits[match.group(2).lower()].add(match.group(1))
    if any(len(beginnings) > 1 for beginnings in visits.values()):
        reduced = [
            match.group(1) if match and match.group(2) and _VISIT.fullmatch(match.group(2)) else name
            for match, name in zip(parts, reduced, strict=True)
        ]
    doubtful = _doubtful_endings(reduced)
    if len(set(reduced)) == 1 and len(set(names)) > 2:
        doubtful = set(reduced)
    unsure = {index for index, name in enumerate(reduced) if name in doubtful}
    reason = f"the names of {len(unsure)} scans share beginnings, and their endings may be visits or persons"
    return reduced, unsure, reason if unsure else ""


def _doubtful_endings(names: Sequence[str]) -> set[str]:
    """Return names of which several share a beginning while others have another."""
    distinct = set(names)
    families: dict[str, dict[str, str]] = defaultdict(dict)
    for name in distinct:
        if match := _LAST.fullmatch(name):
            families[match.group(1)][match.group(2) or match.group(3)] = name
    n_beginnings = Counter(ending for endings in families.values() for ending in endings)
    doubtful: set[str] = set()
    for beginning, endings in families.items():
        is_counted = any(one[0].isdigit() or len(one) == 1 or n_beginnings[one] > 1 for one in endings)
        if 1 < len(endings) < len(distinct) and is_counted:
            doubtful |= set(endings.values())
        if beginning in distinct:
            doubtful |= {*endings.values(), beginning}
    return doubtful


def _without_session(name: str) -> tuple[str, bool]:
    """Take sessions, dates, sides and pieces from the end of a name; what is left is never empty."""
    if match := _BRATS.fullmatch(name):
        return match.group(1), True
    left = _DATE.sub("", name).strip("-_. ") or name
    while match := re.fullmatch(r"(.+?)[-_. ]+([^-_. ]+)", left):
        beginning, word = match.group(1), match.group(2)
        numbered = re.fullmatch(r"(.+?)[-_. ]+([^-_. ]+)", beginning)
        if _SESSION.fullmatch(word) or _SIDE_OR_PIECE.fullmatch(word):
            left = beginning
        elif numbered and _TAKES_A_NUMBER.fullmatch(numbered.group(2)):
            left = numbered.group(1)
        else:
            break
    return left, left != name
