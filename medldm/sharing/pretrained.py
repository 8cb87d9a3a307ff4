"""Save a model to a folder and load it from one, offline, equal to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medldm.errors import ConfigError
from medldm.latent_diffusion.checkpoints import SCHEMA_KEY, save_checkpoint
from medldm.latent_diffusion.config import LatentDiffusionConfig
from medldm.latent_diffusion.model import LatentDiffusionModel
from medldm.latent_diffusion.model_files import describe_latent_diffusion, load_latent_diffusion
from medldm.sharing.shipped import MODEL_FILE, Bundle, find_bundle, require_weights


class Pretrained(NamedTuple):
    """A model with what sampling needs beside it.

    Attributes:
        model: in evaluation mode.
        config: noise path and prediction type.
        card: of its file: structures, lineage, split, versions.
    """

    model: LatentDiffusionModel
    config: LatentDiffusionConfig
    card: dict[str, Any]


def save_pretrained(
    folder: str | Path,
    model: LatentDiffusionModel,
    config: LatentDiffusionConfig,
    *,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model to a folder, from which `from_pretrained` makes it again.

    Args:
        folder: receives latent_diffusion.safetensors, in the place of one that is there.
        model: its weights, as they are.
        config: noise path and prediction type of its training.
        card: of the file that the model comes from; what it says beyond the networks is kept. A model of
            label maps needs it: it names the structures.

    Returns:
        The file.

    Raises:
        ConfigError: for a model of label maps without the names of its structures.

    Examples:
        >>> import tempfile
        >>> from medldm import LatentDiffusionConfig, LatentDiffusionModel, from_pretrained
        >>> model = LatentDiffusionModel(
        ...     autoencoder_config={"down_channels": [8, 16], "n_groups": 4},
        ...     unet_config={"down_channels": [16, 32], "n_groups": 4, "n_heads": 2},
        ... )
        >>> folder = tempfile.mkdtemp()
        >>> _ = save_pretrained(folder, model, LatentDiffusionConfig())
        >>> from_pretrained(folder).model.latent_scale.equal(model.latent_scale)
        True
    """
    if model.makes_label_maps and SCHEMA_KEY not in (card or {}):
        raise ConfigError("a model of label maps is saved with the card of its file: give card=")
    weights, own = describe_latent_diffusion(model, config)()
    path = Path(folder) / MODEL_FILE
    save_checkpoint(path, weights, {**(card or {}), **own})
    return path


def from_pretrained(source: str | Path) -> Pretrained:
    """Load a model, without a network.

    Args:
        source: folder of `save_pretrained`, of a training or of a bundle; the name of a bundle that is
            installed with weights; or a file.

    Raises:
        MissingFileError: if there are no weights.
        CheckpointError: if the file is damaged or of another kind.
    """
    model, config, checkpoint = load_latent_diffusion(find_weights(source))
    return Pretrained(model, config, checkpoint.card)


def find_weights(source: str | Path) -> Path:
    """Return the file of a model.

    Args:
        source: see `from_pretrained`.

    Raises:
        MissingFileError: if there is none, saying what to do.
    """
    path = Path(source)
    if path.is_file() or (path.suffix and not path.is_dir()):
        return path
    found = [each for each in (path / MODEL_FILE, Bundle(path).model) if each.is_file()]
    return found[0] if found else require_weights(find_bundle(source)).model
