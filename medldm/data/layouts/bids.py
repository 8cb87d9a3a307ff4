"""Read BIDS data sets: scans by their entities, label maps of the derivatives, participants.tsv.

Source: BIDS 1.10: common principles (entities), derivatives/imaging (dseg, mask), participants file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.data.layouts.by_name import MASKS, scans_by_name
from medldm.data.layouts.label_names import common_schema, names_from_tsv
from medldm.data.layouts.names import CaseName, is_not_meant, read_name
from medldm.data.layouts.participants import FILE as PARTICIPANTS_FILE
from medldm.data.layouts.participants import read_participants
from medldm.data.layouts.records import Layout, Scan
from medldm.data.layouts.trees import volumes_below
from medldm.errors import ConfigError

NAME = "BIDS"
_SERIES = {
    *("bold", "asl", "cbv", "epi", "sbref", "m0scan"),
    *("phasediff", "phase1", "phase2", "magnitude1", "magnitude2", "fieldmap"),
}
"""Suffixes of time series and field maps."""


def is_bids(root: Path) -> bool:
    """Tell the layout by its description, or by its participants and folders sub-*."""
    if (root / "dataset_description.json").is_file():
        return True
    return (root / PARTICIPANTS_FILE).is_file() and any(root.glob("sub-*"))


def read_bids(root: Path) -> Layout:
    """Read the data set in `root`, its derivatives included."""
    kept, passed_over = _choose(root)
    scans, problems = scans_by_name(root, kept)
    problems += [
        Issue.warning("layout", ".", f"{count} volumes are passed over: {reason}")
        for reason, count in passed_over.items()
    ]
    schema, more = _schema_of(root, scans)
    rows, remarks = read_participants(root, {scan.subject for scan in scans})
    has_masks = any(scan.label is not None and not isinstance(scan.label, Path) for scan in scans)
    return Layout(
        name=NAME,
        root=root,
        scans=tuple(replace(scan, entry=rows.get(scan.subject, {})) for scan in scans),
        schema=schema,
        problems=(*problems, *more, *remarks),
        needs_prepare=MASKS if has_masks else "",
    )


def _choose(root: Path) -> tuple[list[Path], Counter[str]]:
    """Return all label maps, and the images of the raw data, or of the derivatives if there are none."""
    passed_over: Counter[str] = Counter()
    images: dict[bool, list[Path]] = {True: [], False: []}
    labels: list[Path] = []
    for path in volumes_below(root):
        relative = path.relative_to(root)
        name = read_name(relative)
        if reason := _not_meant(relative, name):
            passed_over[reason] += 1
        elif name.is_label:
            labels.append(path)
        else:
            images[relative.parts[0] == "derivatives"].append(path)
    if images[False] and images[True]:
        passed_over["images of derivatives beside the raw ones"] += len(images[True])
    return (images[False] or images[True]) + labels, passed_over


def _not_meant(relative: Path, name: CaseName) -> str:
    if relative.parts[0] in ("sourcedata", "code", "stimuli"):
        return f"files in {relative.parts[0]}/"
    if is_not_meant(relative):
        return "probability maps and transforms"
    if not name.entities:
        return 'names without the entity "sub"'
    if _SERIES & set(name.channel.split("_")):
        return "time series and field maps"
    if name.is_label and name.entities.get("desc") == "brain" and "label" not in name.entities:
        return "brain masks"
    return ""


def _schema_of(root: Path, scans: Iterable[Scan]) -> tuple[LabelSchema | None, list[Issue]]:
    """Join the dseg.tsv of all label maps."""
    tables = {
        table for scan in scans if isinstance(scan.label, Path) for table in _tables_of(scan.label, root)
    }
    schemas: dict[str, LabelSchema] = {}
    problems: list[Issue] = []
    for table in sorted(tables):
        name = table.relative_to(root).as_posix()
        try:
            if (schema := names_from_tsv(table)) is not None:
                schemas[name] = schema
        except ConfigError as error:
            problems.append(Issue.error("labels", name, str(error)))
    schema, conflicts = common_schema(schemas)
    return schema, problems + conflicts


def _tables_of(label: Path, root: Path) -> list[Path]:
    """Return the nearest dseg.tsv that applies to a label map (inheritance principle)."""
    own = read_name(label.name).entities
    for folder in (label.parent, *label.parent.parents):
        tables = [path for path in folder.glob("*dseg.tsv") if dict(_entities(path)).items() <= own.items()]
        if tables:
            return [max(tables, key=lambda path: len(_entities(path)))]
        if folder == root:
            break
    return []


def _entities(path: Path) -> list[tuple[str, str]]:
    words = (word.partition("-") for word in path.name.removesuffix(".tsv").split("_"))
    return [(name, value) for name, dash, value in words if dash]
