"""What `torch.save` writes, looked at before it is opened: nothing in it runs, and it holds what it weighs.

A `.pt` file is a zip archive, not compressed, of one pickle and the bytes of the tensors. torch's restricted
loader runs no code of a file; what a file could still do is to ask for memory that it does not fill. So the
archive's directory is read first, then the names that its pickle calls, and last the sizes of its tensors.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from medldm.errors import CheckpointError

_ALLOWED = ("collections.OrderedDict", "torch.Size", "torch.device", "torch.storage.UntypedStorage")
_REBUILD = tuple(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "parameter"))
_DTYPES = {str(dtype) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
_FAILURES = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, MemoryError)
_MAX_ENTRIES = 100_000


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_archive(path: Path) -> Any:
    """Read a file of `torch.save` through torch's restricted loader, after looking at what it asks for.

    Args:
        path: of an archive.

    Returns:
        Tensors in plain containers, on the CPU.

    Raises:
        CheckpointError: for an archive that is damaged, compressed, or calls for more than tensors.
    """
    _check_pickle(_read_directory(path), path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_FAILURES, UnpicklingError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a readable archive of tensors ({_first_line(error)}): save the state dict alone, "
            "torch.save(module.state_dict(), path)"
        ) from error


def check_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are more than their file: views of a few values as many, or of no values at all.

    Raises:
        CheckpointError: naming a tensor.
    """
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(
                f"{path}: {name} is a {tensor.layout} tensor on {tensor.device}: save a plain one"
            )
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if n_bytes > path.stat().st_size:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes and describes tensors of {n_bytes}: it is damaged or "
            "hostile"
        )


def _read_directory(path: Path) -> bytes:
    """Return the pickle of an archive whose entries are together no larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            n_bytes = sum(entry.file_size for entry in entries)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(f"{path} is a compressed archive, which torch.save never writes")
            if n_bytes > path.stat().st_size or len(entries) > _MAX_ENTRIES:
                raise CheckpointError(
                    f"{path} has {path.stat().st_size} bytes, its {len(entries)} entries claim {n_bytes}: it "
                    "is damaged or hostile"
                )
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is no archive of torch.save: it has {len(pickles)} data.pkl")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is not a whole archive of torch.save ({_first_line(error)}): copy or download it again"
        ) from error


def _check_pickle(content: bytes, path: Path) -> None:
    """Refuse a pickle that names anything but tensors and plain containers; it is read, not run."""
    try:
        called = {
            str(argument).replace(" ", ".") if name == "GLOBAL" else name
            for name, argument in ((code.name, argument) for code, argument, _ in pickletools.genops(content))
            if name in _NAMING
        }
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the pickle in {path} is damaged ({_first_line(error)})") from error
    foreign = sorted(name for name in called if not _is_allowed(name))
    if foreign:
        raise CheckpointError(
            f"{path} holds more than tensors in plain containers, it calls for {foreign[:3]}: nothing of it "
            "was run; save the state dict alone, torch.save(module.state_dict(), path)"
        )


def _is_allowed(name: str) -> bool:
    is_storage = name.startswith("torch.") and name.endswith("Storage") and name.count(".") == 1
    return name in _ALLOWED or name in _REBUILD or name in _DTYPES or is_storage


def _first_line(error: BaseException) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no words'}"[
            :200
        ]
    )
