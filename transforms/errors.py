"""The errors of reading and transforming volumes; all of them are ValueErrors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medldm.errors import MedldmError


class VolumeError(MedldmError, ValueError):
    """Report a volume that is refused.

    Args:
        reason: what is wrong, the value found, what is allowed and what to do; never a path or a header text.
        file: the file refused; only its name enters the message, because folders may carry identities.
    """

    def __init__(self, reason: str, *, file: str | Path | None = None) -> None:
        self.reason = reason
        self.file = None if file is None else Path(file)
        super().__init__(reason if self.file is None else f"{self.file.name}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, so that errors cross the borders of worker processes."""
        return (_rebuild, (type(self), self.reason, self.file))


def _rebuild(kind: type[VolumeError], reason: str, file: Path | None) -> VolumeError:
    return kind(reason, file=file)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name the file in the volume errors of a block."""
    try:
        yield
    except VolumeError as error:
        raise type(error)(error.reason, file=path) from error


class UnsupportedVolumeError(VolumeError):
    """Report a format, data type or dimensionality that is not read."""


class HeaderError(VolumeError):
    """Report a header whose fields contradict the format."""


class VolumeTooLargeError(VolumeError):
    """Report a volume above the memory cap."""


class CorruptVolumeError(VolumeError):
    """Report a truncated or damaged file."""


class GeometryError(VolumeError):
    """Report an affine or a spacing that cannot be trusted."""


class VoxelValueError(VolumeError):
    """Report voxels that are NaN, infinite, or, in a label map, not integers."""
