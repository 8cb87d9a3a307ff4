"""Describe the conditions of a cohort: which columns, categories, ranges and structures there are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from medldm.conditioning import ConditioningConfig
from medldm.conditioning.config import CONDITION_TYPES, read_names
from medldm.data.cohort import Cohort, count_unlabelled
from medldm.data.measured_scalars import outer_range
from medldm.data.partly_labelled import STRUCTURES_IN_MAP
from medldm.errors import ConfigError
from medldm.transforms import measure_intensity_mapping

logger = logging.getLogger(__name__)


def conditioning_of(
    cohort: Cohort,
    *,
    conditioning_type: Sequence[str],
    class_columns: Sequence[str] | None = None,
    scalar_columns: Sequence[str] | None = None,
    image_intensity: str = "mr_percentile",
    text_encoder: Any = None,
    conditioning_dropout: float | dict[str, float] = 0.1,
    **options: Any,
) -> ConditioningConfig:
    """Describe conditions, with what a cohort holds of them. A case may lack any of them.

    Args:
        cohort: what is conditioned on must be in it.
        conditioning_type: any of CONDITION_TYPES.
        class_columns: columns of "classes" for the type "class"; None takes all, or "class" without any.
        scalar_columns: for the type "scalars"; None takes all that the list gives. Measured ones must be
            named: "volume_ml:<structure>" and "spacing_mm".
        image_intensity: kind of the intensity mapping of the condition image.
        text_encoder: `TextEncoder` for the type "text".
        conditioning_dropout: see `ConditioningConfig`.
        options: further fields of `ConditioningConfig`.

    Raises:
        ValueError: if the cohort lacks what a condition needs.
    """
    types = read_names(conditioning_type)
    if "label_map" in types:
        options["structures"] = _structures(cohort)
        options["partly_labelled"] = _partly_labelled(cohort)
    if "class" in types:
        options |= _classes(cohort, class_columns)
    if "scalars" in types:
        options["scalars"] = _scalars(cohort, scalar_columns)
    if "text" in types:
        options |= _text(cohort, text_encoder)
    if "image" in types:
        options["image_intensity"] = _image_intensity(cohort, image_intensity)
    return ConditioningConfig(conditioning_type=types, conditioning_dropout=conditioning_dropout, **options)


def _structures(cohort: Cohort) -> dict[int, str]:
    n_without, n_cases = count_unlabelled(cohort.training), len(cohort.training)
    if cohort.schema is None or n_without == n_cases:
        raise ConfigError(
            "conditions name 'label_map', but no training case of the cohort has a label map: add labels/, "
            "or leave label_map out of conditioning_type"
        )
    if n_without:
        logger.warning(
            "%d of %d training cases (%.0f %%) have no label map: they train as samples that lose the "
            "condition label_map, beside its share of conditioning_dropout",
            *(n_without, n_cases, 100 * n_without / n_cases),
        )
    return dict(cohort.schema.structures)


def _partly_labelled(cohort: Cohort) -> list[str]:
    """Return the structures that some training map does not cover.

    Raises:
        ConfigError: for a structure that no training map covers.
    """
    maps = [case for case in cohort.training if "label" in case]
    found = []
    for name in () if cohort.schema is None else cohort.schema.names:
        n_unknown = sum(name not in case.get(STRUCTURES_IN_MAP, (name,)) for case in maps)
        if n_unknown == len(maps):
            raise ConfigError(
                f"no training case has a label map that covers {name!r}: the model cannot learn it; take it "
                "out of labels.json, or add cases"
            )
        found += [name] if n_unknown else []
    return found


def _classes(cohort: Cohort, columns: Sequence[str] | None) -> dict[str, Any]:
    named = sorted({column for case in cohort.cases for column in case.get("classes", {})})
    if columns is None and any("class" in case for case in cohort.cases):
        columns = ["class", *named]
    options: dict[str, Any] = {"classes": {}}
    for column in named if columns is None else columns:
        if column == "class":
            values = [int(case["class"]) for case in cohort.cases if case.get("class") is not None]
            _require(values, "class", known=named)
            options["num_classes"] = 1 + max(values)
        else:
            found = {
                str(case["classes"][column]) for case in cohort.cases if column in case.get("classes", {})
            }
            _require(found, column, known=named)
            options["classes"][column] = sorted(found)
    if not options["classes"] and "num_classes" not in options:
        _require([], "class", known=named)
    return options


def _scalars(cohort: Cohort, columns: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    given = sorted({name for case in cohort.cases for name in case.get("scalars", {})})
    if columns is None:
        columns = [name for name in given if ":" not in name and name != "spacing_mm"]
        _require(columns, "scalars", known=given)
    ranges = {}
    for name in columns:
        values = [float(case["scalars"][name]) for case in cohort.training if name in case.get("scalars", {})]
        _require(values, name, known=given)
        try:
            ranges[name] = outer_range(values)
        except ValueError as error:
            raise ConfigError(f"scalar {name!r}: {error}") from None
    return ranges


def _text(cohort: Cohort, text_encoder: Any) -> dict[str, Any]:
    _require([case for case in cohort.cases if case.get("text")], "text", known=[])
    if text_encoder is None:
        raise ConfigError("conditions name 'text': a text encoder is needed")
    return {
        "text_embed_dim": text_encoder.embed_dim,
        "text_tokens": text_encoder.max_tokens,
        "text_encoder": text_encoder.identity,
    }


def _image_intensity(cohort: Cohort, kind: str) -> dict[str, Any]:
    with_image = [case for case in cohort.training if "condition_image" in case]
    _require(with_image, "condition_image", known=[])
    images = [{"image": case["condition_image"]} for case in with_image]
    return measure_intensity_mapping(images, kind=kind).to_dict()  # type: ignore[arg-type]


def _require(found: Any, name: str, *, known: Sequence[str]) -> None:
    if not found:
        hint = f"; it has {list(known)}" if known else ""
        raise ConfigError(
            f"conditions name {name!r}, but no case of the cohort has it{hint}: add it to the cohort's list, "
            f"or leave it out of conditions (any of {list(CONDITION_TYPES)})"
        )
