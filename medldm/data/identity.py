"""Identify subjects without saying who they are: the user's own identifiers, or keyed hashes.

A plain hash of a patient number can be undone by hashing all numbers. A keyed hash (HMAC-SHA256) cannot
without the key. The key stays outside every output, readable by its owner only; who has it can link outputs
to patients.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from pathlib import Path

from medldm.errors import ConfigError

logger = logging.getLogger(__name__)

KEY_BYTES = 32
_HASH_DIGITS = 12
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def default_key_file() -> Path:
    """Return $XDG_CONFIG_HOME/medldm/identity.key, or ~/.config/medldm/identity.key."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "medldm" / "identity.key"


def load_key(key_file: str | Path | None = None, *, forbidden: tuple[Path, ...] = ()) -> bytes:
    """Read the key, or make one on the first call.

    Args:
        key_file: a file of at least 16 bytes; `default_key_file` where None.
        forbidden: folders in which the key must not lie, such as the output.

    Returns:
        The file's bytes.

    Raises:
        ConfigError: for a key inside a forbidden folder or one that is too short.
    """
    path = Path(key_file).expanduser() if key_file is not None else default_key_file()
    for folder in forbidden:
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                "the identity key lies in the input or output folder, where it would be shared with the "
                "data; choose another key_file"
            )
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) < 16:
        raise ConfigError(
            f"the identity key has {len(key)} bytes; at least 16 are needed; restore or remove the file"
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        logger.warning("the identity key can be read by others than its owner; run chmod 600 on it")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    logger.info("made a new identity key; keep it to get the same subject identifiers again")


def keyed_hash(value: str, *, key: bytes, purpose: str, digits: int = _HASH_DIGITS) -> str:
    """Hash a text with the key.

    Args:
        value: what must not be known.
        key: from `load_key`.
        purpose: hashes of the same value for different purposes cannot be linked.
        digits: of 4 bits each.

    Returns:
        Hexadecimal digits.

    Source: RFC 2104 (HMAC), FIPS 180-4 (SHA-256).
    """
    return hmac.new(
        key, f"{purpose}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256
    ).hexdigest()[:digits]


def subject_identifier(value: str, *, key: bytes) -> str:
    """Return "sub-" and 12 hexadecimal digits, the same for the same value and key."""
    return f"sub-{keyed_hash(value, key=key, purpose='subject')}"


def check_identifier(identifier: str) -> str:
    """Refuse an identifier that cannot be a file name.

    Raises:
        ConfigError: without repeating it, because it may be a name.
    """
    if not _IDENTIFIER.fullmatch(identifier) or ".." in identifier:
        raise ConfigError(
            f"a subject identifier of {len(identifier)} characters is no plain name; letters, digits, '.', "
            "'_' and '-' are allowed, up to 64, the first a letter or digit"
        )
    return identifier
