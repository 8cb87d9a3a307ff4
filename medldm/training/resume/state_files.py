"""The files of one state of a training, and how each of their bytes is checked.

A folder holds `state.json`, one safetensors file for each part that has tensors, and `manifest.json` with the
size and the SHA-256 of every file and of itself. By these names a folder is known as a state, see
`is_state_folder`: whatever else is called like one is not touched.

Three things can be wrong with a state, and only the first is a reason to do without it. It is damaged: its
bytes are not those of its manifest (`DamagedStateError`). It is of another version of medldm (`FormatError`).
Or it cannot be read now: the system says so with an OSError, as a file server does that is away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from medldm.errors import CheckpointError
from medldm.files import hash_file, is_clutter, require_space, write_atomically
from medldm.latent_diffusion.checkpoints import describe_versions
from medldm.training.resume.state_tree import count_bytes, flatten_state, unflatten_state

FORMAT = 3
"""Rises when a state of before cannot be gone on with."""

MANIFEST, PLAIN = "manifest.json", "state.json"
_LONGEST_MANIFEST = 2**24
_FILE = re.compile(r"state\.json|[a-z][a-z_]*\.safetensors")


class StateError(CheckpointError):
    """A training's state cannot be written, or none that can be read is left."""


class DamagedStateError(StateError):
    """A training's state does not hold the bytes that were saved."""


class FormatError(StateError):
    """A training's state was saved by another version of medldm."""


def is_state_folder(path: Path) -> bool:
    """Say whether a folder is a training's state: sound, damaged, or of another version of medldm.

    It is if nothing but files of a state lies in it, or if its manifest says of which version it is.

    Raises:
        OSError: if it cannot be read.
    """
    if path.is_symlink() or not path.is_dir():
        return False
    return not foreign_files(path) or _has_mark(path / MANIFEST)


def _has_mark(manifest: Path) -> bool:
    if manifest.is_symlink() or not manifest.is_file() or manifest.stat().st_size > _LONGEST_MANIFEST:
        return False
    try:
        content = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"format", "versions"} <= content.keys()


def foreign_files(path: Path) -> list[str]:
    """Return the names in a folder that are not those of a state's files."""
    return sorted(
        entry.name
        for entry in path.iterdir()
        if not is_passing(entry) and (entry.is_dir() or not _is_name(entry.name))
    )


def _is_name(name: str) -> bool:
    return name == MANIFEST or _FILE.fullmatch(name) is not None


def is_passing(path: Path) -> bool:
    """Say whether the system put a file beside others: NFS keeps a removed one that is open as `.nfs0...`."""
    return is_clutter(path) or path.name.startswith(".nfs")


def read_folder(path: Path) -> dict[str, Any]:
    """Read and verify a state folder.

    Raises:
        DamagedStateError: saying which file is missing, truncated or changed.
        FormatError: if it is of another version of medldm.
        StateError: if it holds more than its manifest says, or links.
        OSError: if it cannot be read.
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
        raise StateError(f"{path} does not hold a training's state ({error})") from error


def verify_folder(path: Path) -> None:
    """Read every file of a state folder again and compare it with the manifest.

    Raises:
        DamagedStateError: as of `read_folder`, like the others.
        FormatError: likewise.
        StateError: likewise.
        OSError: likewise.
    """
    for name, entry in _read_manifest(path).items():
        file = path / name
        _check(file, entry, size=file.stat().st_size, digest=hash_file(file))


def remove_folder(path: Path) -> None:
    """Remove the files of a state, and the folder where nothing of another origin lies in it."""
    for entry in list(path.iterdir()):
        if not entry.is_dir() and (_is_name(entry.name) or is_clutter(entry)):
            entry.unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


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
    present = {entry.name for entry in path.iterdir() if not is_passing(entry)}
    if MANIFEST not in present:
        raise DamagedStateError(f"{path} has no {MANIFEST}")
    files = _parse_manifest(path, (path / MANIFEST).read_bytes())
    if lacking := sorted(files.keys() - present):
        raise DamagedStateError(f"{path} lacks the files {lacking} of its manifest")
    wrong = sorted(present - files.keys() - {MANIFEST})
    wrong += [name for name in files if not _FILE.fullmatch(name) or (path / name).is_symlink()]
    if wrong or PLAIN not in files:
        raise StateError(
            f"{path} has, beyond its manifest, the files {wrong or [PLAIN]}: what is in it was not put there "
            "by one training; move them elsewhere"
        )
    return files


def _parse_manifest(path: Path, content: bytes) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads(content)
        digest, version, files = manifest.pop("sha256", None), manifest["format"], manifest.get("files")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedStateError(f"{path / MANIFEST} is damaged ({error!r})") from error
    if digest != _hash_manifest(manifest):
        # Another version may hash otherwise, unless it is this one's manifest but for the version.
        is_other = type(version) is int and version != FORMAT
        if is_other and digest != _hash_manifest({**manifest, "format": FORMAT}):
            raise _of_other_version(path, version)
        raise DamagedStateError(f"{path / MANIFEST} is damaged: it does not have the hash it states")
    if version != FORMAT:
        raise _of_other_version(path, version)
    return dict(files)


def _of_other_version(path: Path, version: Any) -> FormatError:
    return FormatError(
        f"{path} was saved by another version of medldm (format {version}, this one goes on from "
        f"{FORMAT}): go on with that version, give another output_dir, or start anew with resume: never, "
        "which moves the old states out of the way"
    )


def _hash_manifest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check(path: Path, entry: Mapping[str, Any], *, size: int, digest: str) -> None:
    if size != entry["bytes"]:
        raise DamagedStateError(f"{path} has {size} bytes, {entry['bytes']} were written: it is truncated")
    if digest != entry["sha256"]:
        raise DamagedStateError(f"{path} is damaged: it does not have the hash in the manifest")
