"""Group frames into stacks: by series and geometry first, then into the volumes of a 4D series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from medldm.data.dicom.attributes import VOLUME_TAGS
from medldm.data.dicom.frames import Frame
from medldm.data.dicom.geometry import ORIENTATION_TOLERANCE, SAME_PLACE_MM

_FIRST_KEYS = """
    SOPInstanceUID TemporalPositionIdentifier TemporalPositionIndex EffectiveEchoTime FrameType ImageType
    InversionTimes DiffusionDirectionality FrameAcquisitionNumber NominalCardiacTriggerDelayTime
    """
_KEY_ORDER = (*_FIRST_KEYS.split(), *map(str, VOLUME_TAGS[1:]))
_MAX_KEYS = 3
_ALIKE = "rows columns samples sop_class modality is_mosaic is_localizer is_projection"


def group_by_geometry(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Group the frames of one series by size, spacing, pixel format and orientation.

    Orientations within 1e-4 of each other, component by component, are one: they are rounded decimal strings.

    Source: (0020,0037) Image Orientation (Patient); PS3.3 C.7.6.2.1.1.
    """
    groups: list[list[Frame]] = []
    for frame in frames:
        group = next((group for group in groups if _is_like(frame, group[0])), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return groups


def _is_like(frame: Frame, other: Frame) -> bool:
    if any(getattr(frame.image, name) != getattr(other.image, name) for name in _ALIKE.split()):
        return False
    return _is_near(frame.orientation, other.orientation, tolerance=2 * ORIENTATION_TOLERANCE) and _is_near(
        frame.spacing, other.spacing, tolerance=ORIENTATION_TOLERANCE
    )


def _is_near(one: tuple[float, ...] | None, two: tuple[float, ...] | None, *, tolerance: float) -> bool:
    if one is None or two is None:
        return one is two
    return max(abs(a - b) for a, b in zip(one, two, strict=True)) <= tolerance


def places_of(frames: Sequence[Frame]) -> np.ndarray:
    """Number the places along the normal: (N,) int, equal for frames that share one."""
    directions = np.array(frames[0].orientation, dtype=np.float64).reshape(2, 3)
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    distances = positions @ np.cross(*directions)
    order = np.argsort(distances, kind="stable")
    steps = np.diff(distances[order], prepend=distances[order[0]])
    numbers = np.empty(len(frames), dtype=int)
    numbers[order] = np.cumsum(steps >= SAME_PLACE_MM)
    return numbers


def split_volumes(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split the frames of one geometry into volumes, where several frames share a place.

    An attribute, or two or three together, must split them into exactly as many volumes as frames share the
    fullest place, none with two frames in one place. Time point, echo, image type, b-value and the like are
    tried in order of trust. Without such an attribute the frames stay together, and their duplicated places
    are refused later.

    Source: PS3.3 C.7.6.16.2.2 Frame Content, C.8.3.1 MR Image, (0020,0100) Temporal Position Identifier.
    """
    if len(frames) < 2 or any(frame.position is None or frame.orientation is None for frame in frames):
        return [list(frames)]
    places = places_of(frames)
    n_volumes = max(Counter(places.tolist()).values())
    if n_volumes == 1:
        return [list(frames)]
    names = [name for name in _KEY_ORDER if len({frame.volume_keys.get(name) for frame in frames}) > 1]
    for n_keys in range(1, _MAX_KEYS + 1):
        for chosen in combinations(names, n_keys):
            volumes = _split_by(frames, places, chosen)
            if len(volumes) == n_volumes and all(len(dict(volume)) == len(volume) for volume in volumes):
                return [[frame for _, frame in volume] for volume in volumes]
    return [list(frames)]


def _split_by(
    frames: Sequence[Frame], places: np.ndarray, names: Sequence[str]
) -> list[list[tuple[int, Frame]]]:
    """Return the volumes of frames alike in some attributes, each frame with its place."""
    volumes: dict[tuple[str | None, ...], list[tuple[int, Frame]]] = defaultdict(list)
    for frame, place in zip(frames, places.tolist(), strict=True):
        volumes[tuple(frame.volume_keys.get(name) for name in names)].append((place, frame))
    return list(volumes.values())
