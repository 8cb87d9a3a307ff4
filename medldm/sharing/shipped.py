"""Find bundles: those that are installed with the package, by name, and others, by folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.configs import unknown_name_message
from medldm.errors import ConfigError, MissingFileError
from medldm.runtime.json_files import read_json

BUNDLES_DIR = Path(__file__).parents[1] / "bundles"
"""Of the installed package."""
MODEL_FILE = "latent_diffusion.safetensors"
"""In `models/` of a bundle: the model of the second stage, which needs no other file."""
LABEL_MAPS_FILE = "labelmap_ldm.safetensors"
"""Beside it: the model that draws label maps to start from."""
IMAGES, CT, LABEL_MAPS = "mri_label_ldm", "ct_label_ldm", "labelmap_ldm"
"""The bundles of images, of CT and of label maps, which are taken where none is named."""


@dataclass(frozen=True)
class Bundle:
    """The folder of a bundle.

    Args:
        path: holds configs/, docs/, LICENSE and models/.
    """

    path: Path

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return self.path.resolve().name

    @property
    def model(self) -> Path:
        """Where the weights are, if the bundle has some."""
        return self.path / "models" / MODEL_FILE

    @property
    def label_maps(self) -> Path:
        """Where the model of label maps to start from is, if the bundle has one."""
        return self.path / "models" / LABEL_MAPS_FILE

    @property
    def has_weights(self) -> bool:
        """Whether there is something to generate with."""
        return self.model.is_file()

    def config(self, workflow: str) -> Path:
        """Return the YAML file of a workflow.

        Raises:
            MissingFileError: if the bundle has no such workflow.
        """
        file = self.path / "configs" / f"{workflow}.yaml"
        if not file.is_file():
            found = sorted(each.stem for each in file.parent.glob("*.yaml"))
            raise MissingFileError(f"the bundle {self.name} has no workflow {workflow!r}: it has {found}")
        return file

    def metadata(self) -> dict[str, Any]:
        """Read configs/metadata.json.

        Raises:
            ConfigError: if it is no JSON object.
        """
        file = self.path / "configs" / "metadata.json"
        try:
            content = read_json(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read ({error}): restore it") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{file} is no JSON object: restore it")
        return content


def list_bundles() -> list[Bundle]:
    """Return the bundles that are installed with the package, by name."""
    return [
        Bundle(path) for path in sorted(BUNDLES_DIR.iterdir()) if (path / "configs/metadata.json").is_file()
    ]


def find_bundle(name: str | Path) -> Bundle:
    """Return a bundle.

    Args:
        name: of one that is installed, or the folder of any other. A folder of the name here comes second.

    Raises:
        ConfigError: if there is neither, with the names that are known.
    """
    known = {bundle.name: bundle for bundle in list_bundles()}
    if str(name) in known:
        return known[str(name)]
    if (Path(name) / "configs").is_dir():
        return Bundle(Path(name))
    message = unknown_name_message(str(name), list(known), kind="bundle")
    raise ConfigError(f"{message} Or give the folder of one, with configs/ in it.")


def require_weights(bundle: Bundle) -> Bundle:
    """Return a bundle that has weights.

    Raises:
        MissingFileError: for one without, saying what to do.
    """
    if not bundle.has_weights:
        raise MissingFileError(
            f"the bundle {bundle.name} has no weights yet: train it, medldm train all COHORT OUT --bundle "
            f"{bundle.name}, and give OUT/{MODEL_FILE}; medldm models lists the bundles with weights"
        )
    return bundle
