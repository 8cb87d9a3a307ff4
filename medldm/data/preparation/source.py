"""What a preparation finds in its input: cases to be converted, and files that became none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.data.dicom.series import DicomSeries
from medldm.data.labels import LabelSchema
from medldm.data.layouts.names import is_known_contrast
from medldm.data.layouts.records import NamedStructures, StackedImage, files_of, label_files_of


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case of the input. Nothing of it may be shown: paths and patient numbers name people.

    Args:
        key: what names this case among all others, stable between runs.
        subject: what names its subject.
        names: under which the subject table may know it, the most specific first.
        series: the DICOM series, or None.
        images: channel -> file, or volume of a file, in order; one image without a channel has the key "".
        label: the label map's file, its named structures, or None.
        contrast: what its name says of its contrast, "" where it says nothing; a word of the user's own names
            the contrast for `channels` alone and is never shown.
        case: what the contrasts of one case share.
        missing: contrasts that were asked for and are not there.
    doubt: why its subject is unsure, or "".
        refusal: why it is refused before it is read, or "".
        is_alone: whether its label map was paired because nothing else stood beside it.
        split: as the layout says, or None.
        entry: as the layout says.
    """

    key: str = field(repr=False)
    subject: str = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    series: DicomSeries | None = field(default=None, repr=False)
    images: Mapping[str, Path | StackedImage] = field(default_factory=dict, repr=False)
    label: Path | NamedStructures | None = field(default=None, repr=False)
    contrast: str = ""
    case: tuple[str, ...] = field(default=(), repr=False)
    missing: tuple[str, ...] = ()
    doubt: str = ""
    refusal: str = ""
    is_alone: bool = False
    split: str | None = None
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def known_contrast(self) -> str:
        """Return its contrast where that is a word of the field, which says nothing of a person."""
        return self.contrast if is_known_contrast(self.contrast) else ""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of its channels, () for one image."""
        return tuple(self.images) if len(self.images) > 1 else ()

    @property
    def structures(self) -> tuple[str, ...]:
        """Return the names of its structures where they come as masks."""
        return () if self.label is None or isinstance(self.label, Path) else self.label.names

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files it is read from."""
        frames = sorted({frame.image.path for frame in self.series.frames}) if self.series else []
        return (*frames, *self.image_files, *self.label_files)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """Return the files its images are read from, but for those of a series."""
        return files_of(self.images.values())

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Return the files its label map is read from."""
        return label_files_of(self.label)


@dataclass(frozen=True, kw_only=True)
class FoundSources:
    """Everything found.

    Args:
        sources: cases, to be converted or refused one by one.
        lost: why files that became no case are refused, one reason each.
        lost_files: the files of each of these; never to be shown.
        passed_over: numbers of files and series that were not meant, by reason.
        schema: structures that the layout names, or None.
        remarks: what is worth saying of the layout.
    """

    sources: tuple[Source, ...] = field(repr=False)
    lost: tuple[str, ...]
    passed_over: dict[str, int]
    schema: LabelSchema | None = None
    remarks: tuple[str, ...] = ()
    lost_files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)
