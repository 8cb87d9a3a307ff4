"""Columns of a table that say who somebody is, not what a case is like: told by their names and values."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORDS = re.compile(
    r"mrn|pid|uid|guid|uuid|ids?|nr|no|num|number|dob|dod|birth|birthdate|birthday|birthyear|born|death|deceased"
    r"|date|datum|day|month|time|datetime|timestamp|visit|admission|discharge|accession|ssn|nhs|nin|insurance"
    r"|policy|phone|telephone|tel|mobile|fax|e?mail|zip|zipcode|postcode|postal|plz|address|street|city|names?"
    r"|surname|forename|lastname|firstname|fullname|initials|passport|licen[cs]e|account|record|hospital"
    r"|physician|doctor|url|ip|serial"
)
_PARTS = re.compile(
    r"birth|geburt|naissance|nacimiento|nascita|patientid|patientnu|patientnr|patnr|patid|medicalrecord|socialsec"
    r"|versicher|fallnummer"
)
LARGE = 10_000
"""Whole numbers from here on that differ in every row look like record numbers or dates."""
MANY = 20
"""Rows from which on whole numbers or categories that differ in every row look like a numbering or names."""


def is_identifying_name(name: str) -> bool:
    """Say whether the name of a column says that it names people, dates of their lives or where they live.

    Examples:
        >>> [is_identifying_name(name) for name in ("MRN", "birthDate", "patient_id", "age", "weight_kg")]
        [True, True, True, False, False]

    Source: the 18 identifiers of 45 CFR 164.514(b)(2) (HIPAA, safe harbor).
    """
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    words = re.findall(r"[^\W\d_]+", plain)
    return any(_WORDS.fullmatch(word) for word in words) or bool(_PARTS.search("".join(words)))


def is_unique_number(values: Mapping[str, float]) -> bool:
    """Say whether a column of numbers is another one in every subject, as a record number or a date is.

    Measured values with decimals may all differ. Whole numbers that all differ are refused where they are
    large, or where there are many.

    Args:
        values: subject (or whatever names a row) -> number.

    Examples:
        >>> is_unique_number({"a": 4711001.0, "b": 4711002.0}), is_unique_number({"a": 61.0, "b": 35.0})
        (True, False)
    """
    numbers = list(values.values())
    is_whole = all(float(number).is_integer() for number in numbers)
    is_different = len(numbers) > 1 and len(set(numbers)) == len(numbers)
    is_many = len(numbers) >= MANY or any(abs(number) >= LARGE for number in numbers)
    return is_whole and is_different and is_many


def is_unique_text(values: Mapping[str, str]) -> bool:
    """Say whether a category is another one in every one of many subjects, as a name is."""
    texts = list(values.values())
    return len(texts) >= MANY and len(set(texts)) == len(texts)
