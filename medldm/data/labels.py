"""Label schemas: which structure each value of a label map stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.data.mirror import check_pairs, find_pairs
from medldm.data.partly_labelled import PARTLY_LABELLED, read_partly_labelled
from medldm.errors import ConfigError
from medldm.runtime.json_files import read_json
from medldm.runtime.plain_names import check_plain_name, show
from medldm.transforms.errors import VoxelValueError

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_VALUE = re.compile(r"-?(?:0|[1-9][0-9]{0,11})")
_MIRROR = "mirror"


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a structure is in a terminology.

    Args:
        scheme: of the terminology, such as "SCT" for SNOMED CT (up to 16 characters).
        value: of the concept, such as "10200004" (up to 16 characters).
        meaning: in words, such as "Liver" (up to 64 characters).

    Source: DICOM PS3.3 8.8, the code sequence macro.
    """

    scheme: str
    value: str
    meaning: str

    def __post_init__(self) -> None:
        for name, most in (("scheme", 16), ("value", 16), ("meaning", 64)):
            text = getattr(self, name)
            if not isinstance(text, str) or not 0 < len(text.strip()) <= most or set(text) & set("\\~^|"):
                raise ConfigError(
                    f"the {name} of a code is {text!r}; a text of 1 to {most} characters without "
                    "\\ ~ ^ | is needed"
                )

    @classmethod
    def from_dict(cls, values: Any) -> Code:
        """Rebuild from {"scheme": "SCT", "value": "10200004", "meaning": "Liver"}."""
        if not isinstance(values, Mapping) or set(values) != {"scheme", "value", "meaning"}:
            raise ConfigError(
                f'the code {values!r} is not of the form {{"scheme": "SCT", "value": "10200004", '
                '"meaning": "Liver"}'
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class LabelSchema:
    """The structures of a cohort's label maps.

    Args:
        structures: value in the files (over 0) -> name; 0 is background and is not listed.
        colours: value -> "#rrggbb", for pictures; may be empty or cover some values only.
        codes: value -> what it is in a terminology, for exports; may be empty or cover some values only.
        mirror: name -> name of the structure on the other side, one entry for a pair; None finds pairs by
            "left" and "right" in the names, see `medldm.data.mirror`.
        partly_labelled: structures that may not have been looked for where a map lacks them, see
            `medldm.data.partly_labelled`; True for all.

    Examples:
        >>> schema = LabelSchema(structures={1: "anterior", 5: "posterior"})
        >>> schema.index_map(np.array([0, 5, 1])).tolist()
        [0, 2, 1]
        >>> LabelSchema(structures={3: "right parotid", 4: "left parotid", 6: "larynx"}).mirror_values
        {3: 4, 4: 3}
    """

    structures: Mapping[int, str]
    colours: Mapping[int, str] = field(default_factory=dict)
    codes: Mapping[int, Code] = field(default_factory=dict)
    mirror: Mapping[str, str] | None = None
    partly_labelled: Sequence[str] | bool = ()

    def __post_init__(self) -> None:
        structures = {_as_value(value): _as_name(name, value) for value, name in self.structures.items()}
        if len(structures) < len(self.structures):
            raise ConfigError(
                f"label values {sorted(map(str, self.structures))} name one value twice; keep one"
            )
        if not structures:
            raise ConfigError("a label schema needs at least one structure, such as {1: 'hippocampus'}")
        names = list(structures.values())
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"structure names {repeated} stand for more than one value; give each value its own"
            )
        colours = {_as_value(value): str(colour) for value, colour in self.colours.items()}
        for value, colour in colours.items():
            if value not in structures or not _COLOUR.fullmatch(colour):
                raise ConfigError(
                    f"colour {colour!r} of value {value}: '#rrggbb' of a listed structure is needed"
                )
        object.__setattr__(self, "structures", dict(sorted(structures.items())))
        codes = {_as_value(value): code for value, code in self.codes.items()}
        if unknown := sorted(set(codes) - set(structures)):
            raise ConfigError(f"codes are given for the values {unknown}, which name no structure")
        object.__setattr__(self, "colours", dict(sorted(colours.items())))
        object.__setattr__(self, "codes", dict(sorted(codes.items())))
        if self.mirror is not None:
            object.__setattr__(self, _MIRROR, check_pairs(self.mirror, names))
        partly = read_partly_labelled(self.partly_labelled, tuple(self.structures.values()))
        object.__setattr__(self, PARTLY_LABELLED, partly)

    @property
    def mirror_pairs(self) -> dict[str, str]:
        """Return name -> name of the structures that change places in a mirror image, each pair once."""
        return find_pairs(self.names) if self.mirror is None else dict(self.mirror)

    @property
    def mirror_values(self) -> dict[int, int]:
        """Return value -> value for every structure that changes places in a mirror image."""
        value_of = {name: value for value, name in self.structures.items()}
        pairs = [(value_of[one], value_of[other]) for one, other in self.mirror_pairs.items()]
        return dict(sorted([*pairs, *((other, one) for one, other in pairs)]))

    @property
    def may_be_unknown(self) -> tuple[str, ...]:
        """Return the names of the structures of which absence from a map says nothing."""
        return read_partly_labelled(self.partly_labelled, self.names)

    @property
    def values(self) -> tuple[int, ...]:
        """Return the structures' file values in increasing order, without background."""
        return tuple(self.structures)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the structures' names in the order of `values`."""
        return tuple(self.structures.values())

    @property
    def n_structures(self) -> int:
        """Return K, the number of structures without background."""
        return len(self.structures)

    def index_map(self, labels: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Map file values to contiguous indices, 0 background, 1..K in the order of `values`.

        Args:
            labels: any shape, integers in any dtype.

        Returns:
            int64, the same shape.

        Raises:
            VoxelValueError: for values outside the schema.
        """
        tensor = torch.as_tensor(labels).to(torch.int64)
        tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
        known = torch.tensor([0, *self.values], dtype=torch.int64, device=tensor.device)
        index = torch.searchsorted(known, tensor).clamp_(max=len(known) - 1)
        if not torch.equal(known[index], tensor):
            self.check(torch.unique(tensor))
        return index

    def value_map(self, indices: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Map contiguous indices 0..K back to file values, int64."""
        tensor = torch.as_tensor(indices).to(torch.int64)
        if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) <= self.n_structures:
            raise ValueError(
                f"indices run from {int(tensor.min())} to {int(tensor.max())}; 0 to {self.n_structures}"
            )
        return torch.tensor([0, *self.values], dtype=torch.int64, device=tensor.device)[tensor]

    def unknown_values(self, volume_values: Any) -> tuple[int, ...]:
        """Return the values that are neither 0 nor a structure."""
        return tuple(sorted({int(value) for value in volume_values} - {0, *self.values}))

    def check(self, volume_values: Any, file: str | Path | None = None) -> None:
        """Refuse values that are not declared.

        Args:
            volume_values: the distinct values of a label map.
            file: named in the error.

        Raises:
            VoxelValueError: naming the values.
        """
        if unknown := self.unknown_values(volume_values):
            raise VoxelValueError(unknown_values_reason(unknown, self), file=file)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, {"1": {"name": ..., "colour": ...}}; also the form of labels.json.

        Pairs that were given stand under "mirror", structures of which absence says nothing under
        "partly_labelled".
        """
        structures: dict[str, Any] = {
            str(value): {"name": name}
            | ({"colour": self.colours[value]} if value in self.colours else {})
            | ({"code": asdict(self.codes[value])} if value in self.codes else {})
            for value, name in self.structures.items()
        }
        structures |= {} if self.mirror is None else {_MIRROR: dict(self.mirror)}
        return structures | ({PARTLY_LABELLED: list(self.may_be_unknown)} if self.may_be_unknown else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LabelSchema:
        """Rebuild from `to_dict`, or from the short form {"1": "name"}; an entry for 0 is passed over."""
        values = dict(values)
        mirror = values.pop(_MIRROR, None)
        partly_labelled = values.pop(PARTLY_LABELLED, ())
        structures: dict[int, str] = {}
        colours: dict[int, str] = {}
        codes: dict[int, Code] = {}
        for key, entry in values.items():
            if str(key) == "0":
                continue
            value = _as_value(key)
            if value in structures:
                raise ConfigError(f"label value {value} is there twice; keep one")
            if not isinstance(entry, Mapping):
                structures[value] = entry
                continue
            if unknown := sorted(set(entry) - {"name", "colour", "code"}):
                raise ConfigError(
                    f"structure {value} has unknown keys {unknown}; known are 'name', 'colour' and 'code'"
                )
            structures[value] = entry.get("name", "")
            if "colour" in entry:
                colours[value] = entry["colour"]
            if "code" in entry:
                codes[value] = Code.from_dict(entry["code"])
        return cls(
            structures=structures,
            colours=colours,
            codes=codes,
            mirror=mirror,
            partly_labelled=partly_labelled,
        )

    @classmethod
    def inferred(cls, values: Any) -> LabelSchema:
        """Make a schema from values found in files; names become "structure_<value>"."""
        return cls(structures={int(value): f"structure_{int(value)}" for value in values if int(value) != 0})


def read_label_schema(path: str | Path) -> LabelSchema:
    """Read labels.json.

    Raises:
        ConfigError: where it is not JSON or not a schema; the message names the file.
    """
    path = Path(path)
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ConfigError('an object such as {"1": "hippocampus"} is needed')
        return LabelSchema.from_dict(content)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path.name} is no label schema: {error}") from error


def unknown_values_reason(unknown: tuple[int, ...], schema: LabelSchema) -> str:
    """Say which label values are not declared and what to do."""
    shown = ", ".join(str(value) for value in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
    allowed = ", ".join(str(value) for value in schema.values[:20]) + (
        ", ..." if schema.n_structures > 20 else ""
    )
    return f"label values {shown} are not declared; 0 and {allowed} are; add them to labels.json or remap"


def _as_value(value: object) -> int:
    text = str(value)
    # One way to write a number: else "1" and "01" are two entries for one value, and one wins in silence.
    if not _VALUE.fullmatch(text):
        is_number = text.strip().lstrip("+-").isdigit()
        hint = "; write it in plain digits, without zeros, signs or blanks before it" if is_number else ""
        raise ConfigError(f"label value {show(text[:40])!r} is not an integer{hint}")
    number = int(text)
    if not 0 < number <= 2**24:
        raise ConfigError(f"label value {number} must lie in 1 to {2**24}; 0 is the background")
    return number


def _as_name(name: object, value: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"structure {value} has the name {name!r}; a text is needed")
    return check_plain_name(name.strip(), what=f"structure {value}")
