"""What the names of files and folders say: image or label map, contrast, session, structure, BIDS entities.

The one place that knows. A name is read as words parted by "-", "_", "." and spaces, in upper or lower case.
What is left once the known words are gone names the case, and is compared to the letter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePath

from medldm.transforms.readers import volume_stem

_I = re.IGNORECASE
_LABEL_FOLDER = re.compile(
    r"(labels?|labelmaps?|segs?|segmentations?|masks?|annotations?|ground_?truths?|gt)(tr|ts)?", _I
)
_IMAGE_FOLDER = re.compile(
    r"(images?|imgs?|volumes?|scans?|anat|perf|nifti|dicom|rawdata|data|mri)(tr|ts)?", _I
)
_SPLIT_FOLDER = re.compile(r"(train(ing)?|val(id|idation)?|test(ing)?|derivatives?)([_-]?(set|data))?", _I)
_LIST_FOLDER = re.compile(r"(images|imgs?|volumes|scans|labels|labelmaps|annotations|gt)(tr|ts)?", _I)

_LABEL_WORD = re.compile(
    r"labels?|labelmaps?|segs?|segm|segmentations?|masks?|msk|dseg|aseg|aparc(\+aseg)?|gt|groundtruth|"
    r"annotations?",
    _I,
)
_IMAGE_WORD = re.compile(r"images?|imgs?|volume|vol|scan", _I)
_PROCESSED = re.compile(
    r"brain|bet|n4|preproc|preprocessed|registered|resampled|skullstripped|defaced|orig|raw|nu|norm", _I
)
_CONTRAST = re.compile(
    r"t1(n|w|c|ce|gd|post|pre|km|map|contrast)?|t2(w|f|s|star|flair|map)?|flair|pdw?|dwi|adc|hbv|swi|fa|"
    r"cta?|ctp|ctres|cbct|cbf|cbv|mtt|tmax|pet|suv|fdg|mri?|mp2?rage|bravo|dixon|inphase|outphase|dce",
    _I,
)
_MODIFIER = re.compile(r"ce|gd|post|pre|contrast|km|native|fs|fatsat|ax|axial|tra|sag|cor|weighted", _I)
_NOT_MEANT = re.compile(r"probseg|probabilit(y|ies)|xfm|warp|jacobian", _I)
_CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")
_GLUED = re.compile(r"(labels?|segs?|segmentation|masks?|image|img|volume|vol|scan)(\d+)", _I)
_STRUCTURE = re.compile(r"(.*?)[_.\-]?(?:seg|label|mask|roi)-([a-z]\w*(?:\+\w+)*)(_mask|_seg)?", _I)
_WORDS = re.compile(r"[^-_.\s]+")

_SUB = re.compile(r"sub-[A-Za-z0-9+]+")
_BIDS_STEM = re.compile(r"sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+.]+)*(_[A-Za-z0-9]+)*")
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9+.]+)")
_COUNTED = re.compile(r"synthetic|sample|case|subject|subj|patient|pat|scan|image|img|volume|vol", _I)
"""What is counted: "case_0001" is a case, not the second channel of one called "case"."""
_MOST_CHANNELS = 8
_MOST_CHANNELS_OF_ONE_NAME = 4
_DESCRIBING = ("desc", "seg", "atlas", "label", "res", "den", "from", "to", "mode", "space")
"""Entities that say how a file was made, not of which scan it is."""


@dataclass(frozen=True, kw_only=True)
class CaseName:
    """What a volume file's path says, relative to the folder that holds all.

    Args:
        folders: the folders that may name a case; those for images, label maps, splits and contrasts are
            gone.
        stem: what is left of the file's name; "" where it held nothing but known words.
        channel: contrast ("t1n", "t1-ce", "flair") or nnU-Net's number ("0000"); "" without one.
        is_label: whether the name, or its folder, says label map.
        structure: of a file "x_seg-liver" or "x_label-liver"; "" for other files.
        entities: of a BIDS name, such as {"sub": "01", "ses": "2"}; empty for other names.
        sub: "sub-01" where a folder or the file's name has that entity; "" where none has, "?" where they
            differ.
        is_listed: whether it lies in a folder such as images/ or labels/, where names say what belongs
            together.
    """

    folders: tuple[str, ...]
    stem: str
    channel: str = ""
    is_label: bool = False
    structure: str = ""
    entities: Mapping[str, str] = field(default_factory=dict)
    sub: str = ""
    is_listed: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """Return what an image and its label map share: folders and stem, where the stem adds to them."""
        if self.entities:
            kept = (pair for pair in self.entities.items() if pair[0] not in _DESCRIBING)
            return ("_".join(f"{name}-{value}" for name, value in kept),)
        is_repeated = bool(self.folders) and self.stem == self.folders[-1]
        return self.folders if is_repeated or not self.stem else (*self.folders, self.stem)


def read_name(path: PurePath | str) -> CaseName:
    """Read the path of a volume file, relative to the folder that holds all.

    Examples:
        >>> name = read_name("P01/P01-t1n.nii.gz")
        >>> name.key, name.channel, name.is_label
        (('P01',), 't1n', False)
        >>> read_name("labelsTr/case_7.nii.gz").key == read_name("imagesTr/case_7_0000.nii.gz").key
        True
        >>> read_name("x_seg-liver.nii.gz").structure
        'liver'
    """
    path = PurePath(path)
    parts, stem = path.parent.parts, file_stem(path)
    subs = {match.group() for text in (*parts, stem) for match in _SUB.finditer(text)}
    in_labels = any(_LABEL_FOLDER.fullmatch(part) for part in parts)
    common: dict[str, object] = {
        "folders": tuple(part for part in parts if not _says_nothing(part)),
        "sub": "?" if len(subs) > 1 else next(iter(subs), ""),
        "is_listed": any(_LIST_FOLDER.fullmatch(part) for part in parts),
    }
    if _BIDS_STEM.fullmatch(stem):
        name = _read_bids(stem)
        is_label = name.is_label or bool(parts and is_label_folder(parts[-1]))
        return replace(name, is_label=is_label, **common)  # type: ignore[arg-type]
    name = _read_stem(stem, is_label=in_labels)
    contrasts = [part.lower() for part in parts if _CONTRAST.fullmatch(part)]
    if contrasts and not name.channel and not name.is_label:
        name = replace(name, channel=contrasts[-1])
    return replace(name, **common)  # type: ignore[arg-type]


def read_names(paths: Iterable[PurePath]) -> dict[PurePath, CaseName]:
    """Read the names of a cohort's files together: whether "_0001" is a channel only all of them say."""
    names = {path: read_name(path) for path in paths}
    numbered = {path: name for path, name in names.items() if channel_number(file_stem(path))[1]}
    numbers: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for name in numbered.values():
        if name.channel.isdigit():
            numbers[name.key].add(int(name.channel))
    labels = {name.stem for name in names.values() if name.is_label}
    has_rivals = any(f"{name.stem}_{name.channel}" in labels for name in numbered.values())
    if not numbers or (_are_channels(numbers) and not has_rivals):
        return names
    for path, name in numbered.items():
        if name.channel.isdigit():
            names[path] = replace(name, stem=f"{name.stem}_{name.channel}", channel="")
    return names


