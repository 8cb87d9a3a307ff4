"""Take what two models share from the weights of one: rows and columns by the names they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from medldm.configs import unknown_name_message
from medldm.errors import ConfigError

Sources = Sequence[int | None]
"""For each new row the old one that it is taken from; None begins anew."""


def match_names(new: Sequence[str], old: Sequence[str], table: Mapping[str, str]) -> list[int | None]:
    """Return for each new name the place of the old one that it is taken from.

    Args:
        new: names of rows.
        old: names of the rows there are.
        table: new name to old name, where they differ; several may name one, as halves name what was split.

    Examples:
        >>> match_names(["left", "right", "core"], ["core", "both"], {"left": "both", "right": "both"})
        [1, 1, 0]
    """
    places = {name: place for place, name in enumerate(old)}
    return [places.get(table.get(name, name)) for name in new]


def take_rows(own: Tensor, old: Tensor, sources: Sources, *, dim: int = 0) -> Tensor:
    """Return a new model's weights with the rows that it has from an old one.

    Args:
        own: of the new model, whose rows without a source stay.
        old: of the old one, equal to it but for the size of `dim`.
        sources: as many as `own` has rows.
        dim: along which the rows lie.
    """
    rows = [
        own.select(dim, place) if source is None else old.select(dim, source).to(own)
        for place, source in enumerate(sources)
    ]
    return torch.stack(rows, dim=dim)


def fits_rows(own: Tensor, old: Tensor | None, *, dim: int = 0) -> bool:
    """Say whether weights are equal in shape but for one axis."""
    if old is None or own.ndim != old.ndim:
        return False
    return [n for d, n in enumerate(own.shape) if d != dim] == [
        n for d, n in enumerate(old.shape) if d != dim
    ]


def check_table(table: Mapping[str, str], *, new: Iterable[str], old: Iterable[str]) -> None:
    """Refuse a table with a name that neither side knows.

    Args:
        table: new name to old name.
        new: all names of what is trained: structures, channels, categories.
        old: those of the checkpoint.

    Raises:
        ConfigError: naming it, with the nearest known one.
    """
    known, former = sorted(set(new)), sorted(set(old))
    for name, source in table.items():
        if name not in known:
            message = unknown_name_message(name, known, kind="name of this training")
            raise ConfigError(f"start_names has {name!r}: {source!r}. {message}")
        if source not in former:
            message = unknown_name_message(source, former, kind="name of the checkpoint")
            raise ConfigError(f"start_names has {name!r}: {source!r}. {message}")


def word_sources(new: Sequence[str], old: Sequence[str], sources: Sources) -> str:
    """Say what became of names: taken, renamed, begun anew, left out."""
    pairs = list(zip(new, sources, strict=True))
    taken = [name for name, source in pairs if source is not None and old[source] == name]
    renamed = [
        f"{name} from {old[source]}" for name, source in pairs if source is not None and old[source] != name
    ]
    fresh = [name for name, source in pairs if source is None]
    left = [name for place, name in enumerate(old) if place not in sources]
    words = (("taken", taken), ("renamed", renamed), ("new", fresh), ("left out", left))
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in words if names)
