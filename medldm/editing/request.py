"""What a user asks of an edit: which files, and how the label map changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from medldm.configs import Config, unknown_name_message
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.label_maps.changes import LabelChange

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(kw_only=True)
class EditRequest(Config):
    """Say what is to be edited, and how its label map changes.

    Args:
        image: NIfTI file.
        label: its label map as it is, on the same grid.
        new_label: the label map as it is to be, on the same grid; or
        operation: "grow", "shrink", "remove" or "add" of one structure, see `LabelChange`.
        structure: name or value of the structure to change.
        amount_mm: see `LabelChange`, as for the other arguments.
        centre: of an added ball.
        overwrite_structures: names or values of the structures that may lose voxels.
        fill: name or value of what takes the place of voxels set free; "background" or 0 for none.
        name: of the files that are written.

    Raises:
        ValueError: if files are missing or the change is said twice or not at all.
    """

    image: str
    label: str
    new_label: str | None = None
    operation: Literal["grow", "shrink", "remove", "add"] | None = None
    structure: str | int | None = None
    amount_mm: float | None = None
    centre: tuple[float, ...] | None = None
    overwrite_structures: tuple[str | int, ...] = ()
    fill: str | int | None = None
    name: str = "edited"

    def __post_init__(self) -> None:
        for key in ("image", "label"):
            if not getattr(self, key):
                raise ConfigError(f"{key} is not set: give the file of the {key} to edit")
        super().__post_init__()
        if (self.new_label is None) == (self.operation is None):
            raise ConfigError(
                f"new_label is {self.new_label!r} and operation {self.operation!r}: give one of them"
            )
        parts = ("structure", "amount_mm", "centre", "overwrite_structures", "fill")
        given = [key for key in parts if getattr(self, key) not in (None, ())]
        if self.new_label is not None and given:
            raise ConfigError(f"{given} belong to an operation, but new_label is set: leave them out")
        if self.operation is not None and self.structure is None:
            raise ConfigError(f"operation is {self.operation!r}, but no structure is named: set structure")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name is {self.name!r}: letters, digits, '_', '-' and '.' make a file's name")

    def change(self, schema: LabelSchema) -> LabelChange | None:
        """Return the change in the values of a schema; None for a new label map.

        Raises:
            ValueError: if a structure is unknown; the nearest known name is suggested.
        """
        if self.operation is None or self.structure is None:
            return None
        return LabelChange(
            operation=self.operation,
            structure=structure_value(schema, self.structure),
            amount_mm=self.amount_mm,
            centre=self.centre,
            overwrite=tuple(structure_value(schema, part) for part in self.overwrite_structures),
            fill=None if self.fill is None else structure_value(schema, self.fill, or_background=True),
        )


def structure_value(schema: LabelSchema, structure: str | int, *, or_background: bool = False) -> int:
    """Return the value of a structure given by name or value.

    Raises:
        ConfigError: if the schema has none such.
    """
    known = {name: value for value, name in schema.structures.items()}
    if or_background:
        known["background"] = 0
    values = {str(value): value for value in known.values()}
    found = known.get(str(structure), values.get(str(structure)))
    if found is None:
        listed = [f"{name} ({value})" for name, value in known.items()]
        raise ConfigError(unknown_name_message(str(structure), listed, kind="structure"))
    return found
