from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from medldm.data.preparation.labels import LabelTable, read_label_table
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.data.preparation.structures import merge_structures, structure_values
from tests.data.dicom.dicom_cases import save
from tests.data.dicom.label_cases import make_segmentation, make_series, on_grid, random_masks
from tests.data.preparation.test_prepare_dicom_labels import label_of, names_of


def write_table(folder: Path, *rows: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(("from,to,name", *rows)))
    return path


def test_rows_by_name_rename_join_and_drop_structures(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, "GTV-1,1,tumour", "gross tumour,1,", "BODY,0,", "5,7,x"))
    assert (table.by_name, table.mapping) == ({"GTV-1": 1, "gross tumour": 1, "BODY": 0}, {5: 7})
    assert table.names == {1: "tumour", 7: "x"}
    assert structure_values(["gtv_1", "Gross Tumour", "body"], table) == {
        "gtv_1": 1,
        "Gross Tumour": 1,
        "body": 0,
    }
    with pytest.raises(ValueError, match="names no structure liver; add a row for each, with 0 to drop it"):
        structure_values(["liver"], table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("liver,,",), "line 2 of the label table holds no value"),
        (("liver,1,", "liver,2,"), "line 3 of the label table maps liver a second time"),
        (("liver,1,a", "hepar,1,b"), "line 3 of the label table gives 1 a second name"),
    ],
)
def test_rows_by_name_are_checked(rows: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_label_table(write_table(tmp_path, *rows))


def test_names_that_differ_in_case_and_separators_are_one_structure() -> None:
    values = structure_values(["left kidney", "Left_Kidney", "liver"], LabelTable())
    assert values["left kidney"] == values["Left_Kidney"] != values["liver"]
    assert set(values.values()) == {1, 2}


def test_dropped_structure_may_overlap_all_others() -> None:
    masks = {"body": np.ones((3, 3, 3), dtype=bool), "liver": np.zeros((3, 3, 3), dtype=bool)}
    masks["liver"][1] = True
    merged = merge_structures(masks, ("body", "liver"), shape=(3, 3, 3), values={"body": 0, "liver": 4})
    np.testing.assert_array_equal(merged, 4 * masks["liver"])


def test_segments_are_renamed_by_the_table_and_unused_rows_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices, masks = make_series(tmp_path / "in"), random_masks()
    save([make_segmentation(slices, masks)], tmp_path / "in", prefix="SEG")
    table = write_table(tmp_path, "Liver,3,hepar", "left kidney,0,", "spleen,4,")
    options = PrepareOptions(key_file=tmp_path / "key", labels=table, workers=1, progress=False)
    with caplog.at_level(logging.WARNING):
        result = prepare(tmp_path / "in", tmp_path / "out", options=options)
    assert result.exit_code == 0, result.table()
    assert names_of(tmp_path / "out") == {3: "hepar"}
    np.testing.assert_array_equal(label_of(tmp_path / "out"), 3 * on_grid(masks[0])[0])
    assert "1 rows of the label table name structures that no case has (line 4)" in caplog.text
