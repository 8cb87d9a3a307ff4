"""What to generate with: a checkpoint, the folder of a training, or a bundle with weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from medldm.data.labels import LabelSchema
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY, read_card
from medldm.sharing.pretrained import find_weights
from medldm.sharing.shipped import LABEL_MAPS, MODEL_FILE, Bundle, list_bundles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenerationSource:
    """The files of a generation.

    Args:
        checkpoint: of the model.
        label_maps: of the model that draws label maps for it; None where there is none.
        is_bundle: whether it is a bundle's, not a file that the user named.
        makes_label_maps: whether it makes label maps, not images.
        needs_label_maps: whether it is told label maps.
    """

    checkpoint: Path
    label_maps: Path | None = None
    is_bundle: bool = False
    makes_label_maps: bool = False
    needs_label_maps: bool = False


def find_source(name: str | Path) -> GenerationSource:
    """Return what a name stands for.

    Args:
        name: of a bundle that is installed with weights; the folder of a bundle or of a training; a file.

    Raises:
        ConfigError: for an unknown name.
        MissingFileError: for a bundle without weights.
        CheckpointError: if the weights cannot be read.
    """
    checkpoint = find_weights(name)
    is_bundle = checkpoint.parent.name == "models" and checkpoint.name == MODEL_FILE
    if not is_bundle:
        return GenerationSource(checkpoint=checkpoint)
    card = read_card(checkpoint)
    told = card.get("conditioning", {})
    structures = told.get("structures", {}) if "label_map" in told.get("conditioning_type", ()) else {}
    return GenerationSource(
        checkpoint=checkpoint,
        label_maps=_find_label_maps(Bundle(checkpoint.parents[1]), structures) if structures else None,
        is_bundle=True,
        makes_label_maps=SCHEMA_KEY in card,
        needs_label_maps=bool(structures),
    )


def _find_label_maps(bundle: Bundle, structures: dict[str, str]) -> Path | None:
    """Return the model of label maps beside a model, else the installed one of the same structures."""
    if bundle.label_maps.is_file():
        return bundle.label_maps
    installed = next((each for each in list_bundles() if each.name == LABEL_MAPS and each.has_weights), None)
    if installed is None:
        return None
    schema = LabelSchema.from_dict(read_card(installed.model)[SCHEMA_KEY])
    wanted = {int(value): name for value, name in structures.items()}
    return installed.model if dict(schema.structures) == wanted else None
