"""Gather the cases of an export: real and synthetic ones are told apart before anything is written."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.case_checks import image_files
from medldm.data.checks import require_sound
from medldm.data.cohort import Cohort, read_cohort
from medldm.data.export.options import ExportOptions
from medldm.data.file_info import FileInfo
from medldm.data.file_info_cache import gather_file_info
from medldm.data.labels import Code, LabelSchema
from medldm.data.listing import Case
from medldm.errors import ConfigError
from medldm.runtime.json_files import read_json
from medldm.transforms.readers import volume_suffix

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
_UNSAFE = re.compile(r"[/\\:*?\"<>|\x00-\x1f]+|^\.+")
HU_OF_AIR = -500.0


@dataclass(frozen=True, kw_only=True)
class ExportCase:
    """One case of an export.

    Args:
        id: its name in the export; a synthetic one's begins with "synthetic_".
        cohort_id: its name in the cohort.
        subject: as the cohort names it; a synthetic case is a subject of its own.
        split: "training", "validation" or "test"; synthetic cases are always for training.
        is_synthetic: whether a model made it.
        images: files in the order of the channels.
        label: its label map; None for an unlabelled case.
        shape: (I, J, K) voxels, in the axes of the files.
        affine: (4, 4) float64 of the first image, voxel index to RAS+ millimetres.
        minimum: the smallest voxel of the first image.
        label_hash: of the label map's voxels; "" without one.
        entry: "class", "classes", "scalars" and "text", where the cohort gives them.
        sidecar: how the volume was made; empty for a real one.
        has_condition_image: whether the cohort has a condition image for it, which no layout has a place for.
    """

    id: str
    cohort_id: str
    subject: str
    split: str
    is_synthetic: bool
    images: tuple[Path, ...]
    label: Path | None
    shape: tuple[int, int, int]
    affine: np.ndarray
    minimum: float
    label_hash: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict)
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    has_condition_image: bool = False

    @property
    def part(self) -> str:
        """Return how its folders end in nnU-Net and MSD: "Ts" for the test and without a map, else "Tr"."""
        return "Ts" if self.split == "test" or self.label is None else "Tr"


@dataclass(frozen=True, kw_only=True)
class ExportSet:
    """All cases of an export.

    Args:
        cases: the real ones first, then by name.
        schema: structures of all label maps; None without any.
        channels: names of the channels; () for one image without a name.
        modality: "CT" or "MR".
    """

    cases: tuple[ExportCase, ...]
    schema: LabelSchema | None
    channels: tuple[str, ...]
    modality: str

    @property
    def real(self) -> tuple[ExportCase, ...]:
        """Return the cases of real subjects."""
        return tuple(case for case in self.cases if not case.is_synthetic)

    @property
    def synthetic(self) -> tuple[ExportCase, ...]:
        """Return the cases that a model made."""
        return tuple(case for case in self.cases if case.is_synthetic)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return a name for each channel; that of the modality where the only one has none."""
        return self.channels or ({"CT": "CT", "MR": "MRI"}[self.modality],)

    def leaking(self) -> set[str]:
        """Return the ids of synthetic cases that stand on the label map of a real case that is held out."""
        held_out = {case.label_hash for case in self.real if case.split != "training"} - {""}
        return {case.id for case in self.synthetic if case.label_hash in held_out}


def gather_cases(
    cohort_dir: str | Path, *, synthetic: Sequence[str | Path], options: ExportOptions
) -> ExportSet:
    """Read the cohorts of an export and check them: lists, headers, and the values of their label maps.

    Args:
        cohort_dir: its cases are real, but for those whose sidecar or name says that they are synthetic.
        synthetic: further cohorts, all of whose cases are synthetic.
        options: see `ExportOptions`.

    Raises:
        CohortError: listing every file that is wrong.
        ConfigError: for cohorts that do not go together.
    """
    cohorts = [_read(path, options) for path in (cohort_dir, *synthetic)]
    channels = {cohort.channels for cohort in cohorts}
    if len(channels) > 1:
        raise ConfigError(
            f"the cohorts have the channels {sorted(channels)}; one export has one set of channels: choose "
            "them with channels"
        )
    cases = [case for place, cohort in enumerate(cohorts) for case in _cases_of(cohort, place > 0)]
    _require_names(cases)
    return ExportSet(
        cases=tuple(sorted(cases, key=lambda case: (case.is_synthetic, case.id))),
        schema=_join_schemas([cohort.schema for cohort in cohorts if cohort.schema is not None]),
        channels=channels.pop(),
        modality=options.modality or _sense_modality(cases),
    )


