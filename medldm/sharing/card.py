"""What of a checkpoint's card may leave the house: what rebuilds the model, and hashes; no names of cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medldm.latent_diffusion.checkpoints import SCHEMA_KEY
from medldm.latent_diffusion.model_files import TEXTURE_KEY
from medldm.latent_diffusion.recipe import RECIPE_KEY
from medldm.latent_diffusion.recorded_split import SPLIT_KEY

OF_THE_MODEL = frozenset(
    {
        *("kind", "format", "versions", "autoencoder", "unet", "conditioning", "diffusion", "space"),
        *(TEXTURE_KEY, SCHEMA_KEY, SPLIT_KEY),
    }
)
"""Kept as they are: without them the model is another one. The split holds keyed hashes (`SplitRecord`)."""
OF_ITS_MAKING = frozenset({"training", "decoder", "started_from", RECIPE_KEY})
"""Kept but for texts that name a file."""
STORAGE_KEY = "storage"
"""Name in a packaged card of the type of the stored weights, and of what it costs."""
_SEPARATORS = ("/", "\\")
_FILES = (".safetensors", ".nii", ".nii.gz", ".mha", ".mgz", ".nrrd", ".dcm", ".csv", ".json", ".pt", ".pth")


def shareable_card(card: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a card to give away, and what it leaves out.

    Args:
        card: of a checkpoint.

    Returns:
        The card without its hash, which `save_checkpoint` makes anew; the keys that were left out.

    Examples:
        >>> shareable_card({"kind": "autoencoder", "cases": ["anna"], "training": {"of": "/a/b", "epoch": 3}})
        ({'kind': 'autoencoder', 'training': {'epoch': 3}}, ['cases', 'training.of'])
    """
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    for key, value in card.items():
        if key in OF_THE_MODEL:
            kept[key] = value
        elif key in OF_ITS_MAKING:
            kept[key] = _without_files(value, key, left_out)
        elif key not in (STORAGE_KEY, "weights_sha256"):
            left_out.append(key)
    return kept, left_out


def _without_files(value: Any, key: str, left_out: list[str]) -> Any:
    """Return a value without the entries of mappings and lists that name a file, whose names go to a list."""
    if isinstance(value, Mapping):
        inner = {name: (each, f"{key}.{name}") for name, each in value.items()}
        left_out += [where for each, where in inner.values() if _names_file(each)]
        return {
            name: _without_files(each, where, left_out)
            for name, (each, where) in inner.items()
            if not _names_file(each)
        }
    if isinstance(value, list):
        left_out += [key for each in value if _names_file(each)]
        return [_without_files(each, key, left_out) for each in value if not _names_file(each)]
    return value


def _names_file(value: Any) -> bool:
    return isinstance(value, str) and (
        any(sign in value for sign in _SEPARATORS) or value.lower().endswith(_FILES)
    )
