"""Give label maps to images by what their names say, or by standing alone together; never by elimination.

A map belongs to an image if the names without their words for image, label map and contrast are the same
(BIDS: if no entity of the map contradicts the image), or if the two stand alone together in one case folder.
Several maps of one image are masks of named structures, or the image is contested and refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medldm.data.layouts.masks import MaskFolder
from medldm.data.layouts.names import CaseName
from medldm.data.layouts.records import NamedStructures
from medldm.data.preparation.presets import totalsegmentator_schema

NO_IMAGE = (
    "a label map belongs to no image by its name; name both alike, put one map and one image into a folder "
    'of their own, or name it in the column "label" of the table'
)
CONTRADICTS = (
    "a label map stands beside one image, and their names speak of two cases; correct the name, or name the "
    'map in the column "label" of the table'
)
TWO_MAPS = (
    "{n} label maps claim it; keep one, give masks of single structures a folder of their own, or name the "
    'map in the column "label" of the table'
)
TWO_IMAGES = (
    "{n} images claim one label map; keep one of them, name them apart, or name the map in the column "
    '"label" of the table'
)
MIXED = "it has a label map and masks of single structures beside it; keep one kind"
TWINS = "two of its masks have one name; keep one of them"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which label map belongs to which image.

    Args:
        labels: image -> its label map.
        contested: image -> why it is refused.
        lost: label map -> why it belongs to no image.
        alone: images that were paired because nothing else stood beside them.
    """

    labels: dict[int, Path | NamedStructures] = field(default_factory=dict)
    contested: dict[int, str] = field(default_factory=dict)
    lost: dict[Path, str] = field(default_factory=dict)
    alone: list[int] = field(default_factory=list)


def pair_labels(
    images: Sequence[CaseName], labels: Mapping[Path, CaseName], *, nameless: Container[int] = ()
) -> Pairs:
    """Pair images and label maps.

    Args:
        images: what the names of the images say.
        labels: file -> what its name says.
        nameless: images that have a place and no name, such as DICOM series.
    """
    return _Pairing(images, labels, nameless).run()


def speaks_of_another(label: CaseName, image: CaseName, names: Container[str]) -> bool:
    """Tell a map that names another case than an image: another subject, another image's name or number.

    Args:
        label: what the map's name says.
        image: what the image's name says.
        names: that the images of the whole cohort go by, from `names_in_use`.
    """
    if label.key == image.key:
        return False
    if label.sub and image.sub and label.sub != image.sub:
        return True
    if label.entities and image.entities:
        return not _agree(label, image)
    own = names_in_use([image])
    if not label.stem or label.stem in own:
        return False
    return label.stem in names or _pattern(label.stem) in {_pattern(name) for name in own if _has_digit(name)}


def names_in_use(images: Iterable[CaseName]) -> set[str]:
    """Return what images go by: their stems and the folders they lie in."""
    return {name for one in images for name in (one.stem, *one.folders[-1:]) if name}


