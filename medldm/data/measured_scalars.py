"""Scalars that follow from a case's own files: volumes of its structures and its spacing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from medldm.data.case_checks import main_file
from medldm.data.cohort import Cohort
from medldm.data.file_info import FileInfo, inspect_header
from medldm.data.file_info_cache import gather_file_info
from medldm.data.labels import LabelSchema
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.errors import ConfigError

VOLUME_PREFIX = "volume_ml:"
SPACING = "spacing_mm"


def with_measured_scalars(cohort: Cohort) -> Cohort:
    """Add to each case's "scalars" the volume of each structure and the largest voxel edge.

    The names are "volume_ml:<structure>" and "spacing_mm"; a scalar that the cohort's list gives under such a
    name is kept.

    Args:
        cohort: that was found sound.
    """
    files = [(case["label"], True) for case in cohort.cases if "label" in case]
    file_info = gather_file_info(files, root=cohort.root)

    def extend(case: dict) -> dict:
        measured = {SPACING: float(inspect_header(main_file(case)).spacing.max())}
        if "label" in case and cohort.schema is not None:
            volumes = structure_volumes_ml(file_info[case["label"]], cohort.schema)
            # What nobody looked for has no volume, not one of 0 ml.
            known = case.get(STRUCTURES_IN_MAP, cohort.schema.names)
            measured |= {VOLUME_PREFIX + name: volumes[VOLUME_PREFIX + name] for name in known}
        return case | {"scalars": measured | dict(case.get("scalars", {}))}

    return cohort.map_cases(extend)


def structure_volumes_ml(info: FileInfo, schema: LabelSchema) -> dict[str, float]:
    """Return "volume_ml:<structure>" to its volume in ml, 0 where the map has none of it."""
    voxel_ml = float(info.spacing.prod()) / 1000.0
    counts = info.label_counts or {}
    return {
        f"{VOLUME_PREFIX}{name}": counts.get(value, 0) * voxel_ml for value, name in schema.structures.items()
    }


def deformed_scalars(
    scalars: Mapping[str, float], *, factor: float, mirrored: Mapping[str, str]
) -> dict[str, float]:
    """Return the scalars of a case whose volumes were deformed.

    Args:
        scalars: of the case as it is.
        factor: by which the volume of every structure grew.
        mirrored: structure -> structure whose place it took, both ways; {} where the case was not mirrored.
    """
    found = dict(scalars)
    for name, value in scalars.items():
        if name.startswith(VOLUME_PREFIX):
            structure = name.removeprefix(VOLUME_PREFIX)
            found[VOLUME_PREFIX + mirrored.get(structure, structure)] = value * factor
    return found


def outer_range(values: Iterable[float]) -> tuple[float, float]:
    """Return a range that holds all values, rounded outward to about 5 % of its width.

    The range goes into checkpoints: rounded, it does not repeat the values of the outermost subjects.

    Raises:
        ConfigError: if the values are all the same or there are none.
    """
    found = sorted(values)
    if not found or found[0] == found[-1]:
        raise ConfigError(f"{len(found)} values of a scalar that does not vary: leave the column out")
    step = 10.0 ** math.floor(math.log10(found[-1] - found[0])) / 10
    step *= next(factor for factor in (5, 2, 1) if factor * step <= (found[-1] - found[0]) / 10)
    low, high = math.floor(found[0] / step) * step, math.ceil(found[-1] / step) * step
    return float(f"{low:.12g}"), float(f"{high:.12g}")
