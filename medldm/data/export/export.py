"""Export a cohort, whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.data.cohort import LABELS_FILE
from medldm.data.export.bids import check_bids, write_bids
from medldm.data.export.cases import ExportSet, gather_cases
from medldm.data.export.dicom import check_dicom, write_dicom
from medldm.data.export.msd import check_msd, write_msd
from medldm.data.export.nnunet import check_nnunet, write_nnunet
from medldm.data.export.options import FORMATS, ExportOptions, require_choice
from medldm.data.export.slicer import check_slicer, write_slicer
from medldm.data.export.structures import consecutive_values, renumber
from medldm.data.preparation.files import write_json
from medldm.errors import ConfigError, OutputExistsError
from medldm.files import replaced_folder
from medldm.version import __version__

logger = logging.getLogger(__name__)

EXPORT_FILE = "export.json"

Check = Callable[[ExportSet, Path, ExportOptions], None]
Write = Callable[[ExportSet, Path, ExportOptions], list[str]]
LAYOUTS: dict[str, tuple[Check, Write]] = {
    "nnunet": (check_nnunet, write_nnunet),
    "msd": (check_msd, write_msd),
    "bids": (check_bids, write_bids),
    "slicer": (check_slicer, write_slicer),
    "dicom": (check_dicom, write_dicom),
}


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was exported.

    Args:
        output: the folder.
        n_real: cases of real subjects.
        n_synthetic: cases that a model made.
        notes: what is worth saying.
    """

    output: Path
    n_real: int
    n_synthetic: int
    notes: tuple[str, ...]

    def table(self) -> str:
        """Lay the result out as text."""
        counted = f"{self.n_real} real and {self.n_synthetic} synthetic cases in {self.output}"
        return "\n".join([counted, *(f"  {note}" for note in self.notes)])


def export_cohort(
    cohort_dir: str | Path,
    output_dir: str | Path,
    *,
    format: str,
    synthetic: Sequence[str | Path] = (),
    options: ExportOptions | None = None,
) -> ExportResult:
    """Write a cohort in the layout of another tool; voxels and affines are those of the cohort.

    Args:
        cohort_dir: whatever `read_cohort` reads. Cases whose sidecar says that a model made them, or whose
            name begins with "synthetic_", are kept apart from the real ones.
        output_dir: absent or empty, unless `options.overwrite` is set and an earlier export lies there.
        format: "nnunet", "msd", "bids", "slicer" or "dicom".
        synthetic: further cohorts, all of whose cases are synthetic.
        options: see `ExportOptions`.

    Returns:
        Counts and remarks, with `.table()`.

    Raises:
        CohortError: listing every file that is wrong.
        ConfigError: for what the layout cannot hold.
        OutputExistsError: for an output in use.
        MissingPackageError: where "dicom" lacks highdicom.

    Examples:
        >>> result = export_cohort("cohort", "Dataset042_Brain", format="nnunet")  # doctest: +SKIP
    """
    require_choice("format", format, FORMATS)
    options = options or ExportOptions()
    output = Path(output_dir).expanduser().resolve()
    _require_free(output, [cohort_dir, *synthetic], overwrite=options.overwrite)
    cases = gather_cases(cohort_dir, synthetic=synthetic, options=options)
    _require_apart(output, cases)
    check, write = LAYOUTS[format]
    check(cases, output, options)
    with replaced_folder(output) as folder:
        notes = [*write(cases, folder, options), *_left_out(cases)]
        write_json(folder / EXPORT_FILE, _describe(cases, format, notes))
        if cases.schema is not None:
            schema = renumber(cases.schema) if format == "nnunet" else cases.schema
            write_json(folder / LABELS_FILE, schema.to_dict())
    result = ExportResult(
        output=output, n_real=len(cases.real), n_synthetic=len(cases.synthetic), notes=tuple(notes)
    )
    logger.info("exported %d real and %d synthetic cases as %s", result.n_real, result.n_synthetic, format)
    return result


def _require_free(output: Path, inputs: Sequence[str | Path], *, overwrite: bool) -> None:
    """Refuse an output that overlaps an input or is in use, unless it is an earlier export to be replaced."""
    for path in (Path(each).expanduser().resolve() for each in inputs):
        if path.is_relative_to(output) or (path.is_dir() and output.is_relative_to(path)):
            raise ConfigError(
                f"the output {output.name} overlaps the cohort {path.name}: choose a folder beside it"
            )
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / EXPORT_FILE).is_file():
        raise OutputExistsError(f"{output} is in use, and not by an earlier export: choose another output")
    if not overwrite:
        raise OutputExistsError(f"{output} holds an earlier export: choose another output, or set overwrite")


def _require_apart(output: Path, cases: ExportSet) -> None:
    """Refuse an output that holds a file of the cohort, which a datalist may name from anywhere."""
    for case in cases.cases:
        for file in (*case.images, *([case.label] if case.label else [])):
            if file.resolve().is_relative_to(output):
                raise ConfigError(f"the output {output.name} holds {file.name} of the cohort: choose another")


def _left_out(cases: ExportSet) -> list[str]:
    """Say what of the cohort is not in the export."""
    n_images = sum(case.has_condition_image for case in cases.cases)
    return [f"the condition images of {n_images} cases are left out"] if n_images else []


def _describe(cases: ExportSet, format: str, notes: Sequence[str]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "format": format,
        "medldm": __version__,
        "modality": cases.modality,
        "channels": list(cases.channels),
        "notes": list(notes),
        "cases": [
            {
                "id": case.id,
                "cohort_id": case.cohort_id,
                "subject": case.subject,
                "split": case.split,
                "synthetic": case.is_synthetic,
                "labelled": case.label is not None,
            }
            | ({"conditions": dict(case.entry)} if case.entry else {})
            for case in cases.cases
        ],
        "sidecars": {case.id: dict(case.sidecar) for case in cases.cases if case.sidecar},
    }
    if format == "nnunet" and cases.schema is not None:
        numbers = consecutive_values(cases.schema)
        content["values"] = {str(numbers[value]): value for value in cases.schema.values}
    return content
