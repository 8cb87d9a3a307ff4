"""Cases of a layout that says itself what it is, and the label maps that the user's table names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from medldm.data.layouts.names import file_stem
from medldm.data.layouts.records import Layout, Scan
from medldm.data.preparation.source import FoundSources, Source
from medldm.data.preparation.table import SubjectTable
from medldm.errors import ConfigError


def sources_of_layout(layout: Layout, table: SubjectTable) -> FoundSources:
    """Take the scans of a layout that says itself what it is."""
    sources = [_scan_source(scan, layout) for scan in layout.scans]
    volumes = [path for source in sources for path in source.files]
    sources, named = take_named_labels(sources, volumes, table, layout.root)
    said = Counter(issue.message for issue in layout.problems if issue.severity == "warning")
    lost = [issue for issue in layout.problems if issue.severity == "error"]
    return FoundSources(
        sources=tuple(replace(source, label=named.get(source.key, source.label)) for source in sources),
        lost=tuple(issue.message for issue in lost),
        lost_files=tuple((layout.root / issue.file,) for issue in lost),
        passed_over={},
        schema=layout.schema,
        remarks=(f"read as {layout.name} layout", *(f"{count} x {text}" for text, count in said.items())),
    )


def _scan_source(scan: Scan, layout: Layout) -> Source:
    files = [path.relative_to(layout.root).as_posix() for path in scan.image_files]
    stems = [file_stem(path) for path in scan.image_files]
    contrast = next(iter(scan.images), "") if len(scan.images) == 1 else ""
    return Source(
        key="\n".join(("file", *files)),
        subject=scan.subject,
        names=tuple(dict.fromkeys((*files, *stems, scan.name, scan.subject))),
        images=dict(scan.images) if layout.channels else {"": next(iter(scan.images.values()))},
        label=scan.label,
        contrast=contrast,
        case=(scan.case or scan.name,),
        missing=tuple(name for name in layout.channels if name not in scan.images),
        doubt=scan.doubt,
        split=None if scan.is_test and scan.label is None else scan.stated_split,
        entry=scan.entry,
    )


def take_named_labels(
    sources: Sequence[Source], volumes: Iterable[Path], table: SubjectTable, base: Path
) -> tuple[list[Source], dict[str, Path]]:
    """Return the sources that are no label maps by the table, and source -> label map as it says."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in volumes:
        for name in {path.relative_to(base).as_posix(), path.name}:
            by_name[name].append(path)
    named: dict[str, Path] = {}
    for source in sources:
        row = table.row_of(source.names)
        if row is None or not row.label:
            continue
        found = by_name.get(row.label, [])
        if len(found) != 1:
            raise ConfigError(
                f"{len(found)} files of the input are a label map that the table names; give each by its "
                "path relative to the input folder"
            )
        named[source.key] = found[0]
    claimed = Counter(named.values())
    if any(count > 1 for count in claimed.values()):
        raise ConfigError("the table gives one label map to two images; give each image its own row and map")
    kept = [source for source in sources if not claimed.keys() & set(source.image_files)]
    return kept, named