class _Pairing:
    """One cohort's pairing; every claim is collected before any is granted."""

    def __init__(
        self, images: Sequence[CaseName], labels: Mapping[Path, CaseName], nameless: Container[int]
    ) -> None:
        self.images, self.labels = images, labels
        self.pairs = Pairs()
        self.plain: dict[int, list[Path]] = defaultdict(list)
        self.masks: dict[int, list[tuple[str, Path]]] = defaultdict(list)
        self.names = names_in_use(images)
        self.by_person: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
        self.by_key: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            if index not in nameless:
                self.by_key[image.key].append(index)
                self.by_person[_person(image)].append(index)

    def run(self) -> Pairs:
        """Collect the claims by name, then those by place, and grant those that nothing contradicts."""
        waiting: dict[Path, CaseName] = {}
        for path, label in self.labels.items():
            owners = self._named_owners(label)
            if not owners:
                waiting[path] = label
            for index in owners:
                if label.structure:
                    self.masks[index].append((label.structure, path))
                else:
                    self.plain[index].append(path)
        self._refuse_rival_images()
        self._place(waiting)
        self._grant()
        return self.pairs

    def _named_owners(self, label: CaseName) -> list[int]:
        if label.entities:
            candidates = [one for one in self.by_person[_person(label)] if _agree(label, self.images[one])]
        else:
            candidates = self.by_key.get(label.key, [])
        return [index for index in candidates if _is_of_contrast(label, self.images[index])]

    def _refuse_rival_images(self) -> None:
        """Refuse images that cannot be told apart where one map is claimed by them."""
        claims: dict[Path, list[int]] = defaultdict(list)
        for index, paths in self.plain.items():
            for path in paths:
                claims[path].append(index)
        for indices in claims.values():
            by_channel: dict[str, list[int]] = defaultdict(list)
            for index in indices:
                by_channel[self.images[index].channel].append(index)
            for rivals in by_channel.values():
                if len(rivals) > 1:
                    self.pairs.contested.update(dict.fromkeys(rivals, TWO_IMAGES.format(n=len(rivals))))

    def _place(self, waiting: Mapping[Path, CaseName]) -> None:
        """Give the remaining maps a place: masks in the folder of a case, or one map beside one image."""
        groups: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for path, label in waiting.items():
            groups[label.key if label.structure or label.entities else label.key[:-1]].append(path)
        owners = {parent: self._owners_of_folder(parent, paths) for parent, paths in groups.items()}
        known = set(totalsegmentator_schema().names)
        for parent, paths in groups.items():
            if owners[parent] and len(paths) > 1:
                known |= {_structure_name(waiting[path], parent) for path in paths}
        for parent, paths in groups.items():
            names = [_structure_name(waiting[path], parent) for path in paths]
            if owners[parent] and (len(paths) > 1 or names[0] in known):
                for index in owners[parent]:
                    self.masks[index] += zip(names, paths, strict=True)
            else:
                for path in paths:
                    self._stand_alone(path, waiting[path])

    def _owners_of_folder(self, parent: tuple[str, ...], paths: Sequence[Path]) -> list[int]:
        """Return the images of the case whose folder holds these maps."""
        if owners := self.by_key.get(parent):
            return owners
        inside = [index for index, image in enumerate(self.images) if image.key[: len(parent)] == parent]
        if len(inside) != 1 or self.images[inside[0]].is_listed:
            return []
        image = self.images[inside[0]]
        are_strange = any(speaks_of_another(self.labels[path], image, self.names) for path in paths)
        return [] if are_strange else inside

    def _stand_alone(self, path: Path, label: CaseName) -> None:
        """Climb from the map's folder to the first that holds an image; both must be alone there."""
        for depth in range(len(label.folders), -1, -1):
            folder = label.folders[:depth]
            inside = [index for index, image in enumerate(self.images) if image.folders[:depth] == folder]
            if not inside:
                continue
            maps = [other for other in self.labels.values() if other.folders[:depth] == folder]
            is_case_folder = depth > 0 or not label.folders
            image, is_taken = self.images[inside[0]], bool(self.plain[inside[0]] or self.masks[inside[0]])
            are_alone = len(inside) == len(maps) == 1
            if not are_alone or not is_case_folder or image.is_listed or is_taken:
                self.pairs.lost[path] = NO_IMAGE
            elif speaks_of_another(label, image, self.names):
                self.pairs.lost[path] = CONTRADICTS
            else:
                self.plain[inside[0]].append(path)
                self.pairs.alone.append(inside[0])
            return
        self.pairs.lost[path] = NO_IMAGE

    def _grant(self) -> None:
        for index in {**self.plain, **self.masks}:
            plain, masks = self.plain.get(index, []), self.masks.get(index, [])
            if index in self.pairs.contested:
                continue
            if plain and masks:
                self.pairs.contested[index] = MIXED
            elif len(plain) > 1:
                self.pairs.contested[index] = TWO_MAPS.format(n=len(plain))
            elif plain:
                self.pairs.labels[index] = plain[0]
            elif len({name.lower() for name, _ in masks}) < len(masks):
                self.pairs.contested[index] = TWINS
            elif masks:
                ordered = sorted(masks)
                self.pairs.labels[index] = MaskFolder(
                    names=tuple(name for name, _ in ordered), files=tuple(path for _, path in ordered)
                )


def _person(name: CaseName) -> tuple[str | None, str | None]:
    return name.entities.get("sub"), name.entities.get("ses")


def _agree(label: CaseName, image: CaseName) -> bool:
    """Tell whether a BIDS map can be an image's: one subject and session, and no entity that differs."""
    if not image.entities or _person(label) != _person(image):
        return False
    shared = (label.entities.keys() & image.entities.keys()) - {"desc", "seg", "atlas", "label", "res"}
    return all(label.entities[name] == image.entities[name] for name in shared)


def _is_of_contrast(label: CaseName, image: CaseName) -> bool:
    """Tell whether the map's name speaks of the image's contrast, or one of the two of none."""
    return not label.channel or not image.channel or label.channel == image.channel


def _structure_name(label: CaseName, parent: Iterable[str]) -> str:
    """Return a structure's name: what the file's name says beyond its case."""
    name = label.structure or "".join(label.key[-1:])
    for case in parent:
        if re.match(rf"{re.escape(case)}[-_. ]+[^-_. ]", name, re.IGNORECASE):
            name = name[len(case) :].strip("-_. ")
    return name


def _has_digit(name: str) -> bool:
    return any(character.isdigit() for character in name)


def _pattern(name: str) -> str:
    """Return a name with its numbers blotted out: names of one pattern are names of the same kind."""
    return re.sub(r"\d+", "#", name.lower())
