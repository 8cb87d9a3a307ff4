"""Open the folder of a text encoder: which of its files are read is decided here, never by one of them.

transformers would follow an index of weights to pickled files and out of the folder, and the settings of a
tokenizer to any file. It is therefore given the weights as tensors, and settings that name no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medldm.errors import ConfigError
from medldm.files import hash_file
from medldm.runtime.json_files import read_json

CONFIG_FILE = "config.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SETTINGS = (CONFIG_FILE, "tokenizer_config.json", "special_tokens_map.json")
_WEIGHTS, _INDEX = ".safetensors", ".safetensors.index.json"
_MAX_JSON_BYTES = 64 * 1024**2
_FILE = re.compile(r"file|path|spm|vocab|merges")
_COUNT = re.compile(r"layer|block|depth|group|expert")
"""Settings whose names say so count parts of a network, of which each has weights of its own."""


def hash_encoder_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that the embeddings depend on, by name, the index of the weights too.

    Raises:
        ConfigError: if the folder holds no encoder, or its weights are not plain safetensors inside it.
    """
    weights, index = _find_weights(directory)
    tokenizer = [name for name in _TOKENIZER_FILES if (directory / name).is_file()]
    if not tokenizer:
        raise ConfigError(f"{directory} holds no tokenizer: save it there as well, e.g. as tokenizer.json")
    names = [CONFIG_FILE, *weights, *([index] if index else []), *tokenizer]
    return {name: hash_file(directory / name) for name in names}


def load_encoder(transformers: ModuleType, directory: Path) -> Any:
    """Build the encoder that config.json describes from the weights in the folder.

    Args:
        transformers: the package, imported where it is needed.
        directory: of the encoder.

    Raises:
        ConfigError: if a setting names a file, the description asks for more than the weights hold, or the
            two do not fit.
    """
    for name in _SETTINGS:
        if (directory / name).is_file():
            _require_no_files(_read_json(directory / name), directory / name)
    weights = _read_weights(directory)
    described = _read_json(directory / CONFIG_FILE)
    if "quantization_config" in described:
        raise ConfigError(f"{directory} holds quantised weights: save the encoder in float32")
    _require_counts(described, len(weights), directory)
    config = transformers.AutoConfig.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )
    try:
        with torch.device("meta"):
            outline = transformers.AutoModelForTextEncoding.from_config(config, trust_remote_code=False)
    except (MemoryError, RecursionError, OverflowError, RuntimeError) as error:
        raise ConfigError(
            f"{directory / CONFIG_FILE} does not describe an encoder ({type(error).__name__})"
        ) from error
    _require_size(outline, weights, directory)
    model, report = type(outline).from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    # The pooler follows the token embeddings; a file without it is complete for us.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing or report["mismatched_keys"]:
        raise ConfigError(
            f"the weights in {directory} do not fit its config.json: {len(missing)} are missing "
            f"{missing[:3]}, {len(report['mismatched_keys'])} have another shape"
        )
    return model.eval().requires_grad_(False)


def _find_weights(directory: Path) -> tuple[list[str], str | None]:
    """Return the names of the files of weights, and that of their index where there are several.

    Raises:
        ConfigError: unless there is one file, or an index that names just the files that are there.
    """
    weights = sorted(file.name for file in directory.glob(f"*{_WEIGHTS}") if file.is_file())
    indices = sorted(file.name for file in directory.glob(f"*{_INDEX}"))
    if not (directory / CONFIG_FILE).is_file() or not weights:
        raise ConfigError(
            f"{directory} is no Hugging Face encoder: config.json, *.safetensors (pickled .bin weights are "
            "not read) and the tokenizer's files are needed"
        )
    if not indices and len(weights) == 1:
        return weights, None
    if len(indices) != 1:
        raise ConfigError(
            f"{directory} holds {len(weights)} *.safetensors and {len(indices)} indices of them: leave one "
            "file of weights there, or several with one index"
        )
    named = set(_weight_map(directory / indices[0]).values())
    if named != set(weights):
        raise ConfigError(
            f"{directory / indices[0]} names {len(named)} files, {len(named - set(weights))} of them no "
            f"*.safetensors beside it, and leaves out {len(set(weights) - named)} that are: save the encoder "
            "again, with safe_serialization"
        )
    return weights, indices[0]


def _weight_map(index: Path) -> dict[str, str]:
    """Return the name of each weight and of the file that the index says it is in."""
    found = _read_json(index).get("weight_map")
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found.values()):
        raise ConfigError(f"{index} has no weight_map of names of files: save the encoder again")
    return dict(found)


def _read_weights(directory: Path) -> dict[str, Tensor]:
    """Read all weights into memory, each from the file that the index says.

    Raises:
        ConfigError: naming the file that is damaged or at odds with the index.
    """
    names, index = _find_weights(directory)
    stated = None if index is None else _weight_map(directory / index)
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(directory / name, framework="pt") as file:
                own = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise ConfigError(f"{directory / name} is not a readable safetensors file ({error})") from error
        if stated is not None and set(own) != {key for key, file in stated.items() if file == name}:
            raise ConfigError(f"{directory / name} holds other weights than its index says: save it again")
        weights |= own
    return weights


def _read_json(file: Path) -> dict[str, Any]:
    """Read a mapping from a JSON file of at most 64 MiB."""
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise ConfigError(f"{file} has {file.stat().st_size} bytes; at most {_MAX_JSON_BYTES} are read")
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds a {type(content).__name__}: a mapping is needed")
    return content


def _require_no_files(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse settings of which a text is the path of a file: transformers would open it."""
    for name, value in _texts_in(settings):
        is_path = "/" in value or "\\" in value or _FILE.search(name)
        if is_path and os.path.isfile(value):  # noqa: PTH113 (never raises, whatever the text)
            raise ConfigError(
                f"{file} names a file as {name!r}, which is not opened: remove the setting; the files of an "
                "encoder lie beside it under their usual names"
            )


def _texts_in(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each text of nested settings with the name it has."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item, name)


def _require_counts(described: Mapping[str, Any], n_weights: int, directory: Path) -> None:
    """Refuse a description of more layers than there are weights, before any is built."""
    for name, value in described.items():
        if isinstance(value, int) and _COUNT.search(name) and value > n_weights:
            raise ConfigError(
                f"{directory / CONFIG_FILE} says {name} = {value}, but there are {n_weights} weights: it "
                "describes another encoder than the weights are of"
            )


def _require_size(outline: torch.nn.Module, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Refuse a description that takes more memory than the weights; tied weights may be counted twice."""
    needed = sum(tensor.numel() for name, tensor in outline.named_parameters() if "pooler" not in name)
    held = sum(tensor.numel() for tensor in weights.values())
    if needed > 2 * held:
        raise ConfigError(
            f"{directory / CONFIG_FILE} describes {needed} weights, but there are {held}: it describes "
            "another encoder than the weights are of"
        )
