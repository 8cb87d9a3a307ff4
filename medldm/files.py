"""Write files whole or not at all: temporary name, flush to disk, rename; and walk a tree of them.

The only place that does either.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.errors import MedldmError, StorageError

if TYPE_CHECKING:
    import numpy as np

_TEMPORARY, _REPLACED = ".writing-", ".replaced-"
_LEFTOVER = re.compile(rf"{re.escape(_TEMPORARY)}[0-9a-f]+(\..*)?")
_SPARE_BYTES = 2**20
_BLOCK_BYTES = 2**20


@contextmanager
def atomic_file(path: str | Path, *, is_private: bool = False) -> Iterator[Path]:
    """Give an empty file to write to, and put it in the place of `path` where the block ends without error.

    Until then `path` stays as it was. A killed process leaves the temporary file, see `remove_leftovers`.

    Args:
        path: of the file; its folder is made where it is missing.
        is_private: make the file readable by its owner only.

    Yields:
        The temporary file: in the same folder, with the same last suffixes.

    Raises:
        StorageError: if the folder or the file cannot be written.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_file(folder / "report.txt") as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> (folder / "report.txt").read_text()
        'all of it'
    """
    path = Path(path)
    temporary = path.with_name(f"{_temporary_name()}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made here, so that the file has the permissions of the user's umask, whoever writes into it.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if is_private else 0o666))
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise name_cause(path, error) from error
    finally:
        if temporary.is_file():
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill, and put it at `path`, which must be free, where the block ends well.

    A killed process leaves the temporary folder, see `remove_leftovers`.

    Yields:
        The temporary folder, beside `path`.

    Raises:
        StorageError: if the folder cannot be made or filled.
    """
    path = Path(path)
    temporary = path.with_name(_temporary_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        flush_folder(temporary)
        temporary.rename(path)
        flush_folder(path.parent)
    except OSError as error:
        raise name_cause(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """Do as `atomic_folder`, and let the new folder take the place of one that is there.

    That one stays as it is until the new one is whole and on the disk. Where a kill strikes between the two
    renames it lies beside, as `.replaced-<name>`, and comes back when the folder is replaced the next time.

    Yields:
        The temporary folder, beside `path`.

    Raises:
        StorageError: if the folder cannot be made or filled.
    """
    path = Path(path)
    old, temporary = path.with_name(f"{_REPLACED}{path.name}"), path.with_name(_temporary_name())
    try:
        if old.exists() and not path.exists():
            old.rename(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        flush_folder(temporary)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
        flush_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise name_cause(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name() -> str:
    return f"{_TEMPORARY}{secrets.token_hex(8)}"


def name_cause(path: Path, error: OSError) -> OSError:
    """Return what the system says of a file or folder to write as an error that says what to do."""
    if isinstance(error, MedldmError):
        return error
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}): check the folder's permissions and the room "
        "on its disk, or choose another output folder"
    )


def write_atomically(path: str | Path, content: bytes, *, is_private: bool = False) -> None:
    """Write a file whole or not at all; with `is_private`, readable by its owner only.

    Raises:
        StorageError: if the disk has no room for it, or the folder or the file cannot be written.
    """
    with atomic_file(path, is_private=is_private) as temporary:
        require_space(temporary.parent, len(content))
        temporary.write_bytes(content)


def move_file(source: Path, path: Path) -> None:
    """Put a whole file in the place of another one, in folders of one disk.

    Raises:
        StorageError: if it cannot be moved.
    """
    try:
        source.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        raise name_cause(path, error) from error


def is_clutter(path: str | Path) -> bool:
    """Say whether macOS left a file beside others: AppleDouble files "._*", and .DS_Store.

    "._scan.nii.gz" has the ending of a volume and holds none; every listing of data passes it over.
    """
    name = Path(path).name
    return name.startswith("._") or name == ".DS_Store"


def walk_files(root: Path) -> Iterator[Path]:
    """Yield the regular files below a folder in a fixed order; folders already seen are not entered again.

    What macOS leaves beside files, `._*` and `.DS_Store`, is not data and is skipped.
    """
    if root.is_file():
        yield root
        return
    seen: set[str] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        for name in sorted(files):
            path = Path(folder) / name
            if path.is_file() and not is_clutter(path):
                yield path


def is_leftover(path: Path) -> bool:
    """Say whether a file or folder is called as the temporary ones of this module are."""
    return _LEFTOVER.fullmatch(path.name) is not None


def remove_leftovers(folder: Path, *, is_deep: bool = False) -> None:
    """Remove the temporary files and folders that a killed process has left in a folder.

    What only looks like one, such as a folder `.writing-notes`, stays. The caller sees to it that nobody else
    writes there meanwhile, see `medldm.runtime.output_lock`.

    Args:
        folder: to look in; nothing happens where there is none.
        is_deep: look in all folders below it, too; links are not followed.
    """
    for place, folders, names in os.walk(folder):
        left = [name for name in folders if _LEFTOVER.fullmatch(name)]
        folders[:] = [name for name in folders if name not in left] if is_deep else []
        for path in (Path(place) / name for name in [*left, *filter(_LEFTOVER.fullmatch, names)]):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, so that a file renamed in it survives a power cut."""
    _flush(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
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


def require_writable(folder: str | Path, *, parts: Iterable[str] = ()) -> None:
    """Refuse an output folder that cannot be written into, before the work; nothing is made.

    Args:
        folder: which may not be there yet; it may be a link itself, as the user named it.
        parts: folders in it that are written into; a link in the place of one leads elsewhere.

    Raises:
        StorageError: naming what stands in the way.
    """
    path = Path(folder).absolute()
    for part in (path / each for each in parts):
        if part.is_symlink():
            raise StorageError(
                f"{part} is a link: what is written would land in {part.resolve()}; remove it, or choose "
                "that place as the output"
            )
    present = next((each for each in (path, *path.parents) if each.exists() or each.is_symlink()), path)
    if not present.is_dir():
        raise StorageError(f"{present} is no folder, so that {path} cannot be one: choose another output")
    if not os.access(present, os.W_OK | os.X_OK):
        raise StorageError(
            f"{present} cannot be written into (permissions, or a file system that is read-only): choose "
            "another output"
        )


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_array(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's type, shape and values, whatever its layout in memory."""
    digest = hashlib.sha256(f"{array.dtype}|{array.shape}|".encode())
    contiguous = array if array.flags.c_contiguous else array.copy(order="C")
    digest.update(contiguous.reshape(-1).view("u1").data)
    return digest.hexdigest()
