"""Copy a bundle, for one's own cohort."""

from __future__ import annotations

import shutil
from pathlib import Path

from medldm.errors import MissingFileError, OutputExistsError
from medldm.files import atomic_folder
from medldm.sharing.shipped import Bundle

PARTS = ("configs", "docs", "LICENSE")


def copy_bundle(bundle: Bundle, output_dir: str | Path, *, with_weights: bool = False) -> Path:
    """Copy a bundle's configs, pages and licence to a folder that is absent or empty.

    Args:
        bundle: to copy.
        output_dir: becomes a bundle of its own, with `models/` empty.
        with_weights: copy `models/` too.

    Returns:
        The folder.

    Raises:
        OutputExistsError: if the folder holds something.
        MissingFileError: if weights are asked for and the bundle has none.
    """
    output_dir = Path(output_dir)
    require_free(output_dir)
    if with_weights and not bundle.has_weights:
        raise MissingFileError(
            f"the bundle {bundle.name} has no weights in models/: leave out --with-weights, and train"
        )
    with atomic_folder(output_dir) as folder:
        for part in (*PARTS, "models") if with_weights else PARTS:
            copy_part(bundle.path / part, folder / part)
        (folder / "models").mkdir(exist_ok=True)
    return output_dir


def require_free(folder: Path) -> None:
    """Refuse an output folder that holds something.

    Raises:
        OutputExistsError: naming it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(f"{folder} is not empty: choose a folder that is absent or empty")


def copy_part(source: Path, target: Path) -> None:
    """Copy a file or a folder with its content, permissions aside: those of an installation may be strict."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=_list_clutter)
    elif source.is_file():
        shutil.copyfile(source, target)


def _list_clutter(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".") or name == "__pycache__"]
