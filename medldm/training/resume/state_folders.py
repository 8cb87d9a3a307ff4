"""Folders of training state that survive a kill at any moment: `step_00000120/` with a manifest.

A folder holds `state.json`, one safetensors file for each part that has tensors, and `manifest.json` with the
size and the SHA-256 of every file and of itself. It is written under a temporary name, flushed, renamed and
read again; only then are older ones removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from medldm.errors import CheckpointError, ConfigError
from medldm.files import flush_folder, require_space
from medldm.latent_diffusion.checkpoints import describe_versions
from medldm.training.resume.state_tree import count_bytes, flatten_state, unflatten_state

logger = logging.getLogger(__name__)

FORMAT = 1
MANIFEST, PLAIN = "manifest.json", "state.json"
_FOLDER = re.compile(r"step_(\d{8,})")
_FILE = re.compile(r"state\.json|[a-z][a-z_]*\.safetensors")
_UNFINISHED, _PRUNED, _DAMAGED = ".new_", ".old_", "damaged_"


class StateError(CheckpointError):
    """A training's state cannot be written, or none that can be read is left."""


@dataclass(frozen=True)
class SavedState:
    """The state of a training after a step.

    Args:
        step: batches trained.
        path: the folder it was read from.
        parts: name to nested state.
    """

    step: int
    path: Path
    parts: dict[str, Any]


class StateFolders:
    """Write, read and prune the state folders of one stage.

    Args:
        directory: holds the folders.
        keep: how many to keep, at least 2, so that a damaged one is not the last.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        if keep < 2:
            raise ConfigError(f"keep is {keep}: at least 2 states must be kept, in case one is damaged")
        self.directory = Path(directory)
        self.keep = keep

    def steps(self) -> dict[int, Path]:
        """Return the folders by their step, the newest first; whether they are valid is not looked at."""
        if not self.directory.is_dir():
            return {}
        matches = [(_FOLDER.fullmatch(path.name), path) for path in self.directory.iterdir()]
        found = {int(match[1]): path for match, path in matches if match is not None}
        return dict(sorted(found.items(), reverse=True))

    def save(self, parts: Mapping[str, Any], *, step: int) -> Path:
        """Write a state; on return it is on the disk and was read again.

        Args:
            parts: name (a-z and _) to nested state, see `flatten_state`.
            step: batches trained; a valid state of this step that is there already is kept instead.

        Raises:
            StateError: if it could not be written; the older states are untouched.
        """
        final = self.directory / f"step_{step:08d}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            if not self._is_there(final):
                self._write(final, parts)
        except (OSError, CheckpointError) as error:
            raise StateError(
                f"the training's state after step {step} could not be saved to {final} ({error}); the older "
                "states are untouched: put this right and run the same command again to go on from them"
            ) from error
        self._prune()
        return final

    def load_newest(self) -> SavedState | None:
        """Read the newest valid state; damaged ones are set aside, with a line in the log for each.

        Returns:
            None if there never was one.

        Raises:
            StateError: if there are states, but every one is damaged.
        """
        refused = []
        for step, path in self.steps().items():
            try:
                return SavedState(step, path, read_folder(path))
            except (CheckpointError, OSError) as error:
                refused.append(f"{path.name}: {error}")
                logger.warning("the training state %s was set aside: %s", path, error)
                self._set_aside(path)
        if refused:
            raise StateError(
                f"every training state in {self.directory} is damaged ({'; '.join(refused)}): restore one "
                "from a copy, or start anew with resume: never"
            )
        return None

    def load(self, step: int) -> SavedState:
        """Read the state after a step, which another process of the training has found valid.

        Raises:
            StateError: if it is not there.
            CheckpointError: if it is damaged.
        """
        path = self.steps().get(step)
        if path is None:
            raise StateError(
                f"the training's first process goes on from step {step}, which is not in {self.directory} as "
                "this process sees it: output_dir must lie on a file system that all processes share"
            )
        return SavedState(step, path, read_folder(path))

    def retire(self) -> Path | None:
        """Move all states out of the way, beside the folder; return where to."""
        if not self.steps():
            return None
        taken = 1
        while (other := self.directory.with_name(f"{self.directory.name}.before_{taken}")).exists():
            taken += 1
        self.directory.rename(other)
        return other

    def _write(self, final: Path, parts: Mapping[str, Any]) -> None:
        temporary = Path(tempfile.mkdtemp(dir=self.directory, prefix=f"{_UNFINISHED}{final.name}_"))
        try:
            temporary.chmod(0o755)
            _fill_folder(temporary, parts)
            temporary.rename(final)
            flush_folder(self.directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        try:
            verify_folder(final)
        except CheckpointError:
            self._set_aside(final)
            raise

    def _is_there(self, final: Path) -> bool:
        if not final.exists():
            return False
        try:
            verify_folder(final)
        except CheckpointError as error:
            logger.warning("the training state %s was set aside: %s", final, error)
            self._set_aside(final)
            return False
        return True

    def _prune(self) -> None:
        for path in list(self.steps().values())[self.keep :]:
            # Renamed first: a kill while files are being removed must not leave half a state behind.
            path.rename(path.with_name(f"{_PRUNED}{path.name}"))
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for path in self.directory.iterdir():
            if path.name.startswith((_UNFINISHED, _PRUNED)):
                shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        other, taken = path.with_name(_DAMAGED + path.name), 1
        while other.exists():
            other, taken = path.with_name(f"{_DAMAGED}{path.name}_{taken}"), taken + 1
        try:
            path.rename(other)
        except OSError as error:
            logger.warning("%s could not be renamed (%s); it is left where it is", path, error)


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
        digest, size = hashlib.sha256(), 0
        with (path / name).open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
                size += len(block)
        _check(path / name, entry, size=size, digest=digest.hexdigest())


def _fill_folder(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write one part after the other: no more than one is in memory twice."""
    files, plain = {}, {}
    for name, part in parts.items():
        if not _FILE.fullmatch(f"{name}.safetensors"):
            raise ValueError(f"a part of the training state is called {name!r}: use a to z and _ only")
        tensors, plain[name] = flatten_state(part, name=name)
        if tensors:
            require_space(folder, count_bytes(tensors))
            files[f"{name}.safetensors"] = _write_file(folder / f"{name}.safetensors", save(tensors))
    text = json.dumps(plain, allow_nan=False).encode()
    require_space(folder, len(text))
    files[PLAIN] = _write_file(folder / PLAIN, text)
    manifest = {"format": FORMAT, "versions": describe_versions(), "files": files}
    signed = {**manifest, "sha256": _hash_manifest(manifest)}
    _write_file(folder / MANIFEST, json.dumps(signed, sort_keys=True, indent=1).encode())
    flush_folder(folder)


def _write_file(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
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
        raise CheckpointError(f"{path} has the format {version}; this version reads {FORMAT}")
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
