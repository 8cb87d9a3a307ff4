"""Names and colours of label values as the tools of the field write them."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from medldm.data.delimited_table import read_delimited_table
from medldm.data.issues import Issue
from medldm.data.labels import LabelSchema
from medldm.errors import ConfigError
from medldm.transforms.mgh import DATA_OFFSET, MGH

_MAX_TABLE_BYTES = 2**20
_PARAMETER_BYTES = 20
_MGH_BYTES = {0: 1, 1: 4, 3: 4, 4: 2, 10: 2}
_CARET_EXTENSION = 30
"""NIfTI extension code of Connectome Workbench's XML, which TotalSegmentator uses for its label names."""


def names_from_extension(path: Path) -> LabelSchema | None:
    """Return the label names that TotalSegmentator and Workbench write into a NIfTI header, None without.

    Source: NIfTI-1 extension code 30; `add_label_map_to_nifti` of TotalSegmentator 2.
    """
    try:
        image = nib.load(path)
    except (OSError, ValueError, nib.filebasedimages.ImageFileError):
        return None  # the reader of volumes says what is wrong with it
    for extension in getattr(image.header, "extensions", ()):
        # nibabel 5.3 gives the bytes as `content`, older ones through the method.
        content = getattr(extension, "content", None) or extension.get_content()
        text = content.encode() if isinstance(content, str) else bytes(content)
        if extension.get_code() == _CARET_EXTENSION and len(text) <= _MAX_TABLE_BYTES:
            return _from_xml(text.rstrip(b"\0"))
    return None


def _from_xml(text: bytes) -> LabelSchema | None:
    if b"<!ENTITY" in text or b"<!DOCTYPE" in text:
        return None
    try:
        labels = list(ElementTree.fromstring(text).iter("Label"))
    except ElementTree.ParseError:
        return None
    structures = {int(one.get("Key", 0)): (one.text or "").strip() for one in labels}
    colours = {}
    for one in labels:
        parts = [float(one.get(part, 0)) for part in ("Red", "Green", "Blue")]
        colours[int(one.get("Key", 0))] = "#" + "".join(f"{round(255 * min(part, 1)):02x}" for part in parts)
    return _schema(structures, colours)


def names_from_tsv(path: Path) -> LabelSchema | None:
    """Return the names of a BIDS dseg.tsv: columns "index", "name" and, if there, "color".

    Raises:
        ConfigError: for a table without these columns or with values that are no integers.

    Source: BIDS 1.10, derivatives, imaging data types, common image-derived labels.
    """
    table = read_delimited_table(path, name="the table of structures", wanted=["index"])
    if not {"index", "name"} <= set(table.columns):
        raise ConfigError(f'{path.name} has no columns "index" and "name"; a dseg.tsv of BIDS has both')
    rows = [row.cells for row in table.rows]
    try:
        structures = {int(row["index"]): row["name"] for row in rows}
    except ValueError:
        raise ConfigError(f"{path.name} has an index that is no integer") from None
    colours = {int(row["index"]): row.get("color", "").lower() for row in rows}
    return _schema(structures, colours)


def names_from_mgz(path: Path) -> LabelSchema | None:
    """Return the colour table that FreeSurfer embeds behind the voxels of an .mgz file, None without.

    Source: FreeSurfer mghio: after the voxels five float32 scan parameters, then tags; tag 1 is a colour
    table (`CTABreadFromBinary`), of version 2 where its first integer is -2.
    """
    try:
        with path.open("rb") as plain:
            is_packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_packed else path.open("rb") as file:
            header = np.frombuffer(file.read(DATA_OFFSET), dtype=MGH)[0]
            item_bytes = _MGH_BYTES[int(header["type"])]
            file.seek(DATA_OFFSET + item_bytes * int(np.prod(header["dims"], dtype=np.int64)))
            footer = file.read(_MAX_TABLE_BYTES)
    except (OSError, EOFError, ValueError, LookupError, zlib.error):
        return None  # the reader of volumes says what is wrong with it
    return _from_footer(footer[_PARAMETER_BYTES:])


def _from_footer(footer: bytes) -> LabelSchema | None:
    place = 0
    try:
        while place < len(footer):
            (tag,) = struct.unpack_from(">i", footer, place)
            place += 4
            if tag == 1:
                return _from_colour_table(footer, place)
            if tag == 0:
                return None
            (length,) = struct.unpack_from(">q", footer, place)
            place += 8 + length
    except (struct.error, UnicodeDecodeError):
        return None
    return None


