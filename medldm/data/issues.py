"""What a check of a cohort finds, and the one error that lists it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medldm.errors import MedldmError
from medldm.runtime.plain_names import show

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True, order=True)
class Issue:
    """One thing that is wrong or remarkable in a cohort.

    Args:
        severity: "error" stops a training, "warning" does not.
        check: short name of the check, such as "shape".
        file: name relative to the cohort's folder, or a subject or case identifier.
        message: value found, what is allowed, what to do.
    """

    severity: Severity
    check: str
    file: str
    message: str

    def __post_init__(self) -> None:
        # One line each, whatever stands in the names of files.
        for name in ("file", "message"):
            object.__setattr__(self, name, show(getattr(self, name)))

    @classmethod
    def error(cls, check: str, file: str, message: str) -> Issue:
        """Make an issue that stops a training."""
        return cls(severity="error", check=check, file=file, message=message)

    @classmethod
    def warning(cls, check: str, file: str, message: str) -> Issue:
        """Make an issue that does not."""
        return cls(severity="warning", check=check, file=file, message=message)


class CohortError(MedldmError, ValueError):
    """Report every problem of a cohort at once.

    Args:
        issues: at least one; the message lists each with its file.
    """

    def __init__(self, issues: Sequence[Issue]) -> None:
        self.issues = tuple(issues)
        lines = [f"  {issue.file}: {issue.message} [{issue.check}]" for issue in self.issues]
        noun = "problem" if len(lines) == 1 else "problems"
        super().__init__("\n".join([f"the cohort has {len(lines)} {noun}:", *lines]))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling."""
        return (type(self), (self.issues,))


def format_table(issues: Sequence[Issue]) -> str:
    """Lay issues out as one aligned text table, errors first."""
    rows = [("severity", "check", "file", "issue")]
    rows += [(item.severity, item.check, item.file, item.message) for item in sorted(issues)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    lines.insert(1, "-" * min(110, max(len(line) for line in lines)))
    return "\n".join(lines)
