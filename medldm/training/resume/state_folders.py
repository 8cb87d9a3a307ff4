"""Folders of training state that survive a kill at any moment: `step_00000120/`, see `state_files`.

The state at the end of a training, after its last validation, is `step_00000300_ended/`. A folder is written
under a temporary name, flushed, renamed and read again; only then are older ones removed.

Nothing is lost by a mistake. A state is set aside only if its bytes are proven to be others than were saved,
and a sound one is left to go on from. What cannot be read now, or was saved by another version, ends the
training and stays as it is. Folders that hold no state, whatever they are called, are not touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.errors import CheckpointError, ConfigError
from medldm.files import atomic_folder, is_leftover, remove_leftovers
from medldm.runtime.lock_file import LOCK
from medldm.training.resume.state_files import (
    DamagedStateError,
    StateError,
    fill_folder,
    foreign_files,
    is_state_folder,
    read_folder,
    remove_folder,
    verify_folder,
)

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"step_(\d{8,})(_ended)?")
_PRUNED, _DAMAGED = ".old_", "damaged_"
_SET_ASIDE = re.compile(rf"{_DAMAGED}{_FOLDER.pattern}(_\d+)?")
_OWN = re.compile(rf"({re.escape(_PRUNED)})?{_FOLDER.pattern}|{_SET_ASIDE.pattern}")
_BELOW = "states"
RECORD = "started_from.json"
"""What a training that begins with weights leaves beside its states; it moves with them."""


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
        directory: holds the folders, and nothing else; where other things lie in it, such as in an output
            folder, the folder `states` in it is taken.
        keep: how many to keep, at least 2, so that a damaged one is not the last.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        if keep < 2:
            raise ConfigError(f"keep is {keep}: at least 2 states must be kept, in case one is damaged")
        self.given = Path(directory)
        self.keep = keep
        self._directory: Path | None = None

    @property
    def directory(self) -> Path:
        """The folder that the states lie in."""
        if self._directory is None:
            self._directory = self.given if self._is_own(self.given) else self.given / _BELOW
        return self._directory

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
        matches = [(_FOLDER.fullmatch(path.name), path) for path in self._states()]
        found = [(int(match[1]), match[2] is not None, path) for match, path in matches if match is not None]
        return [(step, path) for step, _, path in sorted(found, reverse=True)]

    def _states(self) -> list[Path]:
        """Return all folders that are states, also those set aside or about to be removed.

        Raises:
            StateError: if the system does not let them be read.
        """
        try:
            return [path for path in _list(self.directory, _OWN) if is_state_folder(path)]
        except OSError as error:
            raise _unreadable(self.directory, error) from error

    def _is_own(self, directory: Path) -> bool:
        """Say whether states lie in a folder, or nothing but what belongs to states."""
        try:
            if any(is_state_folder(path) for path in _list(directory, _OWN)):
                return True
            return all(path.name in (RECORD, LOCK) or is_leftover(path) for path in _list(directory, None))
        except OSError as error:
            raise _unreadable(directory, error) from error

    def _refuse_unknown(self) -> None:
        """Refuse to begin anew beside a folder that is called like a state and is none that is known."""
        named = [*_list(self.given, _FOLDER), *_list(self.directory, _FOLDER)]
        for path in named:
            if not path.is_symlink() and not is_state_folder(path):
                raise StateError(
                    f"{path} is called like a training's state, but holds none that this version of medldm "
                    "knows: move it elsewhere, or start anew with resume: never, which leaves it where it is"
                )

    def _damaged(self) -> list[Path]:
        return sorted(path for path in self._states() if _SET_ASIDE.fullmatch(path.name))

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

    def load_newest(self, *, is_strict: bool = True) -> SavedState | None:
        """Read the newest sound state; damaged ones are set aside, with a line in the log for each.

        Args:
            is_strict: refuse folders that are called like a state and are none that is known; False passes
                them over.

        Returns:
            None if there never was one.

        Raises:
            FormatError: if the newest one is of another version.
            StateError: if there are states, but every one is damaged; or if one cannot be read now, or holds
                what does not belong there. All are left as they are then.
        """
        try:
            if is_strict:
                self._refuse_unknown()
        except OSError as error:
            raise _unreadable(self.directory, error) from error
        refused: list[tuple[Path, DamagedStateError]] = []
        for step, path in self._find():
            try:
                parts = read_folder(path)
            except DamagedStateError as error:
                refused.append((path, error))
            except OSError as error:
                raise _unreadable(path, error) from error
            else:
                for other, reason in refused:
                    logger.warning("the training state %s was set aside: %s", other, reason)
                    self._set_aside(other)
                return SavedState(step, path, parts)
        reasons = [f"{path.name}: {error}" for path, error in refused]
        reasons += [f"{path.name}: set aside earlier" for path in self._damaged()]
        if reasons:
            raise StateError(
                f"every training state in {self.directory} is damaged ({'; '.join(reasons)}): restore one "
                "from a copy, or start anew with resume: never, which moves them out of the way"
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
        """Move all states out of the way, beside the folder, the newest last; return where to.

        A folder that holds more than states is left where it is, and they are moved into one below it.
        """
        found = [path for _, path in reversed(self._find())]
        moved = [*sorted({*self._states()} - {*found}), *found]
        if not moved:
            return None
        record = [path for path in _list(self.directory, re.compile(re.escape(RECORD))) if path.is_file()]
        is_alone = {*_list(self.directory, None)} == {*moved, *record}
        other = _free_name(self.directory if is_alone else self.directory / _BELOW)
        if is_alone:
            self.directory.rename(other)
        else:
            other.mkdir()
            for path in [*record, *moved]:
                path.rename(other / path.name)
        self._directory = None
        return other

    def _write(self, final: Path, parts: Mapping[str, Any]) -> None:
        with atomic_folder(final) as temporary:
            fill_folder(temporary, parts)
        try:
            verify_folder(final)
        except DamagedStateError:
            self._set_aside(final)
            raise

    def _is_there(self, final: Path) -> bool:
        if not final.exists():
            return False
        if not is_state_folder(final):
            raise StateError(f"{final} is in the way, and is no training's state: move it elsewhere")
        try:
            verify_folder(final)
        except DamagedStateError as error:
            logger.warning("the training state %s was set aside: %s", final, error)
            self._set_aside(final)
            return False
        return True

    def _prune(self) -> None:
        kept = list(self.steps().values())[: self.keep]
        for path in [path for _, path in self._find() if path not in kept]:
            if others := foreign_files(path):
                logger.warning("%s is not removed: it holds %s, which are no files of a state", path, others)
                continue
            # Renamed first: a kill while files are being removed must not leave half a state behind.
            path.rename(path.with_name(f"{_PRUNED}{path.name}"))
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.directory)
        for path in _list(self.directory, re.compile(re.escape(_PRUNED) + _FOLDER.pattern)):
            if is_state_folder(path) and not foreign_files(path):
                remove_folder(path)

    def _set_aside(self, path: Path) -> None:
        other, taken = path.with_name(_DAMAGED + path.name), 1
        while other.exists():
            other, taken = path.with_name(f"{_DAMAGED}{path.name}_{taken}"), taken + 1
        try:
            path.rename(other)
        except OSError as error:
            logger.warning("%s could not be renamed (%s); it is left where it is", path, error)


def _list(directory: Path, name: re.Pattern[str] | None) -> list[Path]:
    """Return what lies in a folder and is called so; nothing where there is no folder."""
    try:
        return [path for path in directory.iterdir() if name is None or name.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _free_name(place: Path) -> Path:
    taken = 1
    while (other := place.with_name(f"{place.name}.before_{taken}")).exists():
        taken += 1
    return other


def _unreadable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"{path} cannot be read now ({error.strerror or error}): nothing says that it is damaged, and "
        "nothing was changed. See whether its disk or file server is well and who may read it, then run the "
        "same command again"
    )
