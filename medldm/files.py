"""Write files whole or not at all: temporary name, flush to disk, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from medldm.errors import StorageError

_SPARE_BYTES = 2**20


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name in its folder, flush it to disk, and rename it into place.

    Raises:
        StorageError: if the disk has no room for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, len(content))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        flush_folder(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, so that a file renamed in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_space(folder: Path, n_bytes: int) -> None:
    """Refuse to begin writing what the disk has no room for.

    Raises:
        StorageError: naming the folder, what is free and what is needed.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes + _SPARE_BYTES:
        raise StorageError(
            f"the disk of {folder} has {free / 1e6:.1f} MB free; {(n_bytes + _SPARE_BYTES) / 1e6:.1f} MB are "
            "needed: free some space, or choose another output folder"
        )
