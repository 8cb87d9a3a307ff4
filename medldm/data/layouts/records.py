"""What a reader of a layout hands over: scans with their images, label maps and subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.transforms.raw_volume import VolumeNumber


@runtime_checkable
class NamedStructures(Protocol):
    """A label map that comes as structures with names in place of values."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the structures' names, each once."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files it is read from."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for the log and the summary, without paths and identities; () for none."""

    def read(self, shape: tuple[int, int, int], affine: np.ndarray) -> Mapping[str, np.ndarray]:
        """Read the structures on an image's grid.

        Args:
            shape: (X, Y, Z) voxels of the image.
            affine: (4, 4) float64, voxel index to RAS+ millimetres, of the image in RAS+ axes.

        Returns:
            Name -> (X, Y, Z) bool, on the image's grid in RAS+ axes; every name of `names`. It may read each
            mask as it is asked for, so that a hundred structures need not be in memory together.

        Raises:
            GeometryError: where a structure does not lie on that grid.
            VoxelValueError: where a structure's values are not those of a mask.
        """


@dataclass(frozen=True, kw_only=True)
class StackedImage:
    """One channel of a file that holds several.

    Args:
        file: with the channels along its fourth axis.
        volume: which of them this is, and how many there are.
    """

    file: Path = field(repr=False)
    volume: VolumeNumber


def label_files_of(label: Path | NamedStructures | None) -> tuple[Path, ...]:
    """Return the files that a label map is read from, none without one."""
    if label is None:
        return ()
    return (label,) if isinstance(label, Path) else label.files


def files_of(images: Iterable[Path | StackedImage]) -> tuple[Path, ...]:
    """Return the files of images, each once."""
    return tuple(dict.fromkeys(each if isinstance(each, Path) else each.file for each in images))


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One case of a layout.

    Args:
        name: identifies the case within the layout, by its names alone.
        subject: identifies its subject; all scans of one person share it.
        images: channel -> file, or volume of a file, in the order of the channels; a single image has its
            contrast as key, or "" where its name says none; empty where the layout has a label map alone.
        label: its label map; a file of values, named structures, or None for an unlabelled scan.
        split: "training", "validation", "test", or None where the layout does not say.
        case: what the contrasts of one case share, where each is a scan of its own; else "".
        doubt: why its subject is unsure; "" where the names say it.
        is_test: whether the layout keeps it apart as a test case, often without label map.
        entry: "class", "classes", "text" and "scalars" of the case, where the layout gives them.
    """

    name: str = field(repr=False)
    subject: str = field(repr=False)
    images: Mapping[str, Path | StackedImage] = field(repr=False)
    label: Path | NamedStructures | None = field(default=None, repr=False)
    split: str | None = None
    case: str = field(default="", repr=False)
    doubt: str = field(default="", repr=False)
    is_test: bool = False
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def stated_split(self) -> str | None:
        """Return the list the layout puts it into, None where it does not say."""
        return "test" if self.is_test else self.split

    @property
    def image_files(self) -> tuple[Path, ...]:
        """Return the files its images are read from."""
        return files_of(self.images.values())

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Return the files its label map is read from."""
        return label_files_of(self.label)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A folder as a reader understands it.

    Args:
        name: of the layout, such as "nnU-Net".
        root: folder to which names in `problems` are relative.
        scans: its cases, by name.
        schema: structures with names and colours, where the layout names the values of its label maps.
        channels: names of the channels, in order; () where every scan is one image without a channel.
        problems: what is wrong or worth saying; an error concerns files that became no scan. Only the field
            `file` of an issue names files, so that `prepare` can repeat the messages.
        needs_prepare: why its files cannot be read where they lie, or "" where they can.
    """

    name: str
    root: Path = field(repr=False)
    scans: tuple[Scan, ...] = field(repr=False)
    schema: LabelSchema | None = None
    channels: tuple[str, ...] = ()
    problems: tuple[Issue, ...] = ()
    needs_prepare: str = ""
