"""Folders of training state that survive a kill at any moment: `step_00000120/`, see `state_files`.

The state at the end of a training, after its last validation, is `step_00000300_ended/`. A folder is written
under a temporary name, flushed, renamed and read again; only then are older ones removed.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.errors import CheckpointError, ConfigError
from medldm.files import atomic_folder, remove_leftovers
from medldm.training.resume.state_files import (
    FormatError,
    StateError,
    fill_folder,
    read_folder,
    verify_folder,
)

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"step_(\d{8,})(_ended)?")
_PRUNED, _DAMAGED = ".old_", "damaged_"


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
        """Return the folders by their step, the newest first; whether they are valid is not looked at.

        Of two of one step, that at the end of a training is the newer one.
        """
        newest: dict[int, Path] = {}
        for step, path in self._find():
            newest.setdefault(step, path)
        return newest

    def _find(self) -> list[tuple[int, Path]]:
        """Return the step and the path of each folder, the newest first."""
        if not self.directory.is_dir():
            return []
        matches = [(_FOLDER.fullmatch(path.name), path) for path in self.directory.iterdir()]
        found = [(int(match[1]), match[2] is not None, path) for match, path in matches if match is not None]
        return [(step, path) for step, _, path in sorted(found, reverse=True)]

    def save(self, parts: Mapping[str, Any], *, step: int, is_end: bool = False) -> Path:
        """Write a state; on return it is on the disk and was read again.

        Args:
            parts: name (a-z and _) to nested state, see `flatten_state`.
            step: batches trained; a valid state of this step that is there already is kept instead.
            is_end: whether the training has ended and nothing of it is left to do.

        Raises:
            StateError: if it could not be written; the older states are untouched.
        """
        final = self.directory / f"step_{step:08d}{'_ended' if is_end else ''}"
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
            FormatError: if the newest one is of another version.
            StateError: if there are states, but every one is damaged.
        """
        refused = []
        for step, path in self._find():
            try:
                return SavedState(step, path, read_folder(path))
            except FormatError:
                raise
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
        with atomic_folder(final) as temporary:
            fill_folder(temporary, parts)
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
        kept = list(self.steps().values())[: self.keep]
        for path in [path for _, path in self._find() if path not in kept]:
            # Renamed first: a kill while files are being removed must not leave half a state behind.
            path.rename(path.with_name(f"{_PRUNED}{path.name}"))
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.directory)
        for path in self.directory.glob(f"{_PRUNED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        other, taken = path.with_name(_DAMAGED + path.name), 1
        while other.exists():
            other, taken = path.with_name(f"{_DAMAGED}{path.name}_{taken}"), taken + 1
        try:
            path.rename(other)
        except OSError as error:
            logger.warning("%s could not be renamed (%s); it is left where it is", path, error)
