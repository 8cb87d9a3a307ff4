"""Rename and renumber the structures of label maps by a table or a preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medldm.data.delimited_table import describe_columns, read_delimited_table
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.data.preparation.presets import PRESETS
from medldm.errors import ConfigError
from medldm.transforms.errors import VoxelValueError

COLUMNS = ("from", "to", "name", "colour")


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """How the values of the source files become those of the cohort.

    Args:
        mapping: source value -> cohort value; 0 drops the structure. None keeps all values.
        names: cohort value -> name.
        colours: cohort value -> "#rrggbb".
        lines: source value -> line of the user's table; empty for a preset or a labels.json.
        by_name: name of a structure that comes as a mask, a segment or contours -> cohort value; 0 drops it.
        name_lines: such a name -> line of the user's table.
        mirror: pairs of structures that a labels.json gives, see `LabelSchema`.
        partly_labelled: structures of which absence says nothing, by a labels.json.

    Examples:
        >>> table = LabelTable(mapping={2: 1, 41: 1}, names={1: "white matter"})
        >>> table.apply(np.array([0, 2, 41])).tolist()
        [0, 1, 1]
    """

    mapping: Mapping[int, int] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, str] = field(default_factory=dict)
    lines: Mapping[int, int] = field(default_factory=dict)
    by_name: Mapping[str, int] = field(default_factory=dict)
    name_lines: Mapping[str, int] = field(default_factory=dict)
    mirror: Mapping[str, str] | None = None
    partly_labelled: tuple[str, ...] = ()

    def unused_lines(self, values: Iterable[int]) -> list[int]:
        """Return the lines of the user's table whose source value is none of those found in label maps."""
        found = set(values)
        return sorted(line for value, line in self.lines.items() if value and value not in found)

    def apply(self, labels: np.ndarray) -> np.ndarray:
        """Map the values of a label map.

        Args:
            labels: integers from 0, any shape.

        Returns:
            The smallest unsigned type that holds the result.

        Raises:
            VoxelValueError: for values without an entry.
        """
        values, inverse = np.unique(labels.astype(np.int64), return_inverse=True)
        if self.mapping is None:
            mapped = values
        else:
            known = dict(self.mapping) | {0: 0}
            if unknown := [int(value) for value in values if int(value) not in known]:
                shown = ", ".join(str(value) for value in unknown[:10])
                raise VoxelValueError(
                    f"label values {shown} have no entry in the label table; add them, with 0 to drop them"
                )
            mapped = np.array([known[int(value)] for value in values], dtype=np.int64)
        return mapped.astype(np.min_scalar_type(int(mapped.max())))[inverse].reshape(labels.shape)

    def schema(self, values: Iterable[int]) -> LabelSchema | None:
        """Return the schema of the values found; None without any."""
        found = sorted({int(value) for value in values} - {0})
        if not found:
            return None
        structures = {value: self.names.get(value, f"structure_{value}") for value in found}
        pairs = None
        if self.mirror is not None:
            names = set(structures.values())
            pairs = {one: other for one, other in self.mirror.items() if {one, other} <= names}
        return LabelSchema(
            structures=structures,
            colours={value: self.colours[value] for value in found if value in self.colours},
            mirror=pairs,
            partly_labelled=[name for name in self.partly_labelled if name in structures.values()],
        )


def read_label_table(source: str | Path | None) -> LabelTable:
    """Read a label table.

    Args:
        source: None keeps values and numbers the names; "totalsegmentator" or "freesurfer" names the
            structures of these tools; a table (tab, semicolon or comma) with the columns "from" and,
            if wanted, "to", "name" and "colour"; a labels.json. "from" is a value of label maps, or the name
            of a structure that comes as a mask, a segment or contours, which needs "to".

    Raises:
        ConfigError: for unknown presets, columns or values; the message names them.
    """
    if source is None:
        return LabelTable()
    if str(source).lower() in PRESETS:
        schema = PRESETS[str(source).lower()]()
        return _identity(schema)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"no label table of that name; give a file or one of {', '.join(PRESETS)}")
    if path.suffix.lower() == ".json":
        return _identity(read_label_schema(path))
    return _from_rows(path)


def _identity(schema: LabelSchema) -> LabelTable:
    return LabelTable(
        mapping={value: value for value in schema.values},
        names=schema.structures,
        colours=schema.colours,
        mirror=schema.mirror,
        partly_labelled=schema.may_be_unknown,
    )


def _from_rows(path: Path) -> LabelTable:
    mapping: dict[int, int] = {}
    lines: dict[int, int] = {}
    by_name: dict[str, int] = {}
    name_lines: dict[str, int] = {}
    names: dict[int, str] = {}
    colours: dict[int, str] = {}
    table = read_delimited_table(path, name="the label table", wanted=COLUMNS)
    if "from" not in table.columns or set(table.columns) - set(COLUMNS):
        raise ConfigError(
            'the columns of the label table must be "from" and, if wanted, "to", "name", "colour"; '
            + describe_columns(table.columns, wanted=COLUMNS)
        )
    for line, row in ((each.line, each.cells) for each in table.rows):
        name = row.get("name", "")
        if any(character.isalpha() for character in row["from"]):
            source_name, target = row["from"], _value_of(row.get("to"), line=line)
            if source_name in by_name:
                raise ConfigError(f"line {line} of the label table maps {source_name} a second time")
            by_name[source_name], name_lines[source_name] = target, line
            name = name or names.get(target, source_name)
        else:
            source = _value_of(row["from"], line=line)
            target = _value_of(row.get("to") or row["from"], line=line)
            if source in mapping:
                raise ConfigError(
                    f"line {line} of the label table maps {source} a second time, after line {lines[source]}"
                )
            mapping[source], lines[source] = target, line
        if target and name:
            if names.setdefault(target, name) != name:
                raise ConfigError(f"line {line} of the label table gives {target} a second name")
            if colour := row.get("colour"):
                colours[target] = colour
    return LabelTable(
        mapping=mapping, names=names, colours=colours, lines=lines, by_name=by_name, name_lines=name_lines
    )


def _value_of(text: str | None, *, line: int) -> int:
    try:
        value = int(str(text).strip())
    except ValueError:
        value = -1
    if not 0 <= value <= 2**24:
        raise ConfigError(f"line {line} of the label table holds no value from 0 to {2**24}")
    return value
