"""The files of one state of a training, and how each of their bytes is checked.

A folder holds `state.json`, one safetensors file for each part that has tensors, and `manifest.json` with the
size and the SHA-256 of every file and of itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from medldm.errors import CheckpointError
from medldm.files import hash_file, require_space, write_atomically
from medldm.latent_diffusion.checkpoints import describe_versions
from medldm.training.resume.state_tree import count_bytes, flatten_state, unflatten_state

FORMAT = 3
"""Rises when a state of before cannot be gone on with."""

MANIFEST, PLAIN = "manifest.json", "state.json"
_FILE = re.compile(r"state\.json|[a-z][a-z_]*\.safetensors")


class StateError(CheckpointError):
    """A training's state cannot be written, or none that can be read is left."""


class FormatError(StateError):
    """A training's state was saved by another version of medldm."""


def read_folder(path: Path) -> dict[str, Any]:
    """Read and verify a state folder.

    Raises:
        CheckpointError: saying which file is missing, truncated, changed or surplus.
    """
    contents = {}
    for name, entry in _read_manifest(path).items():
        content = (path / name).read_bytes()
        _check(path / name, entry, size=len(content), digest=hashlib.sha256(content).hexdigest())
        contents[name] = content
    text, tensors = contents.pop(PLAIN), {}
    try:
        for content in contents.values():
            tensors.update(load(content))
        return {name: unflatten_state(tensors, part) for name, part in json.loads(text).items()}
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not hold a training's state ({error})") from error


def verify_folder(path: Path) -> None:
    """Read every file of a state folder again and compare it with the manifest.

    Raises:
        CheckpointError: saying which file is missing, truncated, changed or surplus.
    """
    for name, entry in _read_manifest(path).items():
        file = path / name
        _check(file, entry, size=file.stat().st_size, digest=hash_file(file))


def fill_folder(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write the files of a state, one part after the other: no more than one is in memory twice.

    Args:
        folder: an empty one.
        parts: name (a-z and _) to nested state.
    """
    files, plain = {}, {}
    for name, part in parts.items():
        if not _FILE.fullmatch(f"{name}.safetensors"):
            raise ValueError(f"a part of the training state is called {name!r}: use a to z and _ only")
        tensors, plain[name] = flatten_state(part, name=name)
        if tensors:
            require_space(folder, count_bytes(tensors))
            files[f"{name}.safetensors"] = _write_file(folder / f"{name}.safetensors", save(tensors))
    text = json.dumps(plain, allow_nan=False).encode()
    files[PLAIN] = _write_file(folder / PLAIN, text)
    manifest = {"format": FORMAT, "versions": describe_versions(), "files": files}
    signed = {**manifest, "sha256": _hash_manifest(manifest)}
    _write_file(folder / MANIFEST, json.dumps(signed, sort_keys=True, indent=1).encode())


def _write_file(path: Path, content: bytes) -> dict[str, Any]:
    write_atomically(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return name to size and hash, checked against the names that lie in the folder."""
    present = {entry.name for entry in path.iterdir()}
    if MANIFEST not in present:
        raise CheckpointError(f"{path} has no {MANIFEST}")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        digest, version, files = manifest.pop("sha256"), manifest["format"], dict(manifest["files"])
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged ({error!r})") from error
    if digest != _hash_manifest(manifest):
        raise CheckpointError(f"{path / MANIFEST} is damaged: it does not have the hash it states")
    if version != FORMAT:
        raise FormatError(
            f"{path} was saved by another version of medldm (format {version}, this one goes on from "
            f"{FORMAT}): go on with that version, give another output_dir, or start anew with resume: never, "
            "which moves the old states out of the way"
        )
    wrong = sorted(present.symmetric_difference({*files, MANIFEST}))
    wrong += [name for name in files if not _FILE.fullmatch(name) or (path / name).is_symlink()]
    if wrong or PLAIN not in files:
        raise CheckpointError(f"{path} lacks, or has beyond its manifest, the files {wrong or [PLAIN]}")
    return files


def _hash_manifest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check(path: Path, entry: Mapping[str, Any], *, size: int, digest: str) -> None:
    if size != entry["bytes"]:
        raise CheckpointError(f"{path} has {size} bytes, {entry['bytes']} were written: it is truncated")
    if digest != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: it does not have the hash in the manifest")
