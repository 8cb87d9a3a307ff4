"""Label schemas map file values to contiguous indices and refuse what is not declared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medldm.data.labels import LabelSchema, read_label_schema
from medldm.transforms import VoxelValueError

SCHEMA = LabelSchema(structures={52: "aorta", 1: "spleen", 5: "liver"}, colours={5: "#aa00FF"})


def test_values_become_contiguous_indices_in_increasing_order() -> None:
    labels = torch.tensor([[0.0, 52.0], [5.0, 1.0]])
    assert SCHEMA.index_map(labels).tolist() == [[0, 3], [2, 1]]
    assert SCHEMA.index_map(MetaTensor(labels)).dtype == torch.int64
    assert not isinstance(SCHEMA.index_map(MetaTensor(labels)), MetaTensor)
    assert SCHEMA.names == ("spleen", "liver", "aorta")


def test_indices_map_back_to_the_files_values() -> None:
    labels = np.random.default_rng(0).choice([0, 1, 5, 52], (4, 5, 6))
    np.testing.assert_array_equal(SCHEMA.value_map(SCHEMA.index_map(labels)).numpy(), labels)
    with pytest.raises(ValueError, match="run from 0 to 4"):
        SCHEMA.value_map(torch.tensor([0, 4]))


@pytest.mark.parametrize("values", [[2], [53], [-1], [0, 1, 51]])
def test_undeclared_values_are_refused_with_the_file(values: list[int]) -> None:
    with pytest.raises(VoxelValueError, match="not declared"):
        SCHEMA.index_map(torch.tensor(values))
    with pytest.raises(VoxelValueError, match=r"^a\.nii: label values .* 0 and 1, 5, 52 are"):
        SCHEMA.check(values, file="folder/a.nii")


@pytest.mark.parametrize(
    "content", [SCHEMA.to_dict(), {"0": "background", "1": "spleen", "5": "liver", "52": "aorta"}]
)
def test_schema_is_read_from_either_json_form(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(content))
    schema = read_label_schema(tmp_path / "labels.json")
    assert dict(schema.structures) == {1: "spleen", 5: "liver", 52: "aorta"}
    assert list(schema.structures) == [1, 5, 52]
    assert LabelSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json is no label schema"),
        ("[]", "an object such as"),
        ("{}", "at least one structure"),
        ('{"a": "x"}', "'a' is not an integer"),
        ('{"-1": "x"}', "must lie in 1 to"),
        ('{"1": ""}', "a text is needed"),
        ('{"1": "x", "2": "x"}', "more than one value"),
        ('{"1": {"name": "x", "color": "#ffffff"}}', "unknown keys"),
        ('{"1": {"name": "x", "colour": "red"}}', "#rrggbb"),
        ('{"1": "x", "mirror": ["x"]}', "pairs such as"),
        ('{"1": "x", "mirror": {"x": "y"}}', r"mirror names \['y'\], which are no structures"),
        ('{"1": "x", "2": "y", "3": "z", "mirror": {"x": "y", "z": "y"}}', "in one pair at most"),
    ],
)
def test_unsound_schema_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_label_schema(tmp_path / "labels.json")


def test_inferred_names_carry_the_value() -> None:
    assert dict(LabelSchema.inferred([0, 7, 3]).structures) == {3: "structure_3", 7: "structure_7"}


def test_pairs_given_in_the_file_take_the_place_of_those_found_by_name(tmp_path: Path) -> None:
    content = {"1": "left eye", "2": "right eye", "3": "lobe A", "4": "lobe B", "5": "nose"}
    found = LabelSchema.from_dict(content)
    assert found.mirror_values == {1: 2, 2: 1}
    assert "mirror" not in found.to_dict()
    given = LabelSchema.from_dict({**content, "mirror": {"lobe A": "lobe B", "lobe B": "lobe A"}})
    assert given.mirror_values == {3: 4, 4: 3}
    assert LabelSchema.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    assert LabelSchema.from_dict({**content, "mirror": {}}).mirror_values == {}
