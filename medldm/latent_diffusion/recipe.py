"""The settings of a training in its checkpoint's card: with them a bundle's YAML trains such a model again.

What the architecture is stands elsewhere in the card. Paths, devices and whatever else belongs to a machine
are no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medldm.errors import CheckpointError

RECIPE_KEY = "recipe"
"""Name in a card of the settings of each stage; cards of before have none."""
OF_AUTOENCODER, OF_DIFFUSION = "autoencoder", "diffusion"

Recipe = dict[str, dict[str, Any]]
"""Stage to its settings, named as in the YAML of the bundles."""


def recipe_in(card: Mapping[str, Any]) -> Recipe:
    """Return the settings in a card, {} where it has none.

    Raises:
        CheckpointError: if they are no settings.
    """
    found = card.get(RECIPE_KEY, {})
    if not isinstance(found, Mapping) or not all(isinstance(each, Mapping) for each in found.values()):
        raise CheckpointError(f"the card of the checkpoint does not describe a recipe: {found!s:.80}")
    return {str(stage): dict(settings) for stage, settings in found.items()}


def describe_recipe(recipe: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Say for a card how a model was trained; nothing where nothing is known."""
    known = {stage: dict(settings) for stage, settings in (recipe or {}).items() if settings}
    return {RECIPE_KEY: known} if known else {}
