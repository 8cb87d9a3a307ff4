"""Keep the user's own list of which identifier stands for which file: private, beside the key, on request.

Outputs, messages and logs name nobody, so that they can be shared. Whoever made them must still be able to
find the file behind a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medldm.data.identity import default_key_file
from medldm.errors import ConfigError, StorageError
from medldm.files import write_atomically
from medldm.runtime.output_lock import locked_output

FILE_NAME = "private_list.json"
HOW_TO_FIND = (
    "to find their files, run the same command with --private-list: it writes which identifier stands for "
    "which file to a list that only you can read, beside the identity key"
)
IN_LIST = "their files stand under these names in your private list"
_WHAT = "which files the identifiers of medldm prepare stand for; keep this list private"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What one identifier stands for.

    Args:
        id: of the case, or the ordinal under which a refused source is listed.
        subject: identifier in the outputs; "" where the source became no case.
        files: it is read from.
        reason: why it was refused; "" where it was not.
    """

    id: str
    subject: str
    files: tuple[Path, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class PrivateList:
    """A file outside every input and output, readable by its owner only; it grows with each cohort.

    Args:
        path: of the file.
        output: the cohort's folder, under which its entries stand.
    """

    path: Path
    output: Path

    def write(self, origins: Iterable[Origin]) -> None:
        """Put these entries in the place of the cohort's earlier ones; whole or not at all.

        Raises:
            StorageError: if the file cannot be written.
            FolderInUseError: if another preparation writes it and does not end.
        """
        entries = {
            origin.id: {
                "subject": origin.subject,
                "files": [_text(file) for file in origin.files],
                "refused": origin.reason,
            }
            for origin in origins
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"the private list cannot be written ({error.strerror})") from error
        with locked_output(self.path.parent, work="private list"):
            # Read again, because the preparation of another cohort may have written meanwhile.
            outputs = {**_read(self.path), _text(self.output): entries}
            content = json.dumps({"what": _WHAT, "outputs": outputs}, indent=1, ensure_ascii=False)
            write_atomically(self.path, f"{content}\n".encode("utf-8", "surrogateescape"), is_private=True)


def open_private_list(
    choice: bool | str | Path,
    *,
    key_file: str | Path | None,
    output: Path,
    forbidden: tuple[Path, ...],
) -> PrivateList | None:
    """Find and judge the private list, before anything is converted.

    Args:
        choice: False for none, True for `private_list.json` beside the key, or a file.
        key_file: of the run; None for the default key.
        output: the cohort's folder.
        forbidden: folders in which the list must not lie, because they are shared.

    Raises:
        ConfigError: for a place inside a forbidden folder, a folder, or a file that is no such list.
    """
    if choice is False:
        return None
    if choice is True:
        key = Path(key_file).expanduser() if key_file is not None else default_key_file()
        path = key.with_name(FILE_NAME)
    else:
        path = Path(choice).expanduser()
    for folder in forbidden:
        if path.resolve().is_relative_to(folder.expanduser().resolve()):
            raise ConfigError(
                "the private list lies in the input or output folder, where it would be shared with the "
                "data; choose another place for private_list"
            )
    if path.is_dir():
        raise ConfigError("the private list is a folder; name a file, such as private_list.json")
    _read(path)
    return PrivateList(path=path.resolve(), output=output)


def _read(path: Path) -> Mapping[str, Any]:
    """Return the entries of all cohorts, none where there is no file yet."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
        if content["what"] == _WHAT and isinstance(content["outputs"], dict):
            return content["outputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ConfigError(
        "the file named as private list exists and is none, or is damaged; it is left as it is: choose "
        "another name, or move it away"
    )


def _text(path: Path) -> str:
    return str(path.expanduser().absolute())
