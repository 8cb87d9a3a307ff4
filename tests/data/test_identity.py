from __future__ import annotations

import hashlib
import hmac
import logging
import stat
from pathlib import Path

import pytest

from medldm.data.identity import check_identifier, default_key_file, keyed_hash, load_key, subject_identifier


def test_hash_is_hmac_sha256_of_purpose_and_value() -> None:
    expected = hmac.new(b"k" * 32, b"subject\0PAT-1", hashlib.sha256).hexdigest()[:12]
    assert subject_identifier("PAT-1", key=b"k" * 32) == f"sub-{expected}"
    assert keyed_hash("PAT-1", key=b"k" * 32, purpose="source") != expected
    assert subject_identifier("PAT-1", key=b"j" * 32) != f"sub-{expected}"


def test_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "key"
    first = load_key(path)
    assert len(first) == 32 and load_key(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_default_key_lies_in_the_configuration_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_key_file() == tmp_path / "medldm" / "identity.key"
    assert load_key() == default_key_file().read_bytes()


def test_key_inside_the_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shared with the data"):
        load_key(tmp_path / "out" / "key", forbidden=(tmp_path / "out",))


def test_short_key_is_refused_and_open_key_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="5 bytes"):
        load_key(path)
    path.write_bytes(b"k" * 32)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        load_key(path)
    assert "chmod 600" in caplog.text


def test_unsafe_identifier_is_refused_without_being_repeated() -> None:
    assert check_identifier("S-01_a.b") == "S-01_a.b"
    with pytest.raises(ValueError) as caught:
        check_identifier("Jane Doe")
    assert "Jane" not in str(caught.value)
