"""Join the contrasts of a case to its channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from medldm.data.preparation.source import Source


def join_channels(sources: Sequence[Source], wanted: Sequence[str]) -> tuple[Source, ...]:
    """Join the contrasts of one case to one source with channels, where they are asked for.

    Args:
        sources: one for each contrast, or with the channels of their layout.
        wanted: contrasts, in upper or lower case; () leaves the sources as they are.
    """
    if not wanted:
        return tuple(sources)
    groups: dict[tuple[str, tuple[str, ...]], list[Source]] = defaultdict(list)
    joined = []
    for source in sources:
        if source.channels or source.missing:
            joined.append(_chosen(source, wanted))
        elif source.series is not None or not source.contrast:
            refusal = source.refusal or "its name says no contrast; leave it out, or name its contrast"
            joined.append(replace(source, refusal=refusal))
        else:
            groups[source.subject, source.case].append(source)
    return (*joined, *(_joined(members, wanted) for members in groups.values()))


def _chosen(source: Source, wanted: Sequence[str]) -> Source:
    """Choose among the channels of a layout."""
    files = {name.lower(): image for name, image in source.images.items()}
    missing = tuple(name for name in wanted if name.lower() not in files)
    images = {name: files[name.lower()] for name in wanted if name.lower() in files}
    return replace(source, images=images, missing=missing)


def _joined(members: Sequence[Source], wanted: Sequence[str]) -> Source:
    by_contrast: dict[str, list[Source]] = defaultdict(list)
    for source in members:
        by_contrast[source.contrast.lower()].append(source)
    chosen = [source for name in wanted for source in by_contrast.get(name.lower(), [])]
    missing = [name for name in wanted if name.lower() not in by_contrast]
    refusal = next((source.refusal for source in chosen if source.refusal), "")
    labels = {one.label_files for one in chosen}
    if len(chosen) + len(missing) > len(wanted):
        refusal = refusal or "two of its images are of one contrast; keep one of them"
    if len(labels) > 1:
        refusal = refusal or "its contrasts have different label maps; keep one for all of them"
    first = (chosen or list(members))[0]
    return replace(
        first,
        key="\n".join(("case", *first.case, *(name.lower() for name in wanted))),
        images={name: by_contrast[name.lower()][0].images[""] for name in wanted if name not in missing},
        contrast="",
        missing=tuple(missing),
        refusal=refusal,
        is_alone=any(source.is_alone for source in chosen),
    )
