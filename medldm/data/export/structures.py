"""The structures of an export: consecutive values, colours as numbers, plain names."""

from __future__ import annotations

import colorsys
import re
import unicodedata

from medldm.data.labels import LabelSchema


def consecutive_values(schema: LabelSchema) -> dict[int, int]:
    """Return value -> 1..K in the order of the values."""
    return {value: number for number, value in enumerate(schema.values, start=1)}


def renumber(schema: LabelSchema) -> LabelSchema:
    """Return the same structures with the values 1..K."""
    numbers = consecutive_values(schema)
    return LabelSchema(
        structures={numbers[value]: name for value, name in schema.structures.items()},
        colours={numbers[value]: colour for value, colour in schema.colours.items()},
        codes={numbers[value]: code for value, code in schema.codes.items()},
        mirror=schema.mirror,
        partly_labelled=schema.may_be_unknown,
    )


def has_consecutive_values(schema: LabelSchema) -> bool:
    """Tell whether the values are 1..K."""
    return schema.values == tuple(range(1, schema.n_structures + 1))


def colour_of(schema: LabelSchema, value: int) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, of a structure: its colour, else one far from others'."""
    if value in schema.colours:
        text = schema.colours[value]
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    red, green, blue = colorsys.hsv_to_rgb(schema.values.index(value) * 0.618034 % 1, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def hex_colour(schema: LabelSchema, value: int) -> str:
    """Return the same as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(schema, value))


def plain_name(text: str, *, keep: str = "._-", gap: str = "_") -> str:
    """Return a name of ASCII letters, digits and the characters of `keep`; others become `gap`.

    Examples:
        >>> plain_name("Große Niere (links)")
        'Grosse_Niere_links'
        >>> plain_name("sub-01_T1", keep="", gap="")
        'sub01T1'
    """
    text = text.replace("ß", "ss")
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", gap, ascii_text).strip(gap or None)
