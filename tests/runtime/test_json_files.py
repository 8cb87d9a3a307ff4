"""JSON of others: doubled keys, endless nesting, half characters: every reader refuses and names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medldm.data.channels import read_channels_file
from medldm.data.cohort import read_cohort
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema, read_label_schema
from medldm.errors import ConfigError, MedldmError
from medldm.generation.requests import GenerationDataset
from medldm.latent_diffusion.foreign_weights import read_arguments
from medldm.runtime.json_files import MAX_DEPTH, JsonError, parse_json, read_json
from medldm.sharing.figures import read_report
from medldm.sharing.shipped import Bundle

DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = {
    "deep": DEEP,
    "deep in a mapping": '{"a": ' * 3000 + "1" + "}" * 3000,
    "just too deep": "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "doubled": '{"1": "a", "1": "b"}',
    "doubled inside": '{"1": {"name": "a", "name": "b"}}',
    "surrogate": '{"1": "a\\ud800"}',
    "surrogate in a key": '{"\\udce9": 1}',
    "latin-1": b'{"1": "Z\xfcrich"}',
    "cut off": '{"1": "a"',
    "empty": "",
}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def channels(folder: Path) -> None:
    issues: list[Issue] = []
    read_channels_file(folder, issues=issues)
    raise ConfigError(" ".join(f"{each.file} {each.message}" for each in issues))


def conditions(folder: Path) -> None:
    GenerationDataset(num_samples=1, conditions=str(folder / "c.json"))


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "labels": ("labels.json", lambda folder: read_label_schema(folder / "labels.json")),
    "cohort": ("cohort.json", lambda folder: read_cohort(folder)),
    "channels": ("channels.json", channels),
    "conditions": (
        "c.json",
        lambda folder: GenerationDataset(num_samples=1, conditions=str(folder / "c.json")),
    ),
    "arguments": ("a.json", lambda folder: read_arguments(folder / "a.json")),
    "metadata": ("configs/metadata.json", lambda folder: Bundle(folder).metadata()),
    "figures": ("report.json", lambda folder: read_report(folder / "report.json", weights_sha256="")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_every_reader_refuses_it_and_names_the_file(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = READERS[reader]
    write(tmp_path / name, HOSTILE[kind])
    with pytest.raises(MedldmError) as caught:
        read(tmp_path)
    assert Path(name).name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_json_may_hold_is_read(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, True, "é \U0001fac1"], "deep": json.loads("[" * 60 + "]" * 60)}
    assert read_json(write(tmp_path / "a.json", json.dumps(content))) == content
    assert parse_json(json.dumps(content, ensure_ascii=False), name="a") == content
    assert parse_json("\ufeff[1]".encode(), name="a") == [1]
    many = json.dumps([{"x": [1]}] * 1000)
    assert len(parse_json(many, name="a")) == 1000


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse_json(json.dumps({"a": "[" * 1000}), name="a") == {"a": "[" * 1000}
    with pytest.raises(JsonError, match="it is nested deeper than 64"):
        parse_json(HOSTILE["just too deep"], name="a")


@pytest.mark.parametrize("key", ["01", " 1", "1 ", "+1", "1_0", "１", "1.0", "00", "0x1", "-1", "1e1", ""])
def test_a_label_value_is_written_in_one_way(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "labels.json", json.dumps({key: "a", "10": "b"}))
    with pytest.raises(ConfigError, match=r"^labels\.json is no label schema: label value"):
        read_label_schema(path)


def test_a_value_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        LabelSchema(structures={1: "a", "1": "b"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="twice"):
        LabelSchema.from_dict({1: "a", "1": "b"})  # type: ignore[dict-item]
    assert LabelSchema.from_dict({"0": "background", "7": "a"}).values == (7,)
