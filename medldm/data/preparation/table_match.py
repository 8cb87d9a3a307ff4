"""Hold the user's table of subjects against the sources found, and count what belongs to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medldm.data.delimited_table import show_lines
from medldm.data.preparation.source import Source
from medldm.data.preparation.table import SubjectRow, SubjectTable
from medldm.errors import ConfigError

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class TableMatch:
    """Which row belongs to which source.

    Args:
        rows: one of each source, in their order; an empty one, of line 0, where the table has none.
        unused_lines: rows that match no source.
        joined_lines: rows that match sources of several subjects.
        notes: of the table.
        is_given: whether the user gave a table.
    """

    rows: tuple[SubjectRow, ...]
    unused_lines: tuple[int, ...] = ()
    joined_lines: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    is_given: bool = True

    def problems(self, ids: Sequence[str]) -> list[str]:
        """Say what the table and the sources do not have in common.

        Args:
            ids: of the cases, in the order of the sources; identifiers of the outputs, which name nobody.
        """
        if not self.is_given:
            return []
        problems = []
        if lines := self.unused_lines:
            problems.append(
                f"{len(lines)} rows of the subject table match no case ({show_lines(lines)}); look for "
                "typing errors, or for cases that are missing"
            )
        without = [name for name, row in zip(ids, self.rows, strict=True) if not row.line]
        if without:
            shown = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
            problems.append(f"{len(without)} of {len(ids)} cases have no row in the subject table: {shown}")
        if lines := self.joined_lines:
            problems.append(
                f"{len(lines)} rows of the subject table match cases that were taken for several subjects "
                f"({show_lines(lines)}); each row's values are used for all of them"
            )
        return problems

    def require_complete(self, ids: Sequence[str]) -> None:
        """Refuse a table that leaves anything over.

        Raises:
            ConfigError: listing the lines and the cases.
        """
        if problems := self.problems(ids):
            raise ConfigError(
                "the subject table does not fit the input, and strict_table is set: " + "; ".join(problems)
            )


def match_table(table: SubjectTable, sources: Sequence[Source], *, is_given: bool = True) -> TableMatch:
    """Give each source its row."""
    rows = tuple(table.row_of(source.names) or SubjectRow() for source in sources)
    subjects: dict[int, set[str]] = {}
    for row, source in zip(rows, sources, strict=True):
        subjects.setdefault(row.line, set()).add(source.subject)
    lines = {row.line for row in table.rows.values()}
    return TableMatch(
        rows=rows,
        unused_lines=tuple(sorted(lines - subjects.keys())),
        joined_lines=tuple(sorted(line for line, names in subjects.items() if line and len(names) > 1)),
        notes=table.notes,
        is_given=is_given,
    )
