"""Requests of an edit: structures by name or value, and one change said once."""

from __future__ import annotations

import pytest

from medldm.data.labels import LabelSchema
from medldm.editing.request import EditRequest, structure_value
from medldm.label_maps.changes import LabelChange

SCHEMA = LabelSchema(structures={1: "shell", 5: "core"})
FILES = {"image": "a.nii", "label": "b.nii"}


def test_a_structure_is_found_by_name_or_value() -> None:
    assert [structure_value(SCHEMA, part) for part in ("core", 5, "5")] == [5, 5, 5]
    assert structure_value(SCHEMA, "background", or_background=True) == 0
    assert structure_value(SCHEMA, 0, or_background=True) == 0
    with pytest.raises(ValueError, match="Unknown structure 'background'"):
        structure_value(SCHEMA, "background")


def test_names_become_the_values_of_the_schema() -> None:
    request = EditRequest(
        **FILES, operation="grow", structure="core", amount_mm=2, overwrite_structures=["shell"]
    )
    assert request.change(SCHEMA) == LabelChange(operation="grow", structure=5, amount_mm=2, overwrite=(1,))
    freed = EditRequest(**FILES, operation="remove", structure="5", fill="background")
    assert freed.change(SCHEMA) == LabelChange(operation="remove", structure=5, fill=0)
    assert EditRequest(**FILES, new_label="c.nii").change(SCHEMA) is None


def test_a_new_label_map_and_parts_of_an_operation_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"\['structure', 'amount_mm'\] belong to an operation"):
        EditRequest(**FILES, new_label="c.nii", structure="core", amount_mm=2)
