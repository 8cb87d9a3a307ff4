"""What a cache is found by cannot be guessed without its key, which its owner alone can read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from medldm.data.cache_key import KEY_NAME, cache_key, cache_name
from medldm.data.file_info_cache import CACHE_VARIABLE, gather_file_info


def names_in(folder: Path) -> str:
    return " ".join([path.name + path.read_bytes().decode("latin-1") for path in folder.iterdir()])


def test_the_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key = cache_key(tmp_path / "cache")
    assert len(key) == 32
    assert cache_key(tmp_path / "cache") == key != cache_key(tmp_path / "other")
    if os.name == "posix":
        assert (tmp_path / "cache" / KEY_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("spoil", ["readable by others", "short", "a link", "a folder"])
def test_a_key_that_is_none_is_replaced(tmp_path: Path, spoil: str) -> None:
    key, path = cache_key(tmp_path), tmp_path / KEY_NAME
    if spoil == "readable by others":
        path.chmod(0o644)
    elif spoil == "short":
        path.write_bytes(b"a")
    else:
        path.unlink()
        path.symlink_to(tmp_path / "planted") if spoil == "a link" else path.mkdir()
        (tmp_path / "planted").write_bytes(bytes(32))
    found = cache_key(tmp_path)
    assert found not in (key, bytes(32))
    assert len(found) == 32
    if spoil != "a folder":
        assert cache_key(tmp_path) == found
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_patient_number_in_a_path_is_not_recovered(make_cohort, monkeypatch, tmp_path) -> None:
    """Who has the cache and hashes all numbers finds nothing; under the key the same guess finds it."""
    cohort = make_cohort(names=["case_0"]).rename(tmp_path / "patient_0042")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    file = str(cohort / "images" / "case_0.nii.gz")
    known = gather_file_info([(file, False)], root=cohort)
    assert gather_file_info([(file, False)], root=cohort) == known
    stored = [path for path in (tmp_path / "cache").iterdir() if path.name != KEY_NAME]
    assert len(stored) == 1
    text = stored[0].name + stored[0].read_text()
    key = cache_key(tmp_path / "cache")
    from medldm.data.file_info_cache import _FORMAT, __version__

    for number in range(100):
        path = str(cohort).replace("0042", f"{number:04d}")
        for guess in (path, file.replace("0042", f"{number:04d}")):
            for prefix in ("", f"{_FORMAT}:{__version__}:", f"{_FORMAT}:{__version__}:False:", "False:"):
                plain = hashlib.sha256(f"{prefix}{guess}".encode()).hexdigest()
                assert plain[:12] not in text
                assert (cache_name(f"{prefix}{guess}", key=key) in text) <= (number == 42)
    assert cache_name(f"{_FORMAT}:{__version__}:{cohort}", key=key) in text
    if os.name == "posix":
        assert stored[0].stat().st_mode & 0o777 == 0o600


def test_a_cache_that_cannot_be_kept_works_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    first, second = (cache_key(tmp_path / "file" / "cache") for _ in range(2))
    assert len(first) == 32
    assert first != second