def _are_channels(numbers: Mapping[tuple[str, ...], set[int]]) -> bool:
    """Tell nnU-Net's channels from numbered cases: they start at 0 and are few."""
    most = _MOST_CHANNELS_OF_ONE_NAME if len(numbers) == 1 else _MOST_CHANNELS
    are_few = all(max(found) < most for found in numbers.values())
    n_started = sum(0 in found for found in numbers.values())
    are_counted = all(key and _COUNTED.fullmatch(key[-1]) for key in numbers)
    return are_few and 2 * n_started > len(numbers) and not are_counted


def file_stem(path: PurePath | str) -> str:
    """Return a file's name without the suffix of a volume."""
    return volume_stem(str(path))


def is_not_meant(path: PurePath) -> bool:
    """Tell files that are neither image nor label map by their words: probabilities, transforms."""
    return any(_NOT_MEANT.fullmatch(word) for word in _WORDS.findall(file_stem(path)))


def is_known_contrast(name: str) -> bool:
    """Tell the field's words for contrasts, and nnU-Net's numbers, from words of a user's own."""
    words = re.split(r"[-_]", name)
    return all(_CONTRAST.fullmatch(w) or _MODIFIER.fullmatch(w) or re.fullmatch(r"\d{4}", w) for w in words)


def is_label_folder(name: str) -> bool:
    """Tell folders of label maps: labels, labelsTr, seg, segmentations, masks."""
    return bool(_LABEL_FOLDER.fullmatch(name))