def _from_colour_table(footer: bytes, place: int) -> LabelSchema | None:
    version, _, n_name = struct.unpack_from(">iii", footer, place)
    if version != -2:
        return None
    place += 12 + n_name
    (n_entries,) = struct.unpack_from(">i", footer, place)
    place += 4
    structures: dict[int, str] = {}
    colours: dict[int, str] = {}
    for _ in range(n_entries):
        value, n_name = struct.unpack_from(">ii", footer, place)
        place += 8
        structures[value] = footer[place : place + n_name].split(b"\0")[0].decode()
        place += n_name
        red, green, blue, _ = struct.unpack_from(">iiii", footer, place)
        place += 16
        colours[value] = f"#{red:02x}{green:02x}{blue:02x}"
    return _schema(structures, colours)


def schema_from_json(labels: Any) -> tuple[LabelSchema | None, list[str]]:
    """Read "labels" of a dataset.json, of nnU-Net 1 and MSD {"1": "liver"} or of nnU-Net 2 {"liver": 1}.

    Returns:
        The schema, and what must be said of it: regions, which are unions of values and no structures.
    """
    if not isinstance(labels, Mapping):
        return None, ['it has no "labels"; the structures are read from the label maps and numbered']
    remarks: list[str] = []
    if all(str(key).strip().isdigit() for key in labels):
        return _schema({int(key): str(name) for key, name in labels.items()}, {}), remarks
    structures: dict[int, str] = {}
    regions = [str(name) for name, value in labels.items() if isinstance(value, list) and len(value) > 1]
    for name, value in labels.items():
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, int) and value > 0 and str(name) != "ignore":
            structures[value] = str(name)
    if regions:
        values = {int(one) for value in labels.values() if isinstance(value, list) for one in value}
        structures |= {value: f"structure_{value}" for value in values if value and value not in structures}
        named = ", ".join(regions)
        remarks.append(f"{len(regions)} labels are regions of several values ({named}); the values are kept")
    if "ignore" in labels:
        remarks.append(
            f'its label "ignore" ({labels["ignore"]}) marks voxels that nobody labelled; a case with it '
            "is refused"
        )
    return _schema(structures, {}), remarks


def names_from_maps(files: Iterable[Path], *, root: Path) -> tuple[LabelSchema | None, list[Issue]]:
    """Join the names that label maps carry in themselves; None unless each of them carries some.

    Args:
        files: .nii, .nii.gz and .mgz are looked into.
        root: to which the names of files in issues are relative.
    """
    found: dict[str, LabelSchema] = {}
    for path in files:
        name = path.name.lower()
        schema = names_from_mgz(path) if name.endswith((".mgz", ".mgh")) else None
        if name.endswith((".nii", ".nii.gz")):
            schema = names_from_extension(path)
        if schema is None:
            return None, []
        found[path.relative_to(root).as_posix()] = schema
    return common_schema(found)


def common_schema(schemas: Mapping[str, LabelSchema]) -> tuple[LabelSchema | None, list[Issue]]:
    """Join the names that several files give; a value with two names is an error."""
    structures: dict[int, str] = {}
    colours: dict[int, str] = {}
    problems = []
    for file, schema in schemas.items():
        for value, name in schema.structures.items():
            if structures.setdefault(value, name) != name:
                message = f"it names {value} {name!r}, another file {structures[value]!r}; make them agree"
                problems.append(Issue.error("labels", file, message))
        colours = {**schema.colours, **colours}
    return _schema(structures, colours), problems


def _schema(structures: Mapping[int, str], colours: Mapping[int, str]) -> LabelSchema | None:
    """Make a schema of what a tool wrote: without 0, with names told apart, colours where they are right."""
    kept: dict[int, str] = {}
    for value, name in sorted(structures.items()):
        if value > 0:
            taken = kept.values()
            plain = name or f"structure_{value}"
            kept[value] = plain if plain not in taken else f"{plain}_{value}"
    known = {
        value: colour
        for value, colour in colours.items()
        if value in kept and re.fullmatch(r"#[0-9a-fA-F]{6}", colour)
    }
    return LabelSchema(structures=kept, colours=known) if kept else None
