"""What a preparation made, refused and passed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medldm.data.preparation.files import CaseRecord
from medldm.data.preparation.private_list import HOW_TO_FIND, IN_LIST


@dataclass(frozen=True, kw_only=True)
class Refused:
    """One source that was not converted.

    Args:
        id: the case it would have become, or its ordinal.
        reason: what is wrong, the value found, what is allowed, what to do.
    """

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """The outcome of `prepare`.

    Args:
        cases: everything in the output, also from earlier runs.
        refused: sources that were not converted.
        passed_over: numbers of files and series that were not meant, by reason.
        n_subjects: in the output.
        n_validation: cases set aside.
        n_test: cases set aside that are to choose nothing.
        remarks: what was decided on the way and should be looked at: maps paired by place, absent structures.
        has_private_list: whether the user's own list of files was written.
        warnings: what of the user's tables was left over, and other remarks on the whole.
    """

    cases: tuple[CaseRecord, ...]
    refused: tuple[Refused, ...]
    passed_over: dict[str, int]
    n_subjects: int
    n_validation: int
    n_test: int = 0
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    has_private_list: bool = False

    @property
    def exit_code(self) -> int:
        """Return 0 where cases were made and none refused, else 1."""
        return 0 if self.cases and not self.refused else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, as in prepare.json."""
        names = ("id", "subject", "shape", "spacing_mm", "label_values", "notes")
        return {
            "cases": [{name: getattr(case, name) for name in names} for case in self.cases],
            "refused": [{"id": one.id, "reason": one.reason} for one in self.refused],
            "passed_over": self.passed_over,
            "remarks": list(self.remarks),
            "warnings": list(self.warnings),
        }

    def table(self) -> str:
        """Lay the outcome out as text, refusals last."""
        n_labelled = sum(case.has_label for case in self.cases)
        lines = [
            f"{len(self.cases)} cases of {self.n_subjects} subjects, {n_labelled} with a label map, "
            f"{self.n_validation} for validation, {self.n_test} for the test"
        ]
        for case in self.cases:
            size = " x ".join(str(size) for size in case.shape)
            spacing = " x ".join(f"{value:.3g}" for value in case.spacing_mm)
            lines.append(
                f"  {case.id}  {size} voxels  {spacing} mm" + "".join(f"; {note}" for note in case.notes)
            )
        if self.remarks:
            lines.append("remarks")
            lines += [f"  {remark}" for remark in self.remarks]
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.passed_over:
            lines.append("passed over")
            lines += [f"  {count} x {reason}" for reason, count in sorted(self.passed_over.items())]
        if self.refused:
            lines.append(f"{len(self.refused)} refused")
            lines += [f"  {one.id}: {one.reason}" for one in self.refused]
            lines.append(IN_LIST if self.has_private_list else HOW_TO_FIND)
        return "\n".join(lines)
