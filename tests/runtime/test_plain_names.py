"""Names that a terminal, a figure or a file cannot hold are refused where they enter, and shown escaped."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from pathlib import Path

import pytest

from medldm.cli.main import main
from medldm.data.cohort import read_cohort
from medldm.data.delimited_table import read_delimited_table
from medldm.data.issues import CohortError, Issue
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.errors import ConfigError
from medldm.runtime.endings import report_error
from medldm.runtime.plain_names import (
    MAX_NAME,
    ShowingFormatter,
    ShowingStream,
    check_plain_name,
    is_refused,
    name_problem,
    show,
)

HOSTILE = {
    "escape": "left\x1b[31m lung",
    "csi": "left\x9b31m lung",
    "bell": "lung\a",
    "carriage return": "lung\rOK: no problem",
    "line end": "lung\nerror: planted",
    "line separator": "lung\u2028planted",
    "next line": "lung\x85planted",
    "null": "lung\0",
    "delete": "lung\x7f",
    "backspace": "lung\b\b\b\bheart",
    "lone surrogate": "lung\udce9",
    "high surrogate": "lung\ud800",
    "turned": "lung\u202egnul",
    "isolated": "lung\u2066x\u2069",
    "byte order mark": "\ufefflung",
    "long": "a" * (MAX_NAME + 1),
    "blank": "  ",
}
PLAIN = [
    "left lung",
    r"a $\frac{ $ b",
    "Hippocampe gauche é",
    "海马体",
    "a_b-c.d+e",
    "c<d>&",
    "50 % 'x' \"y\"",
    "🫁",
]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_is_refused_and_shown_in_plain_characters(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"of structure 1 .*; rename it") as caught:
        check_plain_name(HOSTILE[kind], what="structure 1")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert not any(is_refused(each) for each in show(HOSTILE[kind]))


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_of_any_script_passes_as_it_is(name: str) -> None:
    assert check_plain_name(name, what="structure 1") == name
    assert show(name) == name
    assert LabelSchema(structures={1: name}).names == (name,)


def test_every_control_character_is_refused() -> None:
    for number in range(0x110000):
        each = chr(number)
        if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp"):
            assert name_problem(f"a{each}b") is not None, hex(number)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_structure_is_refused_when_its_schema_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"1": HOSTILE[kind]}))
    with pytest.raises(ConfigError, match=r"^labels\.json is no label schema"):
        read_label_schema(tmp_path / "labels.json")


def list_cases(folder: Path, **case: object) -> Path:
    entry = {"image": "images/case_0.nii.gz", "label": "labels/case_0.nii.gz", **case}
    (folder / "list.json").write_text(json.dumps({"training": [entry]}))
    return folder / "list.json"


@pytest.mark.parametrize(
    "key", ["id", "subject", "scalars", "classes", "category", "structures_in_map"]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["escape", "line end", "turned"])
def test_a_cohort_is_refused_for_names_of_its_list(make_cohort, key: str, kind: str) -> None:
    cohort, name = make_cohort(1), HOSTILE[kind]
    value = {"scalars": {name: 1.0}, "classes": {name: "a"}, "category": {"site": name}}.get(key, name)
    given = {"category": "classes"}.get(key, key)
    value = [name] if key == "structures_in_map" else value
    with pytest.raises((CohortError, ConfigError)) as caught:
        read_cohort(list_cases(cohort, **{given: value}), validation_fraction=0.0)
    assert not any(is_refused(each) for each in str(caught.value).replace("\n", ""))
    assert str(caught.value).count("planted") <= 2


def test_a_file_whose_name_obeys_nobody_is_refused_before_anything_is_read(make_cohort) -> None:
    cohort = make_cohort(1)
    for folder in ("images", "labels"):
        (cohort / folder / "case_0.nii.gz").rename(cohort / folder / "a\x1b]0;b\nc.nii.gz")
    with pytest.raises(CohortError, match=r"a\\x1b\]0;b\\nc: this name of a case holds the character U"):
        read_cohort(cohort, validation_fraction=0.0)


def test_a_column_of_a_table_is_refused_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('source,"age\x1b[2J"\na,1\n')
    with pytest.raises(ConfigError, match=r"the name of column 2 of the table holds the character U\+001B"):
        read_delimited_table(tmp_path / "t.csv", name="the table")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le"])
def test_a_table_in_another_encoding_is_refused_by_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("source,site\na,Zürich\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"the table t\.csv|of the table") as caught:
        read_delimited_table(tmp_path / "t.csv", name="the table")
    assert "rich" not in str(caught.value)


def test_latin_1_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"source,site\na,b\nc,Z\xfcrich\n")
    with pytest.raises(ConfigError, match=r"t\.csv cannot be read \(UnicodeDecodeError in line 3: the byte"):
        read_delimited_table(tmp_path / "t.csv", name="the table")


def test_what_a_terminal_shows_obeys_nobody(capsys) -> None:
    stream, text = io.StringIO(), "a\x1b[31m\u202e\udce9\tb\n"
    ShowingStream(stream).write(text)
    assert stream.getvalue() == "a\\x1b[31m\\u202e\\udce9\tb\n"
    record = logging.makeLogRecord({"msg": "%s", "args": ("x\x1b[2J",)})
    assert ShowingFormatter("%(message)s").format(record) == "x\\x1b[2J"
    report_error(ConfigError("x\x1b[2J"))
    report_error(RuntimeError("y\x1b[2J"))
    assert "\x1b" not in capsys.readouterr().err
    assert Issue.error("a", "x\ny", "z\x1b").file == "x\\ny"


def test_a_command_shows_the_names_of_files_escaped(make_cohort, capsys) -> None:
    cohort = make_cohort(1)
    (cohort / "images" / "x\x1b[2J\nsound.txt").touch()
    main(["check", str(cohort)])
    shown = "".join(capsys.readouterr())
    assert "\x1b" not in shown
    assert "x\\x1b[2J\\nsound.txt" in shown
