"""Which checkpoints a model's weights began with, newest first, in its card and in what says how it was used.

An ancestor is a file that a training started from: the SHA-256 of its bytes and that of its weights. A model
that was trained from nothing has none, and its card says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medldm.errors import CheckpointError

LINEAGE_KEY = "started_from"
"""Name in a card, and in a sidecar, of the ancestors of each part."""
AUTOENCODER, DENOISER = "autoencoder", "denoiser"

Lineage = dict[str, list[dict[str, Any]]]
"""Part ("autoencoder" or "denoiser") to its ancestors, newest first; a part without any is left out."""


def lineage_of(card: Mapping[str, Any]) -> Lineage:
    """Return the lineage in a card, {} where it has none.

    Raises:
        CheckpointError: if it does not describe one.
    """
    found = card.get(LINEAGE_KEY, {})
    is_one = isinstance(found, Mapping) and all(
        isinstance(ancestors, list) and all(isinstance(each, Mapping) for each in ancestors)
        for ancestors in found.values()
    )
    if not is_one:
        raise CheckpointError(f"the card of the checkpoint does not describe a lineage: {found!s:.80}")
    return {part: [dict(each) for each in ancestors] for part, ancestors in found.items()}


def begin_with(file_sha256: str, card: Mapping[str, Any], *, part: str) -> list[dict[str, Any]]:
    """Return the ancestors of what is trained from a checkpoint.

    Args:
        file_sha256: of the checkpoint's bytes.
        card: of the checkpoint.
        part: of it that is taken.
    """
    own = {"file_sha256": file_sha256, "kind": card.get("kind"), "weights_sha256": card.get("weights_sha256")}
    return [own, *lineage_of(card).get(part, [])]


def describe_lineage(lineage: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Say for a card or a sidecar where weights come from; nothing of those trained from nothing."""
    known = {part: list(ancestors) for part, ancestors in lineage.items() if ancestors}
    return {LINEAGE_KEY: known} if known else {}
