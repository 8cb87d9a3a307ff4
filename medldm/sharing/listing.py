"""`medldm models`: which bundles have weights, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medldm.sharing.figures import NOT_MEASURED
from medldm.sharing.shipped import Bundle
from medldm.sharing.sources import find_source

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """What a bundle says of itself.

    Args:
        name: of the bundle.
        task: what it is for.
        has_weights: whether there is something to generate with.
        has_label_maps: whether label maps to start from are drawn, so that nothing else is needed.
        needs_label_maps: whether it is told label maps.
        size_mb: of `models/`, in 10^6 bytes.
        licence: of the weights.
        data: what they were trained on.
        structures: of the label maps.
        spacing_mm: of the training volumes; None where the bundle does not say.
        field_of_view_mm: extent of the training volumes, likewise.
        figures: title to value with interval, or "not measured".
    """

    name: str
    task: str
    has_weights: bool
    has_label_maps: bool = False
    needs_label_maps: bool = False
    size_mb: float = 0.0
    licence: str | None = None
    data: str | None = None
    structures: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    field_of_view_mm: tuple[float, ...] | None = None
    figures: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)


def describe_bundle(bundle: Bundle) -> ShippedModel:
    """Return what a bundle says of itself; of one without weights, its task alone."""
    metadata = bundle.metadata()
    task = str(metadata.get("task", ""))
    if not bundle.has_weights:
        return ShippedModel(name=bundle.name, task=task, has_weights=False)
    source = find_source(bundle.path)
    files = [path for path in bundle.model.parent.iterdir() if path.is_file()]
    return ShippedModel(
        name=bundle.name,
        task=task,
        has_weights=True,
        has_label_maps=source.label_maps is not None,
        needs_label_maps=source.needs_label_maps,
        size_mb=round(sum(path.stat().st_size for path in files) / MB, 2),
        licence=metadata.get("license"),
        data=metadata.get("data_source"),
        structures=metadata.get("label_classes"),
        spacing_mm=_lengths(metadata.get("spacing_mm")),
        field_of_view_mm=_lengths(metadata.get("field_of_view_mm")),
        figures={str(title): str(value) for title, value in metadata.get("eval_metrics", {}).items()},
    )


def write_table(models: Sequence[ShippedModel]) -> str:
    """Return the models as a command prints them: those with weights first, with all that is known."""
    with_weights = [each for each in models if each.has_weights]
    parts = [_write_model(each) for each in with_weights]
    if not with_weights:
        parts.append("No bundle that is installed has weights yet.")
    parts += [
        f"{each.name}: {each.task}\n  no weights yet; train them on your cohort:\n"
        f"  medldm train all COHORT OUT --bundle {each.name}"
        for each in models
        if not each.has_weights
    ]
    return "\n\n".join(parts)


def _write_model(model: ShippedModel) -> str:
    lines = [f"{model.name}: {model.task}"]
    facts = {
        "size on disk": f"{model.size_mb:g} MB",
        "licence": model.licence or "not stated",
        "trained on": model.data or "not stated",
        "structures": model.structures or "not stated",
        "spacing": _join(model.spacing_mm),
        "field of view": _join(model.field_of_view_mm),
    }
    lines += [f"  {name}: {fact}" for name, fact in facts.items()]
    figures = {title: value for title, value in (model.figures or {}).items() if value != NOT_MEASURED}
    lines += [f"  {title}: {value}" for title, value in figures.items()]
    if not figures:
        lines.append(f"  figures: {NOT_MEASURED}")
    elif n_lacking := len(model.figures or {}) - len(figures):
        lines.append(f"  further figures, {NOT_MEASURED}: {n_lacking}")
    needs_own = model.needs_label_maps and not model.has_label_maps
    lines += [
        "  what the figures mean, and what the model is not for: docs/README.md of the bundle "
        f"(medldm init {model.name} DIR copies it)",
        "  generate, from label maps of yours:" if needs_own else "  generate:",
        f"  medldm generate {model.name} OUT {'--label-dir LABEL_MAPS' if needs_own else '--num-samples 4'}",
    ]
    return "\n".join(lines)


def _lengths(values: Any) -> tuple[float, ...] | None:
    return tuple(float(value) for value in values) if isinstance(values, list) else None


def _join(lengths: Sequence[float] | None) -> str:
    return "not stated" if lengths is None else " x ".join(f"{each:g}" for each in lengths) + " mm"
