"""A random key for each cache whose entries are found by what nobody is to know: paths, texts.

A plain hash of a path is undone by hashing all paths that there could be: a folder named by a patient number
of seven digits within seconds. Under a key that only the cache's owner can read it is not.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from medldm.data.identity import KEY_BYTES, keyed_hash
from medldm.errors import StorageError
from medldm.files import write_atomically

logger = logging.getLogger(__name__)

KEY_NAME = "cache.key"


def cache_key(folder: Path) -> bytes:
    """Return the key of the cache in a folder, made on the first call.

    Args:
        folder: of the cache; made where it is missing.

    Returns:
        32 random bytes. Where they cannot be kept, others in each run: nothing is found again. A key that
        others can read, or that is no file, is replaced, and the cache made anew.
    """
    path = folder / KEY_NAME
    key = _read(path)
    if key is None:
        key = secrets.token_bytes(KEY_BYTES)
        try:
            write_atomically(path, key, is_private=True)
            key = _read(path) or key  # of two processes that made one, both take the same
        except StorageError as error:
            logger.debug("the cache in %s cannot be remembered: %s", folder, error)
    return key


def cache_name(text: str, *, key: bytes) -> str:
    """Return what stands for a text in the names of a cache: 32 hexadecimal digits, HMAC-SHA256."""
    return keyed_hash(text, key=key, purpose="cache", digits=32)


def _read(path: Path) -> bytes | None:
    try:
        status = path.lstat()
        is_open = os.name == "posix" and bool(status.st_mode & 0o077)
        if is_open or not stat.S_ISREG(status.st_mode) or status.st_size != KEY_BYTES:
            return None
        return path.read_bytes()
    except OSError:
        return None
