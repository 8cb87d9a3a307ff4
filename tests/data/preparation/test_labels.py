from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medldm.data.preparation.labels import read_label_table
from medldm.data.preparation.presets import freesurfer_schema, totalsegmentator_schema
from medldm.transforms.errors import VoxelValueError


def test_presets_name_known_structures() -> None:
    total, brain = totalsegmentator_schema(), freesurfer_schema()
    assert total.values == tuple(range(1, 118))
    known = {1: "spleen", 5: "liver", 25: "sacrum", 50: "vertebrae_C1", 52: "aorta", 90: "brain", 91: "skull"}
    assert {value: total.structures[value] for value in known} == known
    assert total.structures[117] == "costal_cartilages" and total.structures[115] == "rib_right_12"
    assert brain.structures[17] == "Left-Hippocampus" and brain.structures[53] == "Right-Hippocampus"
    assert brain.structures[2035] == "ctx-rh-insula" and brain.colours[17] == "#dcd814"
    assert brain.n_structures == 49 + 2 * 34


@pytest.mark.real_data
def test_preset_covers_a_real_totalsegmentator_file(real_data: Path) -> None:
    nib = pytest.importorskip("nibabel")
    labels = np.asarray(nib.load(real_data / "abdomen_ct" / "label.nii.gz").dataobj)
    table = read_label_table("totalsegmentator")
    np.testing.assert_array_equal(table.apply(labels), labels)


def test_table_merges_renumbers_and_drops(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_text("from\tto\tname\n2\t1\twhite\n41\t1\twhite\n3\t300\tgrey\n99\t0\t\n")
    table = read_label_table(path)
    mapped = table.apply(np.array([[0, 2], [41, 3], [99, 99]], dtype=np.float32))
    assert mapped.tolist() == [[0, 1], [1, 300], [0, 0]] and mapped.dtype == np.uint16
    schema = table.schema([1, 300, 0])
    assert schema is not None and schema.structures == {1: "white", 300: "grey"}


def test_value_without_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("from,to\n1,1\n")
    with pytest.raises(VoxelValueError, match="label values 7 have no entry"):
        read_label_table(tmp_path / "t.csv").apply(np.array([0, 1, 7]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "columns"),
        ("from,to\n-1,1\n", "line 2"),
        ("from,to\n1,1\n1,2\n", "second time"),
        ("from,to,name\n1,1,a\n2,1,b\n", "second name"),
    ],
)
def test_bad_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_label_table(tmp_path / "t.csv")


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ValueError, match="totalsegmentator, freesurfer"):
        read_label_table("brats")
