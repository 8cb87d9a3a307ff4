"""Remember what is known of a cohort's files, by their size and time of change, between runs.

The cache holds hashes, shapes and counts, no names and no paths; files are found by keyed hashes of their
paths, see `medldm.data.cache_key`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from platformdirs import user_cache_path

from medldm.data.cache_key import cache_key, cache_name
from medldm.data.file_info import FileInfo, inspect_voxels
from medldm.files import write_atomically
from medldm.runtime.json_files import read_json
from medldm.version import __version__

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "MEDLDM_CACHE_DIR"
_FORMAT = 6
_N_WORKERS = 2  # files read at a time, one volume in memory for each

Remembered = dict[str, tuple[str, FileInfo]]


def default_cache_dir() -> Path:
    """Return $MEDLDM_CACHE_DIR, else the system's folder for caches, on Linux ~/.cache/medldm."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else user_cache_path("medldm", appauthor=False)


def gather_file_info(files: Iterable[tuple[str, bool]], *, root: Path) -> dict[str, FileInfo]:
    """Look at every voxel of every file, or remember having done so.

    Args:
        files: (path, whether it is a label map).
        root: the cohort's folder, which names the cache file by its hash.

    Returns:
        Path -> what is known of the file.
    """
    folder = default_cache_dir()
    named = _Names(cache_key(folder))
    store = folder / f"cohort-{named.hash(str(root))}.json"
    remembered = _read(store)
    wanted = list(dict.fromkeys(files))
    states = {key: named.state(key[0]) for key in wanted}
    unknown = [key for key in wanted if remembered.get(named.file(*key), ("", None))[0] != states[key]]
    if unknown:
        with ThreadPoolExecutor(max_workers=_N_WORKERS) as pool:
            found = list(pool.map(lambda key: inspect_voxels(key[0], is_label=key[1]), unknown))
        remembered |= {
            named.file(*key): (states[key], info) for key, info in zip(unknown, found, strict=True)
        }
        _write(store, remembered)
    return {key[0]: remembered[named.file(*key)][1] for key in wanted}


class _Names:
    """Names in the cache, under its key."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def hash(self, text: str) -> str:
        # Another version may refuse what this one takes, or read it otherwise.
        return cache_name(f"{_FORMAT}:{__version__}:{text}", key=self.key)

    def file(self, path: str, is_label: bool) -> str:
        return self.hash(f"{is_label}:{path}")

    def state(self, path: str) -> str:
        """Hash the file's size, number and times, also that which no program can set back."""
        try:
            status = Path(path).stat()
        except OSError:
            return "absent"
        return self.hash(f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}")


def _read(store: Path) -> Remembered:
    try:
        content = read_json(store)
        return {name: (state, FileInfo.from_dict(values)) for name, (state, values) in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning(
            "the cache of the check is not readable (%s); the check runs anew", type(error).__name__
        )
        return {}


def _write(store: Path, remembered: Remembered) -> None:
    content = json.dumps({name: (state, info.to_dict()) for name, (state, info) in remembered.items()})
    try:
        write_atomically(store, content.encode(), is_private=True)
    except OSError as error:
        logger.warning("the cohort check cannot be remembered: %s", error)
