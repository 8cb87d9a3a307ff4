"""Read other people's weights: a safetensors file, or a `.pt` through torch's restricted loader.

`medldm import-weights` alone reads such files. The workflows read medldm's own checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from medldm.errors import CheckpointError, ConfigError, MissingFileError
from medldm.latent_diffusion.torch_archives import check_tensors, is_archive, load_archive
from medldm.runtime.json_files import read_json

SECTIONS = ("state_dict", "model_state_dict", "model", "network", "net")
"""Keys under which a file has its weights, whatever the network."""
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What wrappers, such as DistributedDataParallel and torch.compile, put before all names."""
DEFINITIONS = ("network_def", "net_def")
"""Keys of a bundle's config under which a network's arguments stand, whatever the network."""


def read_foreign_weights(path: str | Path, *, sections: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Read the weights of one network.

    Args:
        path: of a safetensors file or of a file of `torch.save`, which is told by its content.
        sections: keys under which the weights may stand, beside `SECTIONS`; these are looked for first.

    Returns:
        Name to tensor, without the prefixes of wrappers.

    Raises:
        CheckpointError: if the file is missing, damaged, holds something else than tensors, or the weights
            are not where one looks for them.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: correct the path")
    if is_archive(path):
        weights = _find_section(load_archive(path), (*sections, *SECTIONS), path)
        check_tensors(weights, path)
    else:
        weights = _read_safetensors(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return _without_prefixes(weights)


def read_arguments(path: str | Path, *, definitions: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a network's constructor arguments from JSON.

    Args:
        path: of a mapping of arguments, or of a bundle's config in which it stands under one of `definitions`
            or `DEFINITIONS`. Of a config, "@name" is replaced by that key; "_target_" and its like are left
            out.
        definitions: keys that are looked for first.

    Raises:
        ConfigError: if the file is no such mapping.
        MissingFileError: if there is none.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"no arguments at {path}: correct the path") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not JSON ({type(error).__name__}): give {{name: value}}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}: a mapping of arguments is needed")
    names = [name for name in (*definitions, *DEFINITIONS) if isinstance(content.get(name), dict)]
    own = content[names[0]] if names else content
    return {name: _resolve(value, content, name) for name, value in own.items() if not name.startswith("_")}


def _resolve(value: Any, content: Mapping[str, Any], name: str) -> Any:
    """Return a value, or what a reference to another key of the same file stands for."""
    if isinstance(value, list):
        return [_resolve(each, content, name) for each in value]
    if not isinstance(value, str) or value[:1] not in ("@", "$", "%"):
        return value
    found = content.get(value[1:]) if value[0] == "@" else None
    if found is None or (isinstance(found, str) and found[:1] in ("@", "$", "%")):
        raise ConfigError(f"{name} is {value!r}: write the value in its place; nothing is evaluated")
    return found


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is neither a whole safetensors file nor an archive of torch.save ({error}): copy it "
            "again; a pickle of before torch 1.6 is not read, load and save it where you trust it"
        ) from error


def _find_section(content: Any, sections: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """Return the state dict in what a file holds, itself or under one of some keys."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in sections if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(each, Tensor) for each in content.values()):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path} has no weights by name, nor under one of {list(sections)}: it holds {str(found)[:300]}"
        )
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not all(isinstance(name, str) for name in content):
        raise CheckpointError(
            f"{path} holds more than tensors by name: {strange[:5]}; save the state dict alone"
        )
    return dict(content)


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in weights)), None):
        if not weights:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