def channel_number(stem: str) -> tuple[str, str]:
    """Part "case_7_0000" into ("case_7", "0000"); the second is "" without nnU-Net's ending."""
    match = _CHANNEL_NUMBER.fullmatch(stem)
    return (match.group(1), match.group(2)) if match else (stem, "")


def words_of(name: str) -> list[str]:
    """Return the words of a name."""
    return _WORDS.findall(name)


def _says_nothing(folder: str) -> bool:
    patterns = (_LABEL_FOLDER, _IMAGE_FOLDER, _SPLIT_FOLDER, _CONTRAST)
    return any(pattern.fullmatch(folder) for pattern in patterns)


def _read_bids(stem: str) -> CaseName:
    """Read "sub-01_ses-1_acq-x_T1w", or with a second suffix, "sub-01_T1w_dseg"."""
    entities: dict[str, str] = {}
    suffixes = []
    for word in stem.split("_"):
        match = _ENTITY.fullmatch(word)
        if match:
            entities[match.group(1)] = match.group(2)
        else:
            suffixes.append(word)
    label_words = [word for word in suffixes if _LABEL_WORD.fullmatch(word)]
    contrast = "_".join(word for word in suffixes if word not in label_words).lower()
    if label_words and not contrast and _CONTRAST.fullmatch(entities.get("space", "")):
        contrast = entities["space"].lower()
    structure = entities.get("label", "") if label_words else ""
    return CaseName(
        folders=(),
        stem=stem,
        channel=contrast,
        is_label=bool(label_words),
        structure=structure,
        entities=entities,
    )


@lru_cache(maxsize=65536)
def _read_stem(stem: str, *, is_label: bool) -> CaseName:
    """Take contrasts and words for label maps from a stem, and words for images from its ends."""
    structure = channel = ""
    if match := _STRUCTURE.fullmatch(stem):
        stem, structure, is_label = match.group(1), match.group(2), True
    elif not is_label:
        stem, channel = channel_number(stem)
    contrast: list[str] = []
    kept: list[tuple[str, str]] = []
    was_contrast = False
    for separator, word in re.findall(r"([-_.\s]*)([^-_.\s]+)", stem):
        was_contrast = bool(_CONTRAST.fullmatch(word) or (was_contrast and _MODIFIER.fullmatch(word)))
        if was_contrast:
            contrast.append(word.lower())
        elif _LABEL_WORD.fullmatch(word):
            is_label = True
        elif (glued := _GLUED.fullmatch(word)) and not kept:
            is_label = is_label or bool(_LABEL_WORD.fullmatch(glued.group(1)))
            kept.append((separator, glued.group(2)))
        else:
            kept.append((separator, word))
    while kept and (_IMAGE_WORD.fullmatch(kept[-1][1]) or _PROCESSED.fullmatch(kept[-1][1])):
        kept.pop()
    while kept and _IMAGE_WORD.fullmatch(kept[0][1]):
        kept.pop(0)
    left = "".join(separator + word for separator, word in kept)
    left = left[len(kept[0][0]) :] if kept else ""
    name = "-".join(contrast) or channel
    return CaseName(folders=(), stem=left, channel=name, is_label=is_label, structure=structure)
