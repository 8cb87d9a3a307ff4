"""Self-describing checkpoints: safetensors weights and, in the header, a JSON card that says everything else.

Loading needs no other file, never unpickles, and is strict: a missing or surplus weight is an error. Only
`load_plain_weights`, for the Python API, reads a `.pth`, through torch's restricted loader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import monai
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from medldm.errors import CheckpointError
from medldm.files import write_atomically
from medldm.latent_diffusion.part_limits import at_most_parts
from medldm.networks.weights import require_fit
from medldm.version import __version__

CARD_KEY = "medldm"
CARD_FORMAT = 1
SCHEMA_KEY = "label_schema"
"""Name in a card of the structures of a model of label maps; the card of one of images has none."""
NO_MODEL = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    IndexError,
    ArithmeticError,
    RuntimeError,
    RecursionError,
    MemoryError,
)
"""What is raised where a description is not one of a model, or a file holds something strange."""

ModuleType = TypeVar("ModuleType", bound=torch.nn.Module)


@dataclass(frozen=True)
class Checkpoint:
    """The weights and the card of a file.

    Args:
        weights: name to tensor.
        card: what the file says of itself; see `save_checkpoint`.
        path: where it was read from.
    """

    weights: dict[str, Tensor]
    card: dict[str, Any]
    path: Path


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {"medldm": __version__, "torch": str(torch.__version__), "monai": monai.__version__}


def save_checkpoint(path: str | Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """Write weights and card to a safetensors file, atomically.

    Args:
        path: the file, usually ending in .safetensors.
        weights: name to tensor, of any device.
        card: JSON-able; `kind` says what the file is ("autoencoder" or "latent_diffusion"). The format, the
            versions and the hash of the weights are added.

    Returns:
        The SHA-256 of the weights.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    digest = hash_weights(own)
    full = {"format": CARD_FORMAT, "versions": describe_versions(), **card, "weights_sha256": digest}
    header = json.dumps(full, sort_keys=True, allow_nan=False)
    write_atomically(path, save(own, metadata={CARD_KEY: header}))
    return digest


def load_checkpoint(path: str | Path, *, kind: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        path: a file written by `save_checkpoint`.
        kind: if given, the kind the file must be of.

    Raises:
        CheckpointError: if the file is missing, not a medldm checkpoint, of another kind, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: train the stage that writes it first, or correct the path"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}): restore it from a copy"
        ) from error
    if CARD_KEY not in metadata:
        raise CheckpointError(f"{path} has no medldm card in its header: it was not written by medldm")
    card = _read_card(metadata[CARD_KEY], path)
    if card.get("format") != CARD_FORMAT:
        raise CheckpointError(
            f"{path} has the card format {card.get('format')}; this version reads {CARD_FORMAT}"
        )
    if kind is not None and card.get("kind") != kind:
        raise CheckpointError(f"{path} holds a model of kind {card.get('kind')!r}; {kind!r} is needed here")
    if hash_weights(weights) != card.get("weights_sha256"):
        raise CheckpointError(
            f"{path} is damaged: its weights do not have the hash in its card; restore it from a copy"
        )
    return Checkpoint(weights, card, path)


def read_card(path: str | Path) -> dict[str, Any]:
    """Read the card of a checkpoint without its weights, which are not verified.

    Raises:
        CheckpointError: if there is no file with a card.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from error
    if CARD_KEY not in metadata:
        raise CheckpointError(f"{path} has no medldm card in its header: it was not written by medldm")
    return _read_card(metadata[CARD_KEY], Path(path))


def load_plain_weights(path: str | Path) -> dict[str, Tensor]:
    """Read what ``torch.save(module.state_dict(), path)`` wrote, through torch's restricted loader.

    It builds tensors and plain containers and runs nothing else. Workflows do not call this: they read
    safetensors only.

    Raises:
        CheckpointError: if the file is missing or holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: save them first, or correct the path")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (*NO_MODEL, UnpicklingError, EOFError) as error:
        raise CheckpointError(
            f"{path} does not hold plain tensors: save it as torch.save(module.state_dict(), path)"
        ) from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path} holds a {type(weights).__name__} that is no mapping of names to tensors: save it as "
            "torch.save(module.state_dict(), path)"
        )
    return dict(weights)


def build_with_weights(
    make: Callable[[], ModuleType], weights: Mapping[str, Tensor], *, source: str
) -> ModuleType:
    """Build the module that a file describes and load its weights, without trusting the description.

    It is built without memory first, and no further than the file has weights: a card that describes a
    network of petabytes, or of millions of blocks, is refused for not being the network of the weights in
    the file.

    Args:
        make: builds the module.
        weights: of the file.
        source: the file, for the error.

    Raises:
        CheckpointError: if the module cannot be built, or the weights are not its own.
    """
    try:
        with torch.device("meta"), at_most_parts(len(weights)):
            outline = make().state_dict()
    except NO_MODEL as error:
        raise CheckpointError(f"the card of {source} does not describe a model ({error!r:.500})") from error
    require_fit(outline, weights, source=source)
    try:
        module = make()
        module.load_state_dict(dict(weights))
    except (MemoryError, RuntimeError) as error:
        raise CheckpointError(
            f"the model in {source} cannot be built ({str(error)[:200] or type(error).__name__}): free "
            "memory, or use a machine with more"
        ) from error
    return module


def _read_card(text: str, path: Path) -> dict[str, Any]:
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the card in the header of {path} is not JSON ({type(error).__name__})"
        ) from error
    if not isinstance(card, dict):
        raise CheckpointError(f"the card in the header of {path} is no mapping, but a {type(card).__name__}")
    return card