def _read(path: str | Path, options: ExportOptions) -> Cohort:
    cohort = read_cohort(
        path,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        seed=options.seed,
        require_labels=False,
        channels=options.channels or None,
    )
    for file in (file for case in cohort.cases for file in image_files(case)):
        if volume_suffix(file) == ".npy":
            raise ConfigError(
                f"{cohort.relative(file)} has no affine, and none can be invented: convert the cohort with "
                "`medldm prepare --spacing` first"
            )
    require_sound(cohort)
    return cohort


def _cases_of(cohort: Cohort, all_synthetic: bool) -> list[ExportCase]:
    files = [(image_files(case)[0], False) for case in cohort.cases]
    files += [(case["label"], True) for case in cohort.cases if "label" in case]
    info = gather_file_info(files, root=cohort.root)
    return [
        _case_of(
            case, split=split, sidecar=_read_sidecar(cohort, case), all_synthetic=all_synthetic, info=info
        )
        for split, cases in cohort.splits.items()
        for case in cases
    ]


def _case_of(
    case: Case,
    *,
    split: str,
    sidecar: Mapping[str, Any],
    all_synthetic: bool,
    info: Mapping[str, FileInfo],
) -> ExportCase:
    name = str(case["id"])
    is_synthetic = all_synthetic or bool(sidecar.get("synthetic")) or name.startswith(f"{SYNTHETIC}_")
    own = _UNSAFE.sub("_", name)
    if is_synthetic and not own.startswith(f"{SYNTHETIC}_"):
        own = f"{SYNTHETIC}_{own}"
    image = info[image_files(case)[0]]
    return ExportCase(
        id=own,
        cohort_id=name,
        subject=own if is_synthetic else str(case["subject"]),
        split="training" if is_synthetic else split,
        is_synthetic=is_synthetic,
        images=tuple(Path(file) for file in image_files(case)),
        label=Path(case["label"]) if "label" in case else None,
        shape=(image.shape[0], image.shape[1], image.shape[2]),
        affine=np.asarray(image.affine),
        minimum=float(image.minimum or 0.0),
        label_hash=info[case["label"]].content_hash if "label" in case else "",
        entry={key: case[key] for key in ("class", "classes", "scalars", "text") if key in case},
        sidecar=sidecar,
        has_condition_image="condition_image" in case,
    )


def _read_sidecar(cohort: Cohort, case: Case) -> Mapping[str, Any]:
    file = cohort.root / "sidecars" / f"{case['id']}.json"
    if not file.is_file():
        return {}
    try:
        content = read_json(file, name=f"sidecars/{file.name}")
    except ValueError as error:
        raise ConfigError(f"{error}, or remove it") from error
    return content if isinstance(content, Mapping) else {}


def _require_names(cases: Sequence[ExportCase]) -> None:
    """Refuse two cases of one name, also where only the case of letters differs."""
    counted = Counter(case.id.casefold() for case in cases)
    if repeated := sorted(name for name, count in counted.items() if count > 1):
        raise ConfigError(
            f"{len(repeated)} names stand for more than one case, such as {repeated[0]}; give the files of "
            "one cohort other names"
        )


def _join_schemas(schemas: Sequence[LabelSchema]) -> LabelSchema | None:
    """Join the structures of all cohorts; the first that gives a colour or a code decides it.

    Raises:
        ConfigError: where two of them mean different structures by one value.
    """
    names: dict[int, str] = {}
    colours: dict[int, str] = {}
    codes: dict[int, Code] = {}
    for schema in schemas:
        for value, name in schema.structures.items():
            if names.setdefault(value, name) != name:
                raise ConfigError(
                    f"label value {value} is {names[value]!r} in one cohort and {name!r} in another; correct "
                    "their labels.json"
                )
            if value in schema.colours:
                colours.setdefault(value, schema.colours[value])
            if value in schema.codes:
                codes.setdefault(value, schema.codes[value])
    return LabelSchema(structures=names, colours=colours, codes=codes) if names else None


def _sense_modality(cases: Sequence[ExportCase]) -> str:
    """Take CT where half of the images or more hold air in Hounsfield units, else MR."""
    lowest = [case.minimum for case in cases]
    modality = "CT" if lowest and float(np.median(lowest)) <= HU_OF_AIR else "MR"
    reason = "hold" if modality == "CT" else "do not hold"
    logger.info("modality %s: the images %s air in Hounsfield units; --modality sets it", modality, reason)
    return modality
